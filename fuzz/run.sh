#!/usr/bin/env bash
# Runs each target for a while and says how it went: fuzz/run.sh [SECONDS] [TARGET…]
#
# It begins with what is in fuzz/corpus, and leaves that alone; what it finds beside it goes to target/fuzz/corpus, an input
# that fails to fuzz/artifacts. Needs no nightly compiler: there is no sanitizer, since `unsafe` is forbidden in adit;
# what is looked for are panics, broken promises, hangs and memory without end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds="${1:-60}"
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(login control exchange proxy routing clients)
PATH="$PWD/target/tools/bin:$PATH"
command -v cargo-fuzz >/dev/null || cargo install --locked --quiet --root target/tools --target-dir target/tools/build cargo-fuzz@0.13.2

failed=0
printf '%-10s %12s %10s %10s %10s\n' target executions edges corpus result
for target in "${targets[@]}"; do
    found="target/fuzz/corpus/$target"
    log="target/fuzz/$target.log"
    mkdir -p "$found" "fuzz/corpus/$target"
    result=fine
    cargo fuzz run --sanitizer none --target-dir target/fuzz "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=65536 -print_final_stats=1 >"$log" 2>&1 || {
        result="FAILED, see $log"
        failed=1
    }
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    edges=$(grep -o ' cov: [0-9]*' "$log" | tail -1 | tr -dc 0-9) || true
    printf '%-10s %12s %10s %10s   %s\n' "$target" "${executions:-?}" "${edges:-?}" "$(find "$found" -type f | wc -l)" "$result"
done
exit "$failed"
