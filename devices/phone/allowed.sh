#!/bin/sh
# Whether this machine can be a virtual phone: prints the reason and exits with 1 if it cannot.
set -u
PATH=$PATH:/usr/sbin:/sbin
no() {
    echo "the virtual phone cannot run here: $*"
    exit 1
}
[ "$(uname -sm)" = "Linux x86_64" ] || no "it needs Linux on x86-64, this is $(uname -sm)"
for program in apt-get dpkg-deb unshare mount ip; do
    command -v "$program" > /dev/null || no "there is no $program (it is built of Debian packages)"
done
said=$(unshare -r -m -n -p --fork sh -c 'mount --make-rprivate / && mount -t proc proc /proc &&
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && ip link set lo up' 2>&1) ||
    no "it needs user namespaces with a binfmt_misc of their own (Linux 6.7 or newer): $said"
