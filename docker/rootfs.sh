#!/bin/sh
# Gathers the image's root file system in a folder: the program, the libraries it is linked with, the system's authorities, and
# one user. No shell, no package manager.
#
#     docker/rootfs.sh target/release/adit FOLDER
set -eu
program=$1
root=$2
mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/etc/adit" "$root/var/lib/adit/certs" "$root/tmp"
install -m 755 "$program" "$root/usr/local/bin/adit"
# The loader finds them where the build machine has them.
ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
    install -D -m 755 "$library" "$root$library"
done
# Authorities for agents whose server has a public certificate.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'adit:x:10001:10001:adit:/var/lib/adit:/sbin/nologin' >"$root/etc/passwd"
echo 'adit:x:10001:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chown -R 10001:10001 "$root/etc/adit" "$root/var/lib/adit"
chmod 1777 "$root/tmp"
