#!/bin/sh
# Builds a rootless virtual phone in the folder DIR: the real adbd (AOSP's, of Debian) with mksh and toybox,
# all AArch64, to be run by qemu-user 10; what `edgekron profile` needs: an adb client, and onnxruntime and
# ekrun for AArch64; and, for a stand-in of benchmark_model that really computes, Python with LiteRT.
#
#   sh build.sh DIR
#
# It downloads 230 MB in this moment, and at no other: packages of Debian 12 from the mirror that apt is set
# to (or DEBIAN_MIRROR), whose signatures apt checks; wheels by $PYTHON -m pip (python3), whose sums are in the
# .txt files beside this one. Nothing is installed in the system.
set -eu
[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
die() {
    echo "make phone: $*" >&2
    exit 1
}
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/allowed.sh"
python=${PYTHON:-python3}
keys=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
[ -e "$keys" ] || die "no keys of Debian: install debian-archive-keyring, or name them by DEBIAN_KEYRING=FILE"
# shellcheck disable=SC2016 # apt-get expands them
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(SITE)' |
    sed -n 's/^Debian //p' | head -n 1)}
[ -n "$mirror" ] || die "apt is set to no mirror of Debian: name one by DEBIAN_MIRROR=URL"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
phone=$dir/phone
mkdir -p "$dir/home" "$dir/host" "$dir/runner" "$phone"

# debian ARCHITECTURE INTO PACKAGES: these and all they need, by an apt that knows of nothing installed
debian() {
    arch=$1 into=$2 apt=$dir/apt/$1
    shift 2
    mkdir -p "$apt/etc/apt.conf.d" "$apt/etc/preferences.d" "$apt/etc/trusted.gpg.d" \
        "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    for suite in bookworm bookworm-backports; do
        echo "deb [signed-by=$keys] $mirror $suite main"
    done > "$apt/etc/sources.list"
    for each in "update" "install --yes --download-only $*"; do
        # shellcheck disable=SC2086 # its words
        apt-get -qq -o Dir::Etc="$apt/etc" -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" \
            -o Dir::Cache="$apt/cache" -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
            -o APT::Install-Recommends=0 -o APT::Default-Release=bookworm-backports \
            -o APT::Sandbox::User= -o Acquire::Languages=none $each || die "apt-get $each failed"
    done
    for each in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$each" "$into"; done
}
debian amd64 "$dir/host" qemu-user
debian arm64 "$phone" adbd mksh toybox python3.11-minimal libpython3.11-stdlib libstdc++6
mv "$dir/host/usr/bin/qemu-aarch64" "$dir/qemu"
rm -rf "$dir/apt" "$dir/host" "${phone:?}/usr/share"
sh "$here/furnish.sh" "$phone" "$dir/qemu"

# packages LIST INTO [OPTIONS]: wheels
packages() {
    list=$1 into=$2
    shift 2
    "$python" -m pip -q --disable-pip-version-check install --no-deps --no-compile --require-hashes \
        --only-binary :all: --target "$into" -r "$list" "$@"
}
packages "$here/tools.txt" "$dir/tools"
packages "$here/libraries.txt" "$phone/usr/lib/site" --implementation cp --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64
ln -s tools/adbutils/binaries/adb "$dir/adb"
cp "$phone"/usr/lib/site/onnxruntime/capi/libonnxruntime.so.* "$dir/runner/libonnxruntime.so"
rm -r "$phone/usr/lib/site/onnxruntime"
ZIG_GLOBAL_CACHE_DIR=$dir/zig PYTHONPATH=$dir/tools \
    sh "$here/../edgekron_adb/runner/build.sh" aarch64 "$dir/runner/ekrun"
rm -rf "$dir/zig" "$dir/tools/ziglang"
