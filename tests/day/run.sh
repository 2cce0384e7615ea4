#!/usr/bin/env bash
# An operator's day, as commands: tenants come, change their minds, are sent away, and nobody else notices.
#
#     tests/day/run.sh target/debug/adit
#
# Everything happens on loopback, in a scratch folder, on ports that the system chooses. Each step says what it does and
# fails loudly if that does not come true.
set -euo pipefail

adit=$(realpath "${1:?which adit?}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
mkdir -p "$scratch"/{config,logs,alice,bob}
cd "$scratch"
unset "${!ADIT_@}"
export NO_COLOR=1
patience=20
started=()

finish() {
    local code=$?
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ]; then
        echo "failed; what was said:" >&2
        tail -n 15 "$scratch"/logs/* >&2
    fi
    rm -rf "$scratch"
}
trap finish EXIT

bold='' green='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' plain=$'\e[0m'; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fine() { printf '  %sok%s  %s\n' "$green" "$plain" "$*"; }
wrong() { printf '  NOT  %s\n' "$*" >&2; exit 1; }

# background NAME COMMAND…: runs it with its output in logs/NAME.
background() {
    local name=$1
    shift
    "$@" >"logs/$name" 2>&1 &
    last=$!
    started+=("$last")
}

# said NAME PATTERN: waits until a line of logs/NAME matches, and prints it.
said() {
    timeout "$patience" grep -m1 -E "$2" <(exec tail --pid=$$ -n +1 -F "logs/$1" 2>/dev/null) ||
        wrong "$1 never said: $2"
}

# ended PID CODE: waits for a process to end by itself, with this exit code.
ended() {
    timeout "$patience" tail --pid="$1" -f /dev/null || wrong "process $1 does not end"
    local code=0
    wait "$1" || code=$?
    [ "$code" -eq "$2" ] || wrong "process $1 ended with $code, not $2"
}

# get NAME: what a visitor gets, and then the status on a line of its own.
get() { curl -sS --max-time "$patience" -H "Host: $1.localhost" -w '\n%{http_code}' "http://$public/${2:-}"; }
status() { curl -sS --max-time "$patience" -o /dev/null -w '%{http_code}' -H "Host: $1.localhost" "http://$public/"; }

# becomes NAME CODE: waits until a visitor of NAME gets this status.
becomes() {
    timeout "$patience" bash -c "until [ \"\$(curl -sS -o /dev/null -w '%{http_code}' -H 'Host: $1.localhost' http://$public/)\" = $2 ]; do :; done" ||
        wrong "$1 does not become $2"
}

shows() { # NAME TEXT
    local got
    got=$(get "$1")
    [[ $got == "$2"*$'\n'200 ]] || wrong "$1 shows: $got"
    fine "http://$1.localhost/ shows \"$2\""
}

step "The applications of the tenants"
for app in alice-site alice-wiki bob-site bob-shop; do
    background "$app" python3 "$here/site.py" "$app"
done
port_of() { said "$1" '^port ' | cut -d' ' -f2; }
fine "four of them, on ports $(port_of alice-site), $(port_of alice-wiki), $(port_of bob-site), $(port_of bob-shop)"

step "The operator writes two lines and starts the server"
cat >config/server.toml <<'TOML'
[tunnel]
listen = "127.0.0.1:0"
[public]
http = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
TOML
echo "# Our tenants" >config/clients.toml
"$adit" check config/server.toml
background server "$adit" server --config config/server.toml
server=$last
tunnel=$(said server 'agents dial' | grep -oE '127.0.0.1:[0-9]+')
public=127.0.0.1:$(said server 'visitors ' | grep -oE ':[0-9]+/' | tr -d ':/')
admin=$(said server 'admin ' | grep -oE '127.0.0.1:[0-9]+' | head -1)
fine "agents at $tunnel, visitors at $public"

step "Two tenants are invited, and register in one line each"
alices=$("$adit" token invite alice --names alice,alice-wiki,alice-notes --config config/server.toml --clients config/clients.toml)
bobs=$("$adit" token invite bob --names bob,bob-shop --config config/server.toml --clients config/clients.toml)
home() { XDG_CONFIG_HOME="$scratch/$1" HOME="$scratch/$1" "${@:2}"; }
redeem() { # WHO CODE: as soon as the server has seen the invitation
    timeout "$patience" bash -c "until '$adit' login '$tunnel' --invite '$2' >>logs/login-$1 2>&1; do :; done"
}
export -f redeem
export adit tunnel patience
XDG_CONFIG_HOME="$scratch/alice" redeem alice "$alices" || wrong "alice cannot register"
XDG_CONFIG_HOME="$scratch/bob" redeem bob "$bobs" || wrong "bob cannot register"
[ "$(stat -c %a "$scratch/alice/adit/login.toml")" = 600 ] || wrong "the login is not alice's alone"
if home alice "$adit" login "$tunnel" --invite "$alices" >>logs/login-again 2>&1; then wrong "an invitation was good twice"; fi
fine "each has a token, mode 0600; an invitation is good once"
"$adit" token list --clients config/clients.toml | sed 's/^/      /'

step "Each connects an agent with two services"
services() { # NAME PORT…
    while [ $# -gt 0 ]; do
        printf '[[services]]\nname = "%s"\nlocal = %s\n' "$1" "$2"
        shift 2
    done
}
services alice "$(port_of alice-site)" alice-wiki "$(port_of alice-wiki)" >alice/agent.toml
services bob "$(port_of bob-site)" bob-shop "$(port_of bob-shop)" >bob/agent.toml
background agent-alice env XDG_CONFIG_HOME="$scratch/alice" "$adit" agent --config alice/agent.toml
agent_alice=$last
background agent-bob env XDG_CONFIG_HOME="$scratch/bob" "$adit" agent --config bob/agent.toml
agent_bob=$last
said agent-alice '^connected' >/dev/null
said agent-bob '^connected' >/dev/null
shows alice alice-site
shows alice-wiki alice-wiki
shows bob bob-site
shows bob-shop bob-shop

step "Alice renames a service while a visitor reads the other one"
background reading curl -sS --max-time 60 -H 'Host: alice.localhost' "http://$public/slow"
reading=$last
said alice-site '^begun /slow' >/dev/null
services alice "$(port_of alice-site)" alice-notes "$(port_of alice-wiki)" >alice/agent.toml
becomes alice-notes 200
shows alice-notes alice-wiki
becomes alice-wiki 503
curl -sS -H 'Host: alice.localhost' "http://$public/go" >/dev/null
ended "$reading" 0
[ "$(cat logs/reading)" = "first half, second half" ] || wrong "the visitor read: $(cat logs/reading)"
fine "the visitor of the other service has read to the end"

step "Bob grabs a name of alice's, and is refused"
cp bob/agent.toml bob/good.toml
services bob "$(port_of bob-site)" bob-shop "$(port_of bob-shop)" alice "$(port_of bob-site)" >bob/agent.toml
said agent-bob 'may not claim the name .alice.' | sed 's/^/      /'
shows alice alice-site
shows bob bob-site
cp bob/good.toml bob/agent.toml

step "The operator makes a mistake in the clients file, and it is refused"
cp config/clients.toml good.toml
sed 's/^names = /naems = /' good.toml >config/clients.toml
said server 'naems: unknown key; did you mean' | sed 's/^/      /'
curl -sS "http://$admin/healthz" | grep -q '"degraded"' || wrong "the health page says nothing of it"
shows alice alice-site
shows bob-shop bob-shop
cp good.toml config/clients.toml

step "Alice's token is rotated, and no request is lost"
background steady python3 "$here/steady.py" "$public" alice
steady=$last
said steady '^running' >/dev/null
token=$("$adit" token rotate alice --overlap 1h --clients config/clients.toml)
said server 'clients file has changed' >/dev/null
relogin() { timeout "$patience" bash -c "until '$adit' login '$tunnel' --id alice --token '$token' --fingerprint '$fingerprint' >>logs/login-alice 2>&1; do :; done"; }
fingerprint=$(said server '  fingerprint' | grep -oE 'sha256:[0-9a-f]+')
export token fingerprint
home alice relogin || wrong "the new token is not taken"
background agent-alice-2 env XDG_CONFIG_HOME="$scratch/alice" "$adit" agent --config alice/agent.toml
said agent-alice-2 '^connected' >/dev/null
ended "$agent_alice" 77
fine "the agent with the old token has made way for one with the new token"
"$adit" token rotate alice --overlap 0s --clients config/clients.toml >logs/last-token
ended "$last" 77
fine "without an overlap, the token before ends at once"
becomes alice 503
home alice bash -c "XDG_CONFIG_HOME=$scratch/alice; export XDG_CONFIG_HOME; '$adit' login '$tunnel' --id alice --token \"\$(cat logs/last-token)\" --fingerprint '$fingerprint'" >>logs/login-alice 2>&1 || wrong "the last token is not taken"
