#!/bin/sh
# Runs COMMAND on this machine, in the network of the virtual phone that build.sh made in DIR: there the adb
# client finds it, as the one device attached. It ends with the command, and so does all that runs in it.
#
#   sh enter.sh DIR CPU COMMAND..      CPU: cortex-a53, cortex-a76, .. (of qemu-aarch64 -cpu help)
#
# COMMAND finds adb in its PATH, and the variables ANDROID_SERIAL and ANDROID_ADB_SERVER_PORT set. adbd gives
# a shell to whoever reaches its port, and cannot be bound to loopback: hence a network of its own. It is no
# Android: no bionic, SELinux, NNAPI or GPU; getprop, dumpsys and /sys are stand-ins.
set -eu
[ $# -ge 3 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
dir=$(cd "$1" && pwd)
DIR=$dir CPU=$2 PATH=$PATH:/usr/sbin:/sbin
export DIR CPU PATH
shift 2
sh "$(dirname "$0")/allowed.sh"
# shellcheck disable=SC2016 # expanded inside
exec unshare -r -m -n -p --fork --kill-child sh -eu -c '
phone=$DIR/phone
mount --make-rprivate /
mount -t proc proc /proc
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
# The head of an ELF file: 64 bits, little-endian, executable or shared object, EM_AARCH64.
magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
printf "%s\n" ":aarch64:M::$magic:$mask:$DIR/qemu:OCF" \
    > /proc/sys/fs/binfmt_misc/register
ip link set lo up
mount --bind "$phone" "$phone"
mount -t proc proc "$phone/proc"
mount --rbind /dev "$phone/dev"
mount -t tmpfs tmpfs "$phone/data/local/tmp"
mount -t tmpfs tmpfs "$phone/tmp"
log=$DIR/adbd.log
: > "$log"
env -i QEMU_CPU="$CPU" PATH=/system/bin:/bin:/usr/bin HOME=/data/local/tmp TMPDIR=/data/local/tmp \
    LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu/android \
    "$(command -v chroot)" "$phone" /usr/lib/android-sdk/platform-tools/adbd > "$log" 2>&1 < /dev/null &
tries=0
until grep -q "adbd started" "$log"; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { echo "adbd does not start:" >&2; cat "$log" >&2; exit 1; }
    sleep 0.1
done
export PATH="$DIR:$PATH" HOME="$DIR/home" ANDROID_SERIAL=127.0.0.1:5555 ANDROID_ADB_SERVER_PORT=5999
export ADB_MDNS=0 ADB_EMU=0 ADB_LOCAL_TRANSPORT_MAX_PORT=5553
TMPDIR="$HOME" adb start-server > "$DIR/adb.log" 2>&1
adb connect "$ANDROID_SERIAL" >> "$DIR/adb.log"
adb wait-for-device
code=0
"$@" || code=$?
adb kill-server
exit $code' enter "$@"
