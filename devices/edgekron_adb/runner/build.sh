#!/bin/sh
# Builds ekrun, which needs a C compiler only: no header of onnxruntime (see ort_abi.h).
#
#   sh build.sh host OUT       with $CC (cc)
#   sh build.sh aarch64 OUT    Linux boards and the virtual phone: glibc 2.28 or newer, by the zig compiler of
#                              `$PYTHON -m ziglang` (pip install ziglang)
#   sh build.sh android OUT    phones, Android 7 or newer: with the NDK in $ANDROID_NDK
set -eu
usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2
    exit 2
}
[ $# -eq 2 ] || usage
here=$(cd "$(dirname "$0")" && pwd)
out=$2
case $1 in
    host) set -- "${CC:-cc}" ;;
    aarch64) set -- "${PYTHON:-python3}" -m ziglang cc -target aarch64-linux-gnu.2.28 -s ;;
    android)
        ndk=${ANDROID_NDK:?give the folder of the NDK: ANDROID_NDK=/path/to/android-ndk-r27}
        for tools in "$ndk"/toolchains/llvm/prebuilt/*/bin; do :; done
        set -- "$tools/aarch64-linux-android24-clang" -s
        ;;
    *) usage ;;
esac
exec "$@" -std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -pedantic \
    "$here/ekrun.c" "$here/network.c" "$here/tensor_file.c" "$here/json.c" "$here/failure.c" \
    -o "$out" -ldl -pthread
