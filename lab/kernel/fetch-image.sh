#!/bin/sh
# Unpacks, into /kernel of the build chroot given as $1, the kernel that its headers belong to. The package is not
# installed: that would bring an initramfs and a boot loader's hooks, which a guest has no use for.
set -eu
root=$1
version=$(basename "$(dirname "$(ls -d "$root"/usr/lib/modules/*/build | head -n 1)")")

mkdir -p "$root/kernel"
cd "$root/kernel"
# The chroot's package lists, with this machine's apt.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
# Since Linux 7 the image and its modules are packages of their own, on which linux-image depends.
packages=linux-image-$version
for part in linux-binary linux-modules; do
	if apt-cache show "$part-$version" >/dev/null 2>&1; then packages="$packages $part-$version"; fi
done
apt-get download -o APT::Sandbox::User=root $packages
for package in ./*.deb; do
	dpkg-deb -x "$package" .
	rm "$package"
done
