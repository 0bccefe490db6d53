#!/bin/sh
# Unpacks, into /kernel of the build chroot given as $1, the kernel that its headers belong to. The package is not
# installed: that would bring an initramfs and a boot loader's hooks, which a guest has no use for.
set -eu
root=$1
version=$(basename "$(dirname "$(ls -d "$root"/usr/lib/modules/*/build | head -n 1)")")

mkdir -p "$root/kernel"
cd "$root/kernel"
# The chroot's package lists, with this machine's apt.
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get download -o APT::Sandbox::User=root "linux-image-$version"
dpkg-deb -x ./*.deb .
rm ./*.deb
