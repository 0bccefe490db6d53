#!/bin/bash
# Runs one of Open vSwitch's test suites in the guest: run.sh SUITE [TESTS AND OPTIONS OF AUTOTEST...]
#
#   SUITE         system-offloads or system-kmod
#   LAB_DAEMON    with or without: whether ovs-offloadd runs beside each test
#   LAB_PORTS     veth, as the tests make them; or simnic, sub-functions of a NIC with an eswitch in their place
#   LAB_TC_POLICY what other_config:tc-policy is set to before a test; empty: it is not set
#
# Each test adds a line to /logs/results.tsv as it ends: number, result, seconds, title. What a failed test left is in
# /logs/failed/NUMBER.
set -u
suite=$1
shift
tree=/usr/src/openvswitch
mine=/run/lab/ovs-testsuite
mkdir -p "$mine" /logs/failed
rm -f /logs/ports.failed
cp /repository/lab/ovs-testsuite/{ovs-vswitchd,beside.sh} "$mine"
chmod 755 "$mine"/*

# A test asks for an option of the kernel where distributions have their kernel's options.
case $(uname -r) in *-lab-*) cp /repository/lab/kernel/ct.config "/boot/config-$(uname -r)" ;; esac

# Each test loads and removes a dozen modules, and modprobe reads its tables anew each time: not from the host.
modules=$(readlink -f "/lib/modules/$(uname -r)")
cp -rL "$modules" /run/lab/modules
mount --bind /run/lab/modules "$modules"

# Each test ends with a dozen modules and some namespaces removed, each of which waits for RCU: it need not wait long.
echo 1 >/sys/kernel/rcu_expedited

# The device node of tun is there once the module is, for there is no udev.
modprobe tun

if [ "$LAB_PORTS" = simnic ]; then
	cp /repository/lab/ovs-testsuite/{ip,port.sh} "$mine"
	chmod 755 "$mine"/*
	modprobe simnic
	echo '0 0' >/sys/bus/simnic/new_device
	devlink dev eswitch set simnic/simnic0 mode switchdev
fi

script=$tree/tests/$suite-testsuite
if [ -n "$LAB_TC_POLICY" ]; then
	# Tests that print other_config see the setting that is there besides theirs.
	sed -i 's/{hw-offload=\\"\(true\|false\)\\"}/{hw-offload=\\"\1\\", tc-policy='"$LAB_TC_POLICY}/" "$script"
fi

cd "$tree"
last=$EPOCHREALTIME
pattern='^ *([0-9]+): (.*[^ ]) +(ok|expected failure|skipped \(.*\)|FAILED \(.*\)|UNEXPECTED PASS)$'
bash "$script" -C tests AUTOTEST_PATH="$mine:utilities:vswitchd:ovsdb:vtep:tests" "$@" </dev/null 2>&1 | while IFS= read -r line; do
	printf '%s\n' "$line"
	if [[ $line =~ $pattern ]]; then
		now=$EPOCHREALTIME
		took=$(( (${now/./} - ${last/./}) / 100000 ))
		last=$now
		number=${BASH_REMATCH[1]}
		printf '%s\t%s\t%s.%s\t%s\n' "$number" "${BASH_REMATCH[3]}" $((took / 10)) $((took % 10)) "${BASH_REMATCH[2]}" >>/logs/results.tsv
		if [[ ${BASH_REMATCH[3]} == FAILED* ]]; then
			for left in tests/"$suite"-testsuite.dir/[0-9]*; do
				if [ "$((10#${left##*/}))" = "$number" ]; then cp -r "$left" /logs/failed/; fi
			done
		fi
	fi
done
flock /run/lab/beside.lock true
if [ -s /logs/ports.failed ]; then
	echo "run.sh: ports were not to be had, and tests skipped themselves for that:" >&2
	cat /logs/ports.failed >&2
	exit 1
fi
