#!/bin/bash
# port.sh add NAME: a sub-function of simnic0 as NAME, and its representor as ovs-NAME.
# port.sh del ovs-NAME: removes both.
set -eu
case $1 in
add)
	for number in $(seq 0 63); do
		if [ ! -e "/run/lab/sf$number" ]; then break; fi
	done
	: >"/run/lab/sf$number"
	devlink port add simnic/simnic0 flavour pcisf pfnum 0 sfnum "$number" >/dev/null
	devlink port function set "simnic/simnic0/$((32768 + number))" state active
	until [ -e "/sys/class/net/sn0s$number" ]; do sleep 0.05; done
	/usr/bin/ip link set "sn0s$number" name "$2"
	/usr/bin/ip link set "sn0pf0sf$number" name "ovs-$2"
	;;
del)
	read -r port <"/sys/class/net/$2/phys_port_name"
	number=${port##*sf}
	devlink port del "simnic/simnic0/$((32768 + number))"
	rm -f "/run/lab/sf$number"
	;;
esac
