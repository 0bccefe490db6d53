#!/bin/bash
# The demo topology: demo.sh up|down
#
#	 namespace vm0        namespace vm1                     namespace remote
#	 10.10.0.1 sn0v0      10.10.0.2 sn0v1                   10.10.0.100 sn1p0
#	        |                    |                                 |
#	 ------ VF 0 --------------- VF 1 ------ simnic0 -- wire -- simnic1 (a plain NIC)
#	        :                    :              :
#	 sn0pf0vf0            sn0pf0vf1          sn0p0          representors and uplink of simnic0, in switchdev mode
#	        '---------- bridge br0 -------------'           Open vSwitch: hw-offload=true, tc-policy=skip_hw
#
# VFs 2 and 3 are there, on the bridge too, and in no namespace: sn0v2, sn0v3. Open vSwitch is the one of OVS_RUNDIR
# (/var/run/openvswitch by default); it is started when it does not run. LAB_NIC=veth puts pairs of veth devices of the
# same names in the NIC's place: the same forwarding, and no hardware.
set -eu

OVS_RUNDIR=${OVS_RUNDIR:-/var/run/openvswitch}
export OVS_RUNDIR
vfs=4
nic=${LAB_NIC:-simnic}
here=$(dirname "$0")

make_nics() {
	if [ "$nic" = veth ]; then
		for vf in $(seq 0 $((vfs - 1))); do ip link add "sn0v$vf" type veth peer name "sn0pf0vf$vf"; done
		ip link add sn1p0 type veth peer name sn0p0
		return
	fi
	modprobe simnic
	echo "0 $vfs" >/sys/bus/simnic/new_device
	echo "1 0" >/sys/bus/simnic/new_device
	echo "0 1" >/sys/bus/simnic/wire
	devlink dev eswitch set simnic/simnic0 mode switchdev
}

remove_nics() {
	if [ "$nic" = veth ]; then
		for port in sn0p0 $(seq -f 'sn0pf0vf%.0f' 0 $((vfs - 1))); do ip link delete "$port" 2>/dev/null || true; done
		return
	fi
	for id in 1 0; do echo "$id" >/sys/bus/simnic/del_device 2>/dev/null || true; done
}

workload() { # NAMESPACE DEVICE ADDRESS
	ip netns add "$1"
	ip link set "$2" netns "$1"
	ip -n "$1" link set lo up
	ip -n "$1" address add "$3/24" dev "$2"
	ip -n "$1" link set "$2" up
}

up() {
	make_nics
	workload vm0 sn0v0 10.10.0.1
	workload vm1 sn0v1 10.10.0.2
	workload remote sn1p0 10.10.0.100
	if ! [ -S "$OVS_RUNDIR/db.sock" ]; then
		"$here/ovs.sh" start "$OVS_RUNDIR" other_config:hw-offload=true other_config:tc-policy=skip_hw
	fi
	ports=(sn0p0)
	for vf in $(seq 0 $((vfs - 1))); do ports+=("sn0pf0vf$vf"); done
	transaction=(--timeout=30 -- add-br br0)
	for port in "${ports[@]}"; do
		ip link set "$port" up
		transaction+=(-- add-port br0 "$port")
	done
	ovs-vsctl "${transaction[@]}"
	for _ in $(seq 20); do
		if ip netns exec vm0 ping -q -c 1 -W 1 10.10.0.100 >/dev/null && ip netns exec vm0 ping -q -c 1 -W 1 10.10.0.2 >/dev/null; then
			return 0
		fi
	done
	echo "demo.sh: vm0 does not reach vm1 and the remote host" >&2
	return 1
}

down() {
	ovs-vsctl --timeout=30 --if-exists del-br br0 2>/dev/null || true
	remove_nics
	for namespace in vm0 vm1 remote; do ip netns delete "$namespace" 2>/dev/null || true; done
}

case ${1:-} in
up) up ;;
down) down ;;
*)
	echo "usage: demo.sh up|down" >&2
	exit 2
	;;
esac
