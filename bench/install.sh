#!/usr/bin/env bash
# Makes sure that everything `make bench` measures with and against is there: wrk, nginx and haproxy from the system's
# packages, rathole and bore built from their crates into target/bench/peers. frps and frpc take part if they are on the
# search path. Fails loudly if something cannot be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }

# The newest versions when this was written; what is compared is named in docs/benchmarks.md.
rathole=0.5.0
bore=0.6.0

declare -A package=(
    [wrk]=wrk [nginx]=nginx-light [haproxy]=haproxy [openssl]=openssl [python3]=python3 [ip]=iproute2
    [pkg-config]=pkg-config [valgrind]=valgrind
)
wanted=(wrk nginx haproxy openssl python3 ip pkg-config)
[ "${1:-}" = instructions ] && wanted=(python3 valgrind nginx)
[ "${1:-}" = scale ] && wanted=(python3 nginx ip)

missing=()
for program in "${wanted[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# rathole's TLS is the system's OpenSSL.
if [ -z "${1:-}" ] && ! pkg-config --exists openssl 2>/dev/null; then missing+=(libssl-dev); fi

if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        say "error: this needs ${missing[*]}, and installing takes root; run: apt-get install ${missing[*]}"
        exit 1
    fi
    command -v apt-get >/dev/null || { say "error: this needs ${missing[*]}, and there is no apt-get"; exit 1; }
    # Debian starts a service when its package is installed; a policy that answers 101 keeps it from that
    # (invoke-rc.d(8)). A policy of the system's own stays as it is.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi
[ -z "${1:-}" ] || exit 0

peers=target/bench/peers
install() { # PROGRAM CRATE VERSION [HOW]
    [ -x "$peers/bin/$1" ] && grep -qs "\"$2 $3 " "$peers/.crates.toml" && return
    say "building $2 $3 into $peers"
    # shellcheck disable=SC2086
    cargo install --quiet ${4-} --root "$peers" --target-dir target/bench/build --version "$3" "$2"
}
# The lock file that rathole 0.5.0 brings names a version of `time` that current compilers refuse.
install rathole rathole "$rathole"
install bore bore-cli "$bore" --locked
