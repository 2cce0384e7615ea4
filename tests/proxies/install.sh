#!/usr/bin/env bash
# Makes sure that Debian's nginx and caddy are there, with openssl, curl and python3. Both proxies are run by the test itself.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/../packages.sh"
missing=()
for program in nginx caddy openssl curl python3; do
    command -v "$program" >/dev/null || missing+=("${program/#nginx/nginx-light}")
done
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
