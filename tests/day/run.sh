#!/usr/bin/env bash
# An operator's day, as commands: tenants come, change their minds, are sent away, and nobody else notices.
#
#     tests/day/run.sh target/debug/adit
#
# Everything happens on loopback, in a scratch folder, on ports that the system chooses. Each step says what it does, and
# the day ends at the first one that does not come true.
set -euo pipefail

adit=$(realpath "${1:?which adit?}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/scratch.sh
source "$here/../scratch.sh"
mkdir -p alice bob

# taken_over: waits until the server goes by the clients file as it is now.
changes=0
taken_over() {
    changes=$((changes + 1))
    said server 'the clients file has changed and counts' "$changes" >/dev/null
}

# ended PROCESS CODE: waits for a process to end by itself, with this exit code.
ended() {
    local code=0
    timeout "$patience" tail --pid="$1" -f /dev/null || wrong "process $1 goes on"
    wait "$1" || code=$?
    [ "$code" -eq "$2" ] || wrong "process $1 has ended with $code, not $2"
}

visit() { curl -sS --max-time "$patience" -H "Host: $1.localhost" "${@:3}" "http://$public$2"; }
shows() { # NAME TEXT: what a visitor of this name sees
    local got
    got=$(visit "$1" / -w ' %{http_code}')
    [ "$got" = "$2 200" ] || wrong "$1 shows: $got"
    fine "http://$1.localhost/ shows \"$2\""
}
answers() { # NAME STATUS
    local got
    got=$(visit "$1" / -o /dev/null -w '%{http_code}')
    [ "$got" = "$2" ] || wrong "$1 answers $got, not $2"
    fine "http://$1.localhost/ answers $2"
}

home() { env XDG_CONFIG_HOME="$scratch/$1" "${@:2}"; }
services() { # NAME PORT …: what an agent offers
    while [ $# -gt 0 ]; do
        printf '[[services]]\nname = "%s"\nlocal = %s\n\n' "$1" "$2"
        shift 2
    done
}
agent() { # WHO LOG: an agent with the login that is kept at home
    background "$2" env XDG_CONFIG_HOME="$scratch/$1" "$adit" agent --config "$1/agent.toml"
    said "$2" '^connected' >/dev/null
}

step "Four applications are there, two of each tenant"
for app in alice-site alice-wiki bob-site bob-shop; do background "$app" python3 "$here/site.py" "$app"; done
port_of() { said "$1" '^port ' | cut -d ' ' -f 2; }
site=$(port_of alice-site) wiki=$(port_of alice-wiki) bobs=$(port_of bob-site) shop=$(port_of bob-shop)
fine "on the ports $site, $wiki, $bobs and $shop"

step "The operator writes a few lines and starts the server"
cat >config/server.toml <<'TOML'
[tunnel]
listen = "127.0.0.1:0"
[public]
http = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[limits.per_ip]
requests_per_second = 100000     # everybody comes from one address today
burst = 100000
TOML
echo "# Our tenants" >config/clients.toml
"$adit" check config/server.toml | sed 's/^/  /'
background server "$adit" server --config config/server.toml
server=$last
tunnel=$(said server '^  agents dial' | grep -oE '127\.0\.0\.1:[0-9]+')
public=127.0.0.1:$(said server '^  visitors' | grep -oE '[0-9]+/$' | tr -d /)
admin=$(said server '^  admin' | grep -oE '127\.0\.0\.1:[0-9]+' | head -n 1)
fingerprint=$(said server '^  fingerprint' | grep -oE 'sha256:[0-9a-f]+')
fine "agents dial $tunnel, visitors come to $public"

step "Two tenants are invited, and register with one line each"
for who in alice bob; do
    code=$("$adit" token invite "$who" --names "$who,$who-wiki,$who-shop" 2>>logs/operator)
    taken_over
    home "$who" "$adit" login "$tunnel" --invite "$code" >>"logs/login-$who" 2>&1 || wrong "$who cannot register"
    taken_over
    [ "$(stat -c %a "$who/adit/login.toml")" = 600 ] || wrong "others can read the login of $who"
    if home "$who" "$adit" login "$tunnel" --invite "$code" >>"logs/login-$who" 2>&1; then wrong "a code was good twice"; fi
    fine "$who has a token, in a file that is nobody else's; the code is good for nothing any more"
done
"$adit" token list | sed 's/^/      /'
grep -q '^# Our tenants' config/clients.toml || wrong "the comment in the clients file is gone"

step "Each connects an agent with two services"
services alice "$site" alice-wiki "$wiki" >alice/agent.toml
services bob "$bobs" bob-shop "$shop" >bob/agent.toml
agent alice agent-alice
agent_alice=$last
agent bob agent-bob
agent_bob=$last
shows alice alice-site
shows alice-wiki alice-wiki
shows bob bob-site
shows bob-shop bob-shop

step "Alice renames one service while a visitor reads the other"
background reading curl -sS --max-time 60 -H 'Host: alice.localhost' "http://$public/slow"
reading=$last
said alice-site '^begun /slow' >/dev/null
services alice "$site" alice-shop "$wiki" >alice/agent.toml
said agent-alice 'http://alice-shop\.localhost' >/dev/null
shows alice-shop alice-wiki
answers alice-wiki 503
visit alice /go >/dev/null
ended "$reading" 0
[ "$(cat logs/reading)" = "first half, second half" ] || wrong "the visitor has read: $(cat logs/reading)"
fine "the visitor of the other service has read to the end"

step "The operator looks who is there, and gives alice one more name"
"$adit" status --set "admin.listen=$admin" >logs/status
sed 's/^/      /' logs/status
grep -qE '^alice +alice,alice-shop +0 +serving ' logs/status || wrong "alice is not in it"
"$adit" token set alice --names +alice-lab 2>>logs/operator | sed 's/^/      /'
taken_over
grep -qF '"alice-shop", "alice-lab"]' config/clients.toml || wrong "the name is not there"
shows alice alice-site

step "Bob claims a name of alice's, and is refused"
cp bob/agent.toml bob/before.toml
services bob "$bobs" bob-shop "$shop" alice "$bobs" >bob/agent.toml
said agent-bob 'may not claim the name `alice`' | sed 's/^/      /'
shows alice alice-site
shows bob bob-site
cp bob/before.toml bob/agent.toml

step "The operator makes a mistake in the clients file, and it is refused"
cp config/clients.toml config/before.toml
sed 's/^names = /naems = /' config/before.toml >config/clients.toml
said server 'naems: unknown key; did you mean' | sed 's/^/      /'
health=$(curl -sS "http://$admin/healthz")
[[ $health == *'"status":"degraded"'*naems* ]] || wrong "the operator's health page says: $health"
fine "http://$admin/healthz says so too"
shows alice alice-site
shows bob-shop bob-shop
cp config/before.toml config/clients.toml

step "Alice's token is rotated, and no request is lost"
background steady python3 "$here/steady.py" "$public" alice
steady=$last
said steady '^running' >/dev/null
token=$("$adit" token rotate alice --overlap 1h 2>>logs/operator)
taken_over
home alice "$adit" login "$tunnel" --id alice --token "$token" --fingerprint "$fingerprint" >>logs/login-alice 2>&1 ||
    wrong "the new token is not taken"
agent alice agent-alice-2
agent_alice_2=$last
said agent-alice '^standing by' >/dev/null
kill "$agent_alice"
ended "$agent_alice" 0
fine "the agent with the old token has made way for one with the new token"
"$adit" token list | grep '^alice' | sed 's/^/      /'
kill "$steady"
ended "$steady" 0
fine "$(tail -n 1 logs/steady)"

step "Bob is sent away while a visitor reads at alice's"
background reading-on curl -sS --max-time 60 -H 'Host: alice.localhost' "http://$public/slow"
reading=$last
said alice-site '^begun /slow' 2 >/dev/null
sent_away=$(date +%s%N)
"$adit" token revoke bob 2>&1 | sed 's/^/      /'
said server 'revoked by the operator client=bob' >/dev/null
fine "his tunnel was cut within $((($(date +%s%N) - sent_away) / 1000000)) ms"
said agent-bob 'not connected: .* refused .bad_token.' >/dev/null
answers bob 404
kill "$agent_bob"
ended "$agent_bob" 0
fine "his agent says why and goes on asking, until it is stopped"
visit alice /go >/dev/null
ended "$reading" 0
[ "$(cat logs/reading-on)" = "first half, second half" ] || wrong "the visitor has read: $(cat logs/reading-on)"
fine "alice's visitor has read to the end"

step "The day is over"
kill "$agent_alice_2"
ended "$agent_alice_2" 0
kill "$server"
ended "$server" 0
fine "server and agent have stopped as asked"
