#!/usr/bin/env bash
# Makes sure that everything `make bench` measures with and against is there: wrk, nginx and haproxy from the system's
# packages, rathole and bore built from their crates into target/bench/peers. frps and frpc take part if they are on the
# search path. Fails loudly if something cannot be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source tests/packages.sh

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

[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
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
