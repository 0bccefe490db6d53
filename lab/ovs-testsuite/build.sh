#!/bin/sh
# Builds Open vSwitch where Debian's package openvswitch-source put it, inside the build chroot.
set -eu
cd /usr/src/openvswitch
# Nothing of this is measured, so it is built for speed of building.
./configure --prefix=/usr --localstatedir=/var --sysconfdir=/etc --disable-dependency-tracking CFLAGS=-O1
make -s -j"$(nproc)"
# The tests need the programs and the scripts; the rest is most of the size.
find . \( -name '*.o' -o -name '*.lo' -o -name '*.a' -o -name '*.la' \) -delete
