#!/usr/bin/env bash
# The metrics with a real Prometheus: the rules hold, it reads the page of a running server, and an alert fires and goes.
#
#     tests/metrics/run.sh target/release/adit
#
# Everything happens on loopback, in a scratch folder. Nothing here waits for longer than its patience, and all of it
# together for less than two minutes. The rules that the running Prometheus goes by are a copy of docker/prometheus/alerts.yml
# in which every `for:` is one second: the originals are tried by `promtool test rules`, with made-up series.
set -euo pipefail

adit=$(realpath "${1:?which adit?}")
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
rules="$top/docker/prometheus"
# shellcheck source=tests/scratch.sh
source "$top/tests/scratch.sh"
mkdir -p alice prometheus

# until_true WHAT COMMAND…: asks again and again, four times a second, until it is so.
until_true() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || wrong "waited in vain for: $what"
        sleep 0.25
    done
    fine "$what"
}

step "The rules are well-formed and do what they say"
promtool check config "$rules/prometheus.yml" >logs/promtool 2>&1 || wrong "promtool check config"
promtool check rules --lint=all --lint-fatal "$rules/alerts.yml" >>logs/promtool 2>&1 || wrong "promtool check rules"
(cd "$rules" && promtool test rules alerts_test.yml) >>logs/promtool 2>&1 || wrong "promtool test rules"
fine "$(grep -c -- '- alert:' "$rules/alerts.yml") alerts, $(grep -c 'eval_time:' "$rules/alerts_test.yml") looks at them"

step "A server, an agent and a visitor"
background site python3 "$top/tests/day/site.py" home
site=$(said site '^port ' | cut -d ' ' -f 2)
printf 'tunnel.listen = "127.0.0.1:0"\npublic.http = "127.0.0.1:0"\nadmin.listen = "127.0.0.1:0"\n' >config/server.toml
token=$("$adit" token new alice --clients config/clients.toml 2>>logs/operator)
background server "$adit" server --config config/server.toml
tunnel=$(said server '^  agents dial' | grep -oE '127\.0\.0\.1:[0-9]+')
public=127.0.0.1:$(said server '^  visitors' | grep -oE '[0-9]+/$' | tr -d /)
admin=$(said server '^  admin' | grep -oE '127\.0\.0\.1:[0-9]+' | head -n 1)
fingerprint=$(said server '^  fingerprint' | grep -oE 'sha256:[0-9a-f]+')
agent() {
    background "$1" env ADIT_TOKEN="$token" "$adit" http "$site" --server "$tunnel" --id alice --fingerprint "$fingerprint"
    said "$1" '^connected' >/dev/null
}
agent agent
agent=$last
visit() { curl -sS --max-time "$patience" -o /dev/null -w '%{http_code}' -H "Host: $1.localhost" "http://$public/"; }
for _ in 1 2 3; do [ "$(visit alice)" = 200 ] || wrong "alice does not answer"; done
[ "$(visit nobody)" = 404 ] || wrong "nobody answers"
fine "three requests answered, one refused"

step "promtool finds nothing wrong with the page"
curl -sS --max-time "$patience" "http://$admin/metrics" >page
promtool check metrics <page >logs/promtool 2>&1 || wrong "promtool check metrics: $(cat logs/promtool)"
[ ! -s logs/promtool ] || wrong "promtool check metrics: $(cat logs/promtool)"
fine "$(grep -c '^# TYPE' page) metrics, $(grep -vc '^#' page) series"

step "Prometheus reads it, with the rules"
sed -E 's/^( *for:) .*/\1 1s/' "$rules/alerts.yml" >prometheus/alerts.yml
cat >prometheus/prometheus.yml <<YAML
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: adit
    static_configs: [{ targets: ["$admin"] }]
YAML
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
background prometheus prometheus --config.file=prometheus/prometheus.yml --storage.tsdb.path=prometheus/data \
    --web.listen-address="127.0.0.1:$port"
ask() { curl -sS --max-time 5 "http://127.0.0.1:$port$1" "${@:2}" 2>>logs/curl; }
value() { # QUERY VALUE
    ask /api/v1/query --data-urlencode "query=$1" | python3 -c '
import json, sys
found = json.load(sys.stdin)["data"]["result"]
sys.exit(not (len(found) == 1 and float(found[0]["value"][1]) == float(sys.argv[1])))' "$2" 2>>logs/curl
}
until_true "it has read the page" value 'up{job="adit"}' 1
until_true "alice's three requests are there" value 'adit_requests_total{client="alice",service="alice",status="2xx"}' 3
until_true "and the one that was refused" value 'adit_failures_total{code="unknown_name"}' 1

dashboard() { python3 "$top/tests/metrics/dashboard.py" "127.0.0.1:$port" "$top/docker/grafana/adit.json" >logs/dashboard 2>&1; }
# A rate needs two looks at the page.
until_true "it understands what the dashboard asks" dashboard
fine "$(cat logs/dashboard)"

step "The agent leaves: an alert fires, and goes when it is back"
alert() { # NAME STATE: whether the alert is so, or absent
    ask /api/v1/alerts | python3 -c '
import json, sys
states = {alert["state"] for alert in json.load(sys.stdin)["data"]["alerts"] if alert["labels"]["alertname"] == sys.argv[1]}
sys.exit(states != ({sys.argv[2]} if sys.argv[2] != "absent" else set()))' "$1" "$2" 2>>logs/curl
}
until_true "AditClientOffline does not fire" alert AditClientOffline absent
kill "$agent"
until_true "AditClientOffline fires" alert AditClientOffline firing
ask /api/v1/alerts | grep -q 'no agent of alice is connected' || wrong "the alert does not say who is away"
agent agent-2
until_true "AditClientOffline is over" alert AditClientOffline absent
ask /api/v1/alerts | grep -q '"alerts":\[\]' || wrong "other alerts fire: $(ask /api/v1/alerts)"
fine "and no other alert fires"
