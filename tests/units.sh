#!/usr/bin/env bash
# Has systemd look at the units in docs/systemd, if it is here: `systemd-analyze verify` and `security`, nothing is installed
# or started. A reload checks the configuration that the unit starts with before it asks for anything.
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
wrong() { printf '%s\n' "$1" >&2; exit 1; }
said=$(systemd-analyze verify ./*.service ./*.socket 2>&1) || wrong "$said"
[ -z "$said" ] || wrong "$said"
for unit in ./*.service; do
    file=$(sed -n 's/^ExecStart=.* --config //p' "$unit")
    first=$(sed -n 's/^ExecReload=//p' "$unit" | head -n 1)
    [ -n "$file" ] && [ "$first" = "$adit check $file" ] || wrong "$unit: a reload begins with '$first', and not with a check of '$file'"
done
echo "fine: $(echo ./*.service ./*.socket)"
# Older ones ask a running systemd.
if ! systemd-analyze --help | grep -q -- --offline; then
    echo "not looked at: this systemd-analyze cannot tell by itself how much the units may"
    exit 0
fi
for unit in ./*.service; do
    # From 0, next to nothing, to 100.
    said=$(systemd-analyze security --offline=true --threshold=20 --no-pager "$unit" 2>&1) || wrong "$said"
    echo "fine: $(printf '%s\n' "$said" | tail -n 1)"
done
