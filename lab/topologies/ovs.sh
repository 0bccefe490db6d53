#!/bin/bash
# An Open vSwitch with a run directory of its own: ovs.sh start|stop|ovsdb-server|ovs-vswitchd DIRECTORY [COLUMN:KEY=VALUE...]
#
#   start          makes the database, sets the given columns of its Open_vSwitch row, starts both daemons
#   ovsdb-server, ovs-vswitchd
#                  starts that daemon (again) on the database that is there
#   stop           stops both and removes the datapath
#
# Open vSwitch's tools find it with OVS_RUNDIR=DIRECTORY. Logs are in DIRECTORY too.
set -eu

usage() {
	sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2
	exit 2
}
[ $# -ge 2 ] || usage
verb=$1
dir=$2
shift 2
export OVS_RUNDIR=$dir OVS_LOGDIR=$dir OVS_DBDIR=$dir

start_ovsdb_server() {
	ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --pidfile="$dir/ovsdb-server.pid" \
		--log-file="$dir/ovsdb-server.log" --detach --no-chdir -vconsole:off
}

# Before 3.2 (and 3.1's last updates) ovs-vswitchd does not read the number of processors in the first 10 s after boot
# (Open vSwitch commit b354cee2e): it starts without a handler thread, and misses go on being lost after that.
wait_for_processors() {
	case $(ovs-vswitchd --version) in
	*' 3.1.'*) while [ "$(cut -d. -f1 /proc/uptime)" -lt 11 ]; do sleep 0.2; done ;;
	esac
}

start_ovs_vswitchd() {
	wait_for_processors
	ovs-vswitchd "unix:$dir/db.sock" --pidfile="$dir/ovs-vswitchd.pid" \
		--log-file="$dir/ovs-vswitchd.log" --detach --no-chdir -vconsole:off
}

stop() { # DAEMON EXIT-ARGUMENTS: asks it to end, and kills it when it does not
	local pid
	pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 0
	timeout 10 ovs-appctl --timeout=5 -t "$1" exit $2 2>/dev/null || true
	for _ in $(seq 100); do
		[ -e "/proc/$pid" ] || return 0
		sleep 0.1
	done
	kill -KILL "$pid"
}

case $verb in
start)
	modprobe -a openvswitch sch_ingress cls_flower act_mirred act_gact act_pedit act_csum act_vlan act_tunnel_key \
		act_skbedit act_police act_ct 2>/dev/null || modprobe openvswitch
	mkdir -p "$dir"
	ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema
	start_ovsdb_server
	ovs-vsctl --no-wait -- init -- set Open_vSwitch . external_ids:system-id=lab "$@"
	start_ovs_vswitchd
	;;
ovsdb-server) start_ovsdb_server ;;
ovs-vswitchd) start_ovs_vswitchd ;;
stop)
	stop ovs-vswitchd --cleanup
	stop ovsdb-server ""
	# A daemon that was killed leaves its datapath, with its ports, in the kernel.
	if [ -e /sys/class/net/ovs-system ]; then ovs-dpctl del-dp ovs-system; fi
	;;
*) usage ;;
esac
