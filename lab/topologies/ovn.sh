#!/bin/bash
# OVN beside an Open vSwitch of ovs.sh: ovn.sh VERB DIRECTORY [OVS-DIRECTORY]
#
#   central        makes both databases and starts their servers and ovn-northd; the Southbound one listens on
#                  unix:DIRECTORY/sb.sock too
#   controller     starts ovn-controller, one for each DIRECTORY, on the Open vSwitch of OVS-DIRECTORY, whose external_ids
#                  say the rest
#   leave          has ovn-controller take its chassis and its tunnels away, and end
#   southbound     starts the Southbound server (again) on the database that is there
#   northd         starts ovn-northd (again)
#   stop           stops all of them, as far as they run
#
# ovn-nbctl and ovn-sbctl find the databases with OVN_RUNDIR=DIRECTORY. Logs are in DIRECTORY too.
set -eu

usage() {
	sed -n 's/^# \{0,1\}//; 2,14p' "$0" >&2
	exit 2
}
[ $# -ge 2 ] || usage
verb=$1
dir=$2
export OVN_RUNDIR=$dir OVN_LOGDIR=$dir

start_server() { # nb|sb
	ovsdb-server "$dir/$1.db" --remote="punix:$dir/$1.sock" --pidfile="$dir/$1.pid" --unixctl="$dir/$1.ctl" \
		--log-file="$dir/$1.log" --detach --no-chdir -vconsole:off
}

start_northd() {
	ovn-northd --ovnnb-db="unix:$dir/nb.sock" --ovnsb-db="unix:$dir/sb.sock" --pidfile="$dir/ovn-northd.pid" \
		--unixctl="$dir/ovn-northd.ctl" --log-file="$dir/ovn-northd.log" --detach --no-chdir -vconsole:off
}

stop_all() {
	local daemon pid
	for daemon in ovn-controller ovn-northd sb nb; do
		pid=$(cat "$dir/$daemon.pid" 2>/dev/null) || continue
		kill -TERM "$pid" 2>/dev/null || continue
		for _ in $(seq 100); do
			[ -e "/proc/$pid" ] || continue 2
			sleep 0.1
		done
		kill -KILL "$pid"
	done
}

case $verb in
central)
	mkdir -p "$dir"
	ovsdb-tool create "$dir/nb.db" /usr/share/ovn/ovn-nb.ovsschema
	ovsdb-tool create "$dir/sb.db" /usr/share/ovn/ovn-sb.ovsschema
	start_server nb
	start_server sb
	start_northd
	;;
controller)
	[ $# -eq 3 ] || usage
	mkdir -p "$dir"
	OVS_RUNDIR=$3 ovn-controller "unix:$3/db.sock" --pidfile="$dir/ovn-controller.pid" \
		--log-file="$dir/ovn-controller.log" --detach --no-chdir -vconsole:off
	;;
leave) ovs-appctl --timeout=30 -t "$dir/ovn-controller.$(cat "$dir/ovn-controller.pid").ctl" exit ;;
southbound) start_server sb ;;
northd) start_northd ;;
stop) stop_all ;;
*) usage ;;
esac
