#!/bin/sh
# Builds a kernel from Debian's source, inside the build chroot: build.sh FLAVOUR CONFIG...
# The build tree stays in /build/FLAVOUR for modules to be built against; the result goes to /kernel/FLAVOUR.
set -eu
flavour=$1
shift
source=$(ls -d /usr/src/linux-source-*/ | head -n 1)
out=/build/$flavour
jobs=$(nproc)

rm -rf "$out" "/kernel/$flavour"
mkdir -p "$out" "/kernel/$flavour/boot"
cd "$source"
make -s O="$out" tinyconfig
scripts/kconfig/merge_config.sh -O "$out" -m "$out/.config" "$@" >/dev/null
make -s O="$out" olddefconfig

# A name that `make olddefconfig` dropped would silently be missing in the guest.
cat "$@" | sed -n 's/^\(CONFIG_[A-Z0-9_]*=.*\)/\1/p' | while read -r line; do
	name=${line%%=*}
	last=$(cat "$@" | grep "^$name=" | tail -n 1)
	grep -qxF "$last" "$out/.config" || { echo "not in the result: $last" >&2; touch "$out/.refused"; }
done
if [ -e "$out/.refused" ]; then exit 1; fi

make -s O="$out" -j"$jobs" bzImage modules
make -s O="$out" INSTALL_MOD_PATH="/kernel/$flavour" modules_install
cp "$out/arch/x86/boot/bzImage" "/kernel/$flavour/boot/vmlinuz"

# What building a module needs stays; the rest is most of the size.
find "$out" \( -name '*.o' -o -name '*.a' -o -name '*.cmd' -o -name '*.ko' -o -name 'vmlinux*' \) \
	! -path "$out/scripts/*" ! -path "$out/tools/*" -delete
