#!/usr/bin/env bash
# Makes sure that what `make deb` needs is there: cargo-deb, built from its crate into target/tools, and Debian's dpkg-dev.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source tests/packages.sh

version=3.8.0
command -v dpkg-shlibdeps >/dev/null || install_packages dpkg-dev
if ! { [ -x target/tools/bin/cargo-deb ] && grep -qs "\"cargo-deb $version " target/tools/.crates.toml; }; then
    say "building cargo-deb $version into target/tools"
    cargo install --quiet --locked --root target/tools --target-dir target/tools/build --version "$version" cargo-deb
fi
