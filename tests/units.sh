#!/usr/bin/env bash
# Has systemd look at the units in docs/systemd, if it is here: `systemd-analyze verify`, nothing is installed or started.
#
#     tests/units.sh target/debug/adit
set -euo pipefail

adit=$(realpath "${1:?which adit?}")
units=$(cd "$(dirname "${BASH_SOURCE[0]}")/../docs/systemd" && pwd)
if ! command -v systemd-analyze >/dev/null; then
    echo "not looked at: there is no systemd-analyze here"
    exit 0
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for unit in "$units"/*.service "$units"/*.socket; do
    # The program is not installed where they expect it.
    sed "s|/usr/local/bin/adit|$adit|" "$unit" >"$scratch/$(basename "$unit")"
done
cd "$scratch"
said=$(systemd-analyze verify ./*.service ./*.socket 2>&1) || { printf '%s\n' "$said" >&2; exit 1; }
[ -z "$said" ] || { printf '%s\n' "$said" >&2; exit 1; }
echo "fine: $(echo ./*.service ./*.socket)"
