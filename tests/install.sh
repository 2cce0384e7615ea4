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

missing=()
for program in python3 nginx curl; do
    command -v "$program" >/dev/null || missing+=("$program")
done

if [ "${#missing[@]}" -gt 0 ]; then
    packages=("${missing[@]/#nginx/nginx-light}")

    if [ "$(id -u)" -eq 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        say "error: the tests need ${missing[*]}, and installing takes root; run: apt-get install ${packages[*]}"
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        say "error: the tests need ${missing[*]}, and there is no apt-get; install them with this system's package manager"
        exit 1
    fi

    # Debian starts a service when its package is installed. A policy that answers 101 ("not allowed") to every start
    # keeps nginx from it (invoke-rc.d(8)). A policy of the system's own stays as it is.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi

    say "installing ${packages[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${packages[@]}" </dev/null >/dev/null

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
