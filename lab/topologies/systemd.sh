#!/bin/bash
# A systemd with a host's rights, as the first process of namespaces of its own: systemd.sh start DIRECTORY
#
#   DIRECTORY/units  every unit there is; it starts with lab.target
#   DIRECTORY/root   files that lie over the guest's, seen by it and its services only
#   DIRECTORY/shared directories of /run that it has in common with somebody: each a link, named as in /run
#
# Processes, mounts, cgroups and the host's name are its own; network, devices and /sys are the guest's. Whoever ends the
# first process ends all.
set -eu
dir=$2
case $1 in
start)
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
	# The root of its cgroups, as it will see them.
	mkdir -p /sys/fs/cgroup/systemd.sh
	echo $$ >/sys/fs/cgroup/systemd.sh/cgroup.procs
	exec unshare --cgroup --ipc --uts --pid --fork --kill-child --mount --mount-proc --propagation slave "$0" inside "$dir"
	;;
inside)
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	mkdir -p "$dir/run"
	mount -t tmpfs -o mode=755 tmpfs "$dir/run"
	for link in "$dir"/shared/*; do
		mkdir "$dir/run/${link##*/}"
		mount --rbind "$(readlink -f "$link")" "$dir/run/${link##*/}"
	done
	(cd "$dir/root" && find . -type f) | while read -r file; do
		[ -e "/$file" ] || touch "/$file"
		mount --bind "$dir/root/$file" "/$file"
	done
	# As on a host, where what the administrator mounts later, a network namespace, appears in the services' mounts.
	mount --make-rshared /
	units=$dir/units
	# DIRECTORY itself may be in /run; the units are still to be seen there.
	mkdir -p "$dir/run/lab-units"
	mount --bind "$units" "$dir/run/lab-units"
	mount --rbind "$dir/run" /run
	exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/run/lab-units \
		/usr/lib/systemd/systemd --system --unit=lab.target
	;;
*)
	sed -n 's/^# \{0,1\}//; 2,9p' "$0" >&2
	exit 2
	;;
esac
