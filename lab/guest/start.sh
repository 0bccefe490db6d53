#!/bin/bash
# The first program of a lab guest: completes the system, brings up the topology that was asked for, and runs the work.
# /lab/work, written by xtask, sets `topology`, the working directory, the environment and the function `work`.

export PATH=/run/lab/bin:/lab/topologies:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=${TERM:-linux} LANG=C.UTF-8
export OVS_RUNDIR=/var/run/openvswitch OVN_RUNDIR=/var/run/ovn
: >/logs/.started

# A program on the host's file system is read from there anew at each start, which takes 0.3 s for ovs-offloadctl.
mkdir -p /run/lab
cp -r /lab/bin /run/lab/

ip link set lo up
mkdir -p /run/openvswitch /run/ovn /var/log/openvswitch
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
# What a test leaves running must not fill the console, and a warning of the kernel must be seen by who looks for it.
sysctl -q -w kernel.printk='4 4 1 7' net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.core.rmem_max=33554432 2>/dev/null

# An emulated processor now and then runs the breakpoint by which the kernel patches its own text after it was taken out
# again, and the guest dies of it ("Oops: int3", in netif_receive_skb). So the static keys that tests would switch on and
# off all the time stay on: receive timestamps, which every ping wants, and the hooks of ingress and clsact.
hold_static_keys() {
	ip netns add static-keys
	ip -n static-keys link set lo up
	tc -n static-keys qdisc add dev lo clsact
	ip netns exec static-keys ping -q -i 3600 127.0.0.1 >/dev/null 2>&1 &
}
hold_static_keys

. /lab/work
if [ -n "$topology" ]; then
	"/lab/topologies/$topology.sh" up || { echo "the topology $topology did not come up" >&2; echo 2 >/logs/.status; exit 2; }
fi
work
status=$?
echo "$status" >/logs/.status
exit "$status"
