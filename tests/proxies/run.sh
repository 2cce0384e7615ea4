#!/usr/bin/env bash
# nginx and Caddy in front of a server, as the documents configure them.
#
#     tests/proxies/run.sh target/debug/adit
#
# The configurations are taken out of README.md and docs/https.md. Changed in them are ports, paths, and for Caddy who makes
# the certificates: its own authority instead of a public one, which nobody here could reach.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
adit=$(realpath "${1:?which adit?}")
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=tests/scratch.sh
source "$top/tests/scratch.sh"
mkdir -p nginx caddy
chmod 755 "$scratch"
export HOME=$scratch XDG_CONFIG_HOME=$scratch/caddy XDG_DATA_HOME=$scratch/caddy

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# The block that begins with such a line, out of a document.
block() { # FILE FIRST-LINE
    awk -v first="$2" '/^```/ { if (on) exit; fresh = 1; next } fresh { on = ($0 == first); fresh = 0 } on' "$1"
}
listens() { # PORT: waits for somebody to take connections there
    local end=$((SECONDS + patience))
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
        [ "$SECONDS" -lt "$end" ] || wrong "nobody listens on $1"
        sleep 0.1
    done
}

step "A server as docs/https.md has it for a proxy in front, an agent, an application"
background app python3 "$top/tests/proxies/echo.py"
app=$(said app '^port ' | cut -d ' ' -f 2)
block "$top/docs/https.md" "# server.toml" >config/first.toml # the one with certificates, which is not wanted here
awk '/^## nginx in front/ { on = 1 } on' "$top/docs/https.md" >section.md
block section.md "# server.toml" >config/server.toml
grep -q trusted_proxies config/server.toml || wrong "the block is not where it was"
public=127.0.0.1:$(free_port) admin=127.0.0.1:$(free_port)
token=$("$adit" token new alice --clients config/clients.toml 2>>logs/operator)
background server "$adit" server --config config/server.toml --set "public.http=$public" --set "admin.listen=$admin" \
    --set tunnel.listen=127.0.0.1:0 --set tunnel.tls.dir="$scratch/certs"
tunnel=$(said server '^  agents dial' | grep -oE '127\.0\.0\.1:[0-9]+')
fingerprint=$(said server '^  fingerprint' | grep -oE 'sha256:[0-9a-f]+')
background agent env ADIT_TOKEN="$token" "$adit" http "$app" --server "$tunnel" --id alice --fingerprint "$fingerprint"
said agent 'https://alice.tunnel.example.com' >/dev/null
fine "the agent is told https://alice.tunnel.example.com"

# A visitor, who finds the proxy at this port and trusts this authority.
visit() { # PORT AUTHORITY HOST [CURL…]
    curl -sS --max-time "$patience" --cacert "$2" --resolve "$3:$1:127.0.0.1" "https://$3:$1/" "${@:4}"
}
holds() { # WHO PORT AUTHORITY
    local shown
    shown=$(visit "$2" "$3" alice.tunnel.example.com -H 'X-Forwarded-For: 198.51.100.9')
    grep -qi '^x-forwarded-proto: https' <<<"$shown" || wrong "no https: $shown"
    grep -qi "^x-forwarded-for: 127.0.0.1" <<<"$shown" || wrong "not the visitor: $shown"
    grep -qi '^host: alice.tunnel.example.com' <<<"$shown" || wrong "not the host: $shown"
    fine "$1: host, https and the visitor's address arrive; what a visitor claims does not"
    local upgrade
    upgrade=$(visit "$2" "$3" alice.tunnel.example.com --http1.1 -o /dev/null -w '%{http_code}' -H 'Connection: Upgrade' \
        -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' 2>>logs/curl || true)
    [ "$upgrade" = 101 ] || wrong "a WebSocket gets $upgrade"
    fine "$1: a WebSocket is 101"
}

step "nginx, as the README has it"
port=$(free_port)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tunnel.example.com \
    -addext 'subjectAltName=DNS:tunnel.example.com,DNS:*.tunnel.example.com' \
    -keyout nginx/privkey.pem -out nginx/fullchain.pem 2>>logs/openssl
block "$top/README.md" "map \$http_upgrade \$connection_upgrade { default upgrade; '' ''; }" |
    sed "s|listen 443|listen 127.0.0.1:$port|; s|/etc/ssl/tunnel|$scratch/nginx|; s|127.0.0.1:9090|$public|" >nginx/site.conf
grep -q proxy_pass nginx/site.conf || wrong "the block is not where it was"
cat >nginx/nginx.conf <<CONF
daemon off;
pid $scratch/nginx/pid;
error_log $scratch/logs/nginx-errors;
events {}
http {
    access_log off;
    client_body_temp_path $scratch/nginx/body;
    proxy_temp_path $scratch/nginx/proxy;
    fastcgi_temp_path $scratch/nginx/fastcgi;
    uwsgi_temp_path $scratch/nginx/uwsgi;
    scgi_temp_path $scratch/nginx/scgi;
    include $scratch/nginx/site.conf;
}
CONF
background nginx nginx -c "$scratch/nginx/nginx.conf" -e "$scratch/logs/nginx-errors"
listens "$port"
holds nginx "$port" nginx/fullchain.pem

step "Caddy, as docs/https.md has it, with certificates on demand"
port=$(free_port)
awk '/^## Caddy in front/ { on = 1 } on' "$top/docs/https.md" >section.md
block section.md "{" | sed "s|127.0.0.1:9091|$admin|; s|127.0.0.1:9090|$public|" |
    sed "1a\\	admin off\\n	local_certs\\n	skip_install_trust\\n	https_port $port\\n	http_port $(free_port)\\n	default_bind 127.0.0.1" >caddy/Caddyfile
grep -q on_demand caddy/Caddyfile || wrong "the block is not where it was"
background caddy caddy run --config caddy/Caddyfile --adapter caddyfile
listens "$port"
authority=caddy/caddy/pki/authorities/local/root.crt
holds Caddy "$port" "$authority"
if visit "$port" "$authority" stranger.example -o /dev/null 2>>logs/curl; then wrong "Caddy has a certificate for a stranger"; fi
fine "Caddy: no certificate for a host that is nobody's"
grpc=$(visit "$port" "$authority" alice.tunnel.example.com --http2 -o /dev/null -w '%{http_version} %{http_code}' \
    -H 'Content-Type: application/grpc')
[ "$grpc" = "2 200" ] || wrong "a request of gRPC gets $grpc"
fine "Caddy: what calls itself gRPC goes by HTTP/2"
