#!/usr/bin/env bash
# Makes sure that everything the matrix talks to is there: programs from the system's packages, Python packages in a
# folder of their own, and the gRPC application. Fails loudly if something cannot be had. Prints the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }

declare -A package=(
    [python3]=python3-venv [nginx]=nginx-light [curl]=curl [git]=git [redis-server]=redis-server [redis-cli]=redis-tools
    [psql]=postgresql [chromium]=chromium
)
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)

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

folder=target/fidelity
python="$folder/venv/bin/python"
if ! cmp -s tests/fidelity/requirements.txt "$folder/installed.txt"; then
    say "installing Python packages into $folder/venv"
    rm -rf "$folder/venv"
    python3 -m venv "$folder/venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/fidelity/requirements.txt
    cp tests/fidelity/requirements.txt "$folder/installed.txt"
fi
cargo build --quiet --locked --manifest-path tests/fidelity/grpc/Cargo.toml --target-dir "$folder/grpc"
printf '%s\n' "$python"
