#!/usr/bin/env bash
# Makes the bare Debian that `make acceptance` installs the package on, once: target/acceptance/root.tar, by mmdebstrap from
# the mirror that this machine uses. Beside what a VPS has, the packages that docs/operate.md installs are in it: there is no
# network while the guide is followed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source tests/packages.sh

[ "$(id -u)" -eq 0 ] || { say "error: this makes namespaces and a root file system, which takes root; run it by sudo"; exit 1; }
missing=()
for program in mmdebstrap unshare openssl; do
    command -v "$program" >/dev/null || missing+=("${program/unshare/util-linux}")
done
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"

root=target/acceptance/root.tar
packages=systemd,procps,ca-certificates,curl,openssl,python3,prometheus,iproute2,nftables,ufw,firewalld
# Made anew when the list changes.
[ -f "$root" ] && [ "$(cat "$root.packages" 2>/dev/null)" = "$packages" ] && exit 0
mkdir -p target/acceptance
say "making a bare Debian in $root (a minute or two)"
mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "${root%.tar}.new.tar"
mv "${root%.tar}.new.tar" "$root"
printf '%s' "$packages" >"$root.packages"
