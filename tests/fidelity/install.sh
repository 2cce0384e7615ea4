#!/usr/bin/env bash
# Makes sure that everything the matrix talks to is there: programs from the system's packages, Python packages in a
# folder of their own, and the gRPC application. Fails loudly if something cannot be had. Prints the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source tests/packages.sh

declare -A package=(
    [python3]=python3-venv [nginx]=nginx-light [curl]=curl [git]=git [redis-server]=redis-server [redis-cli]=redis-tools
    [psql]=postgresql [chromium]=chromium
)
missing=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)

[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"

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
