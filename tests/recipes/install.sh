#!/usr/bin/env bash
# install.sh [APP,…]: makes sure that the applications of the recipes are there (those of some, or of all): Debian packages in the
# system, those of pip and npm below target/recipes/APP. Fails loudly if something cannot be had. Prints the Python to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Debian keeps servers out of the search path of ordinary users.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=tests/packages.sh
source tests/packages.sh

folder=target/recipes
mkdir -p "$folder"

# venv PLACE PIP-ARGUMENT…: a virtual environment with exactly that; made anew when something else is asked for.
venv() {
    local place=$1 list=$1/pypi.txt
    shift
    if [ "$(cat "$list" 2>/dev/null)" != "$*" ]; then
        say "installing $* into $place"
        rm -rf "$place/venv" "$list"
        python3 -m venv "$place/venv"
        "$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >&2
        printf '%s\n' "$*" >"$list"
    fi
}

# npm_packages PLACE PACKAGE…: the same for npm.
npm_packages() {
    local place=$1 list=$1/npm.txt
    shift
    if [ "$(cat "$list" 2>/dev/null)" != "$*" ]; then
        say "installing $* into $place"
        rm -rf "$place/node_modules" "$place/package.json" "$place/package-lock.json" "$list"
        mkdir -p "$place"
        printf '{ "private": true }\n' >"$place/package.json"
        npm install --prefix "$place" --silent --no-audit --no-fund --save-exact "$@" >&2
        printf '%s\n' "$*" >"$list"
    fi
}

missing=()
for pair in python3:python3-venv chromium:chromium; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
mapfile -t visitors < <(grep -v '^#' tests/recipes/requirements.txt)
venv "$folder" "${visitors[@]}"

python="$folder/venv/bin/python"
"$python" tests/recipes --needs --only "${1:-}" >"$folder/needs.txt"
missing=()
while read -r _ program package; do
    # Some packages have no program.
    command -v "$program" >/dev/null || dpkg --status "$package" >/dev/null 2>&1 || missing+=("$package")
done < <(grep '^debian ' "$folder/needs.txt" || true)
[ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
while read -r kind app packages; do
    # shellcheck disable=SC2086 # a list of words
    case $kind in
    pypi) venv "$folder/$app" $packages ;;
    npm) npm_packages "$folder/$app" $packages ;;
    esac
done <"$folder/needs.txt"
printf '%s\n' "$python"
