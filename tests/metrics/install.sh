#!/usr/bin/env bash
# Makes sure that prometheus, promtool, python3 and curl are there. Prometheus is run by the test itself, on a port and in a
# folder of its own: the service that the package brings is neither needed nor left running.
set -euo pipefail
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/../packages.sh"

missing=()
for program in prometheus curl python3; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
for program in prometheus promtool curl python3; do
    command -v "$program" >/dev/null || { say "error: installed ${missing[*]}, but $program is still not to be found"; exit 1; }
done
