# shellcheck shell=bash
# What scripts need that run programs in a scratch folder of their own, and say step by step what holds. To be sourced by
# one that has set `-euo pipefail`; the folder is the current one from then on, and goes with the script, like everything
# it has started.

scratch=$(mktemp -d)
mkdir -p "$scratch"/{config,logs}
cd "$scratch"
for variable in ${!ADIT_@}; do unset "$variable"; done
export NO_COLOR=1
# Seconds that anything is waited for.
patience=20
started=()

finish() {
    local code=$?
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ]; then
        echo "it has failed; what was said last:" >&2
        tail -n 15 logs/* >&2
    fi
    rm -rf "$scratch"
}
trap finish EXIT

bold='' green='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fine() { printf '  %sok%s  %s\n' "$green" "$plain" "$*"; }
wrong() {
    printf '  NOT TRUE: %s\n' "$*" >&2
    exit 1
}

# background NAME COMMAND…: runs it with its output in logs/NAME, and sets $last to its process.
background() {
    local name=$1
    shift
    "$@" >"logs/$name" 2>&1 &
    last=$!
    started+=("$last")
}

# said NAME PATTERN [N]: waits until so many lines of logs/NAME match, and prints the last of them.
said() {
    timeout "$patience" grep -m "${3:-1}" -E "$2" <(exec tail --pid=$$ -n +1 -F "logs/$1" 2>/dev/null) | tail -n 1 |
        grep . || wrong "$1 has not said: $2"
}
