#!/usr/bin/env bash
# Makes sure that what `make image` needs is there: Debian's buildah.
set -euo pipefail
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source "$(dirname "${BASH_SOURCE[0]}")/../tests/packages.sh"
command -v buildah >/dev/null || install_packages buildah
