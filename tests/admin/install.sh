#!/usr/bin/env bash
# Makes sure that schemathesis is there, in a folder of its own. Prints the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=target/admin
python="$folder/venv/bin/python"
if ! cmp -s tests/admin/requirements.txt "$folder/installed.txt"; then
    printf 'installing Python packages into %s\n' "$folder/venv" >&2
    rm -rf "$folder/venv"
    python3 -m venv "$folder/venv"
    "$python" -m pip install --quiet --disable-pip-version-check --requirement tests/admin/requirements.txt
    cp tests/admin/requirements.txt "$folder/installed.txt"
fi
printf '%s\n' "$python"
