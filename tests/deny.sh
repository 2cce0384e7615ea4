#!/usr/bin/env bash
# Looks at everything that is depended on, by the rules in deny.toml. Known vulnerabilities too, if their list can be fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PATH="$PWD/target/tools/bin:$PATH"
command -v cargo-deny >/dev/null || cargo install --locked --quiet --root target/tools --target-dir target/tools/build cargo-deny@0.20.2

cargo deny --locked check bans licenses sources
if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
else
    echo "the list of known vulnerabilities cannot be fetched: not looked at" >&2
fi
