#!/bin/bash
# port.sh add NAME: a sub-function of simnic0 as NAME, and its representor as ovs-NAME.
# port.sh del ovs-NAME: removes both.
# port.sh netns NETNS: removes those that have their sub-function in a namespace which is about to go.
# /run/lab/sfN has the index of sub-function N's device.
set -eu
remove() {
	devlink port del "simnic/simnic0/$((32768 + $1))"
	rm -f "/run/lab/sf$1"
}
case $1 in
add)
	for number in $(seq 0 63); do
		if [ ! -e "/run/lab/sf$number" ]; then break; fi
	done
	# A test skips itself where it gets no port, and nobody would know.
	trap 'echo "no port $2" >>/logs/ports.failed; remove "$number"' ERR
	devlink port add simnic/simnic0 flavour pcisf pfnum 0 sfnum "$number" >/dev/null
	devlink port function set "simnic/simnic0/$((32768 + number))" state active
	until [ -e "/sys/class/net/sn0s$number/ifindex" ]; do sleep 0.05; done
	cat "/sys/class/net/sn0s$number/ifindex" >"/run/lab/sf$number"
	/usr/bin/ip link set "sn0s$number" name "$2"
	/usr/bin/ip link set "sn0pf0sf$number" name "ovs-$2"
	;;
del)
	read -r port <"/sys/class/net/$2/phys_port_name"
	remove "${port##*sf}"
	;;
netns)
	for file in /run/lab/sf[0-9]*; do
		if [ -e "$file" ] && /usr/bin/ip -n "$2" -o link 2>/dev/null | grep -q "^$(cat "$file"): "; then
			remove "${file##*sf}"
		fi
	done
	;;
esac
