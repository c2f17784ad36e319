#!/bin/sh
# Builds a rootless virtual phone in the folder DIR: the real adbd (AOSP's, of Debian) with mksh and toybox,
# all AArch64, to be run by qemu-user 10; what `edgekron profile` needs: an adb client, and onnxruntime and
# ekrun for AArch64; and, for a stand-in of benchmark_model that really computes, Python with LiteRT.
#
#   sh build.sh DIR
#
# It downloads 190 MB in this moment, and at no other: Debian packages from the mirror of the system's apt
# (or of DEBIAN_MIRROR), whose signatures and sums apt checks; wheels by $PYTHON -m pip (python3), whose sums
# are in the .txt files beside this one. Nothing is installed in the system.
set -eu
[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/allowed.sh"
python=${PYTHON:-python3}
suite=bookworm
# shellcheck disable=SC2016 # apt-get expands them
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE) $(RELEASE)' |
    awk -v suite=$suite '$2 == suite { print $1; exit }')}
[ -n "$mirror" ] || { echo "apt has no source of Debian $suite: give DEBIAN_MIRROR=ADDRESS" >&2; exit 1; }
keys=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
mkdir -p "$1"
dir=$(cd "$1" && pwd)
phone=$dir/phone
mkdir -p "$dir/debs" "$dir/host" "$dir/home" "$phone"

# An apt of its own, for both architectures.
apt=$dir/apt
mkdir -p "$apt/etc/apt/apt.conf.d" "$apt/etc/apt/preferences.d" "$apt/etc/apt/sources.list.d" \
    "$apt/etc/apt/trusted.gpg.d" "$apt/var/lib/apt/lists/partial" "$apt/var/cache/apt/archives/partial" \
    "$apt/var/lib/dpkg"
: > "$apt/var/lib/dpkg/status"
for each in $suite $suite-backports; do
    echo "deb [signed-by=$keys] $mirror $each main"
done > "$apt/etc/apt/sources.list"
private_apt() {
    apt-get -q -o Dir="$apt" -o Dir::State::status="$apt/var/lib/dpkg/status" -o APT::Architecture=amd64 \
        -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "$@" > "$dir/apt.log" || { cat "$dir/apt.log" >&2; exit 1; }
}
private_apt update
packages=qemu-user:amd64/$suite-backports
for each in adbd android-libbase android-libboringssl android-libcutils android-liblog; do
    packages="$packages $each:arm64/$suite-backports"
done
for each in libc6 libgcc-s1 libstdc++6 zlib1g libprotobuf32 libbrotli1 liblz4-1 libzstd1 libsystemd0 libcap2 \
    libgcrypt20 libgpg-error0 liblzma5 libssl3 libcrypt1 mksh toybox \
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libexpat1 libffi8 libbz2-1.0; do
    packages="$packages $each:arm64"
done
cd "$dir/debs" # where apt-get downloads to
# shellcheck disable=SC2086 # one word for each package
private_apt download $packages
dpkg-deb --fsys-tarfile qemu-user_*_amd64.deb | tar -x -C "$dir/host" ./usr/bin/qemu-aarch64
for each in *_arm64.deb; do dpkg-deb -x "$each" "$phone"; done
cd "$dir"
rm -rf "${phone:?}/usr/share" "$apt" "$dir/debs"
sh "$here/furnish.sh" "$phone" "$dir/host/usr/bin/qemu-aarch64"

# What edgekron needs on this side, and what it pushes.
pip() { "$python" -m pip --disable-pip-version-check -q "$@"; }
pip install --no-deps --require-hashes --only-binary :all: --target "$dir/tools" -r "$here/tools.txt"
ln -s tools/adbutils/binaries/adb "$dir/adb"
pip download --no-deps --require-hashes --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    -d "$dir/wheels" -r "$here/libraries.txt"
for each in "$dir"/wheels/*.whl; do "$python" -m zipfile -e "$each" "$phone/usr/lib/site"; done
rm -r "$dir/wheels"
mkdir "$dir/runner"
cp "$phone"/usr/lib/site/onnxruntime/capi/libonnxruntime.so.* "$dir/runner/libonnxruntime.so"
rm -r "$phone/usr/lib/site/onnxruntime"
ZIG_GLOBAL_CACHE_DIR=$dir/zig PYTHONPATH=$dir/tools \
    sh "$here/../edgekron_adb/runner/build.sh" aarch64 "$dir/runner/ekrun"
rm -rf "$dir/zig" "$dir/tools/ziglang"
