#!/usr/bin/env bash
# Makes sure that the programs the tests talk to are there: python3, nginx and curl. Prints what it found.
#
# What is missing is installed by apt-get, if this runs as root or `sudo` asks for no password. Otherwise it fails and
# names the packages. The tests run their own nginx, on ports and directories of their own: a system-wide nginx service
# is neither needed nor left running.
set -euo pipefail

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

missing=()
for program in python3 nginx curl; do
    command -v "$program" >/dev/null || missing+=("$program")
done

if [ "${#missing[@]}" -gt 0 ]; then
    packages=("${missing[@]/#nginx/nginx-light}")
    install_packages "${packages[@]}"

    # Nor at the next boot, and not now in case the system's own policy allowed it.
    if [[ " ${missing[*]} " == *" nginx "* ]] && [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl disable --quiet --now nginx.service 2>/dev/null || true
    fi

    for program in "${missing[@]}"; do
        if ! command -v "$program" >/dev/null; then
            say "error: installed ${packages[*]}, but $program is still not to be found"
            exit 1
        fi
    done
fi

for program in python3 nginx curl; do
    printf '%-8s %s\n' "$program" "$(command -v "$program")"
done
