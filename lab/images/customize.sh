#!/bin/sh
# Finishes a guest's tree, given as $1: what the lab mounts things on, and nothing the guest does not need.
set -eu
root=$1

mkdir -p "$root/lab" "$root/repository" "$root/share" "$root/logs"

# virtme-ng finds its pipes by the names that udev gives them under /dev/virtio-ports. A full udev coldplug takes most
# of a guest's start without KVM, and nothing else in the lab wants udev: this stands in for it.
mkdir -p "$root/usr/lib/systemd"
cat >"$root/usr/lib/systemd/systemd-udevd" <<'UDEVD'
#!/bin/sh
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/vport*; do
	read -r name 2>/dev/null <"$port/name" && ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
done
exit 0
UDEVD
printf '#!/bin/sh\nexit 0\n' >"$root/usr/bin/udevadm"
chmod 755 "$root/usr/lib/systemd/systemd-udevd" "$root/usr/bin/udevadm"

# Libreswan and what has it protect tunnels are unpacked, and not installed: the package conflicts with strongSwan's, for both
# would be the machine's IKE daemon. Here none is, and tests run either in namespaces. Where its libraries are, it is wanted.
if [ -x "$root/usr/bin/certutil" ]; then
	mkdir "$root/var/cache/beside"
	(cd "$root/var/cache/beside" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q download libreswan openvswitch-ipsec)
	for package in "$root"/var/cache/beside/*.deb; do dpkg-deb -x "$package" "$root"; done
	rm "$root"/var/cache/beside/*.deb
	# strongSwan as ovs-monitor-ipsec has it, by its starter: of the version of charon-systemd. It has /usr/sbin/ipsec, too, and a plugin
	# that no other charon is to load, so it is in a place of its own.
	(cd "$root/var/cache/beside" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q download strongswan-starter strongswan-charon)
	for package in "$root"/var/cache/beside/*.deb; do dpkg-deb -x "$package" "$root/opt/strongswan-starter"; done
	rm -r "$root/var/cache/beside"
fi

# Nothing in a guest may wait for a name server or a password.
echo '127.0.0.1 localhost lab' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"
echo lab >"$root/etc/hostname"

rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt/*
