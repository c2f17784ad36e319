#!/bin/sh
# Makes the folder in which an aarch64 Python runs on emulated cores; no root, nothing outside of it changes.
#
#   make arm                      calls:  sh make.sh FOLDER PYTHON WORKER
#
# Into FOLDER (400 MB, of which 110 MB are downloaded):
#   host/       qemu-user of Debian 12, a dynamic one, that is, with plug-ins; and its libraries
#   guest/      Python 3.11 of Debian 12 for arm64
#   cores/      what a guest sees as / on each core: guest/, and a /proc/cpuinfo of that core
#   sites/      each runtime with its numpy; tflite-runtime needs an older one
#   count.so    counts instructions, see count.c
#   run         the command, see there
#   made        sum of what it was made from; made.by names qemu
#
# apt checks the signatures of Debian, pip the sums in packages/. Mirrors are those that apt and pip are set to;
# where apt is not set to one of Debian (Ubuntu), DEBIAN_MIRROR names it, and DEBIAN_KEYRING its keys, if they are
# not where debian-archive-keyring puts them. FOLDER appears when all is there: a run that was killed starts again.
set -eu
die() { echo "make arm: $*" >&2; exit 1; }
[ $# = 3 ] || die "expected FOLDER PYTHON WORKER"
recipe=$(cd "$(dirname "$0")" && pwd)
folder=$1 python=$2 worker=$3 new=$1.partial
sum=$(cd "$recipe" && cat make.sh run count.c packages/* cores/* | sha256sum)
if [ "$(cat "$folder/made" 2>/dev/null)" = "$sum" ]; then echo "$folder is made"; exit; fi

case $folder in *[,:]*) die "$folder: qemu takes no path with a comma or a colon: name another by EDGEKRON_ARM" ;; esac
[ ! -e "$folder" ] || [ -e "$folder/made" ] || rmdir "$folder" 2> /dev/null ||
    die "$folder exists, and is not of make arm: name another by EDGEKRON_ARM"
[ "$(uname -sm)" = "Linux x86_64" ] || die "it emulates ARM on Linux on x86-64 only, this is $(uname -sm)"
command -v gcc > /dev/null || die "gcc is needed: install gcc and the headers of the C library"
for each in apt-get dpkg-deb; do
    command -v $each > /dev/null || die "$each is needed: Debian and Ubuntu have it; others package it (apt, dpkg)"
done
keys=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
[ -e "$keys" ] || die "there are no keys of Debian in $keys: install debian-archive-keyring, or name them by DEBIAN_KEYRING"
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(SITE)' | sed -n 's/^Debian //p' | head -n 1)}
[ -n "$mirror" ] || die "apt is set to no mirror of Debian: name one by DEBIAN_MIRROR=URL"

rm -rf "$new"
mkdir -p "$new/host/usr/bin" "$new/guest" "$new/sites"
new=$(cd "$new" && pwd)

# debian ARCHITECTURE INTO PACKAGES: these and all they need, as an apt that knows of no installed package says
debian() {
    arch=$1 into=$2 apt=$new/apt/$1
    shift 2
    echo "Debian 12 for $arch: $*"
    mkdir -p "$apt/etc/apt.conf.d" "$apt/etc/preferences.d" "$apt/etc/trusted.gpg.d" \
        "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    echo "deb [signed-by=$keys] $mirror bookworm main" > "$apt/etc/sources.list"
    for each in "update" "install --yes --download-only $*"; do
        # shellcheck disable=SC2086
        apt-get -qq -o Dir::Etc="$apt/etc" -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" \
            -o Dir::Cache="$apt/cache" -o APT::Architecture="$arch" -o APT::Architectures="$arch" \
            -o APT::Install-Recommends=0 -o APT::Sandbox::User= -o Acquire::Languages=none \
            $each || die "apt-get $each failed"
    done
    for each in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$each" "$into"; done
}
debian amd64 "$new/host" qemu-user
debian arm64 "$new/guest" python3.11-minimal libpython3.11-stdlib libstdc++6
find "$new/host/usr/bin" -type f ! -name qemu-aarch64 -exec rm {} +
rm -rf "$new/apt" "$new"/*/usr/share

gcc -O2 -Wall -Wextra -Werror -shared -fPIC -Wl,-z,lazy -o "$new/count.so" "$recipe/count.c"
cp "$recipe/run" "$new/run"
for each in "$recipe"/cores/*; do
    core=$new/cores/$(basename "$each")
    mkdir -p "$core/proc" "$core/sys/devices/system/cpu"
    cp "$each" "$core/proc/cpuinfo"
    for list in possible present; do echo 0 > "$core/sys/devices/system/cpu/$list"; done
    for entry in "$new"/guest/*; do ln -s "../../guest/$(basename "$entry")" "$core/"; done
done

for each in "$recipe"/packages/*.txt; do
    runtime=$(basename "$each" .txt)
    echo "$runtime: $(grep -o '^[^ ]*==[^ ]*' "$each" | tr '\n' ' ')"
    "$python" -m pip -q --disable-pip-version-check install --no-deps --no-compile --require-hashes -r "$each" \
        --only-binary :all: --implementation cp --python-version 3.11 --platform manylinux_2_34_aarch64 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 --target "$new/sites/$runtime"
    "$new/run" cortex-a76 "$runtime" "$worker" "$runtime" < /dev/null # and writes what Python compiles
done

libraries=$new/host/lib/x86_64-linux-gnu
"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$new/host/usr/lib/x86_64-linux-gnu" \
    "$new/host/usr/bin/qemu-aarch64" --version | sed -n 's/.*version \([0-9]*\.[0-9]*\).*/\1/p' > "$new/made.by"
echo "$sum" > "$new/made"
[ ! -e "$folder" ] || mv "$folder" "$new/old" # in one step each, else a killed run leaves half of one
mv "$new" "$folder"
rm -rf "$folder/old"
echo "$folder is made"
