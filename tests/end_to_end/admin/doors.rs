//! Who gets in, and what everybody may see who is on the same machine.

use adit::auth::{AdminNonce, AdminToken, NONCE_FIELD, PROOF_FIELD};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Operator, audited};
use crate::harness::apps::{self, Script};
use crate::harness::visitor::{self, Visitor, read_until};
use crate::harness::{TestAgent, TestServer, service, soon, token};

const OPEN: [&str; 4] = ["/healthz", "/readyz", "/ask?domain=localhost", "/api/v1/openapi.json"];

#[tokio::test]
async fn pages_for_watchers_are_open_to_this_machine_by_its_own_names() {
    let operator = Operator::start(&[]);
    for page in OPEN {
        for host in ["localhost:9091", "127.0.0.1", "[::1]:9091"] {
            let told = operator.ask_with(Method::GET, page, &[("host", host)], "").await;
            assert_eq!(told.status, 200, "{page} {host}: {told:?}");
        }
        // A page of a browser whose own name leads here; a proxy in front that speaks for somebody else.
        for fields in [&[("host", "evil.example:9091")][..], &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]]
        {
            let told = operator.ask_with(Method::GET, page, fields, "").await;
            assert_eq!(told.code(), (401, "token_needed"), "{page} {fields:?}");
        }
        let bearer = format!("Bearer {}", operator.token);
        let fields = [("host", "adit.example"), ("authorization", bearer.as_str()), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(operator.ask_with(Method::GET, page, &fields, "").await.status, 200, "{page}");
    }
}

#[tokio::test]
async fn a_server_proves_that_it_knows_the_token_to_whoever_asks_in_form() {
    let operator = Operator::start(&[]);
    let token = AdminToken::read(&operator.server.dir().path().join("admin-token")).unwrap();
    let nonce = AdminNonce::generate().unwrap();
    let text = nonce.to_string();
    let ask = async |page: &str, host: &str, nonces: &[&str]| {
        let fields: Vec<_> =
            [("host", host)].into_iter().chain(nonces.iter().map(|nonce| (NONCE_FIELD, *nonce))).collect();
        let told = operator.ask_with(Method::GET, page, &fields, "").await;
        (told.status, told.headers.get(PROOF_FIELD).map(|proof| proof.as_bytes().to_vec()))
    };
    // Refused or not: a tool that asks at another address than loopback has to know whom it shows the token.
    for (host, status) in [("localhost", 200), ("adit.example", 401)] {
        let (got, proof) = ask("/healthz", host, &[&text]).await;
        assert!(got == status && nonce.is_proved(&token, operator.address, &proof.unwrap()), "{host}");
    }
    let long = format!("{text}0");
    for (page, nonces) in [
        ("/healthz", &[][..]),
        ("/healthz", &[""]),
        ("/healthz", &[&long]),
        ("/healthz", &[&text, &text]),
        ("/readyz", &[&text]),
    ] {
        assert_eq!(ask(page, "localhost", nonces).await, (200, None), "{page} {nonces:?}");
    }
}

#[tokio::test]
async fn the_api_needs_the_token_and_wrong_ones_are_limited() {
    let operator = Operator::start(&[("limits.per_ip.logins_per_minute", "3")]);
    let pages =
        ["/api/v1/clients", "/api/v1/invites", "/api/v1/tunnels", "/api/v1/services", "/api/v1/requests", "/nope"];
    for page in pages {
        let told = operator.ask_with(Method::GET, page, &[("host", "localhost")], "").await;
        assert_eq!(told.code(), (401, "token_needed"), "{page}");
        assert_eq!(told.headers["www-authenticate"], "Bearer realm=\"adit admin\"");
    }
    let clients = token("alice").as_secret().expose();
    let basic = format!("Basic {}", operator.token);
    for (wrong, code) in [
        (basic.as_str(), (401, "token_needed")),
        (&format!("Bearer {clients}"), (401, "bad_token")),
        (&format!("Bearer {}x", operator.token), (401, "bad_token")),
        ("bearer adit_admin_", (401, "bad_token")),
        ("Bearer x", (429, "too_many_failures")),
    ] {
        let fields = [("host", "localhost"), ("authorization", wrong)];
        let told = operator.ask_with(Method::DELETE, "/api/v1/clients/somebody", &fields, "").await;
        assert_eq!(told.code(), code, "{wrong}");
        if code.0 == 429 {
            assert!(told.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
        }
    }
    let lines = audited("/api/v1/clients/somebody");
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("action=\"DELETE\"") && line.contains("outcome=\"bad_token\"")));
    assert!(lines.iter().all(|line| !line.contains(&operator.token) && !line.contains(clients)), "{lines:?}");
    // Whoever has it need not wait for those who guess.
    assert_eq!(operator.get("/api/v1/clients").await.status, 200);
    assert_eq!(operator.get("/nope").await.code(), (404, "no_such_page"));
}

#[tokio::test]
async fn what_is_asked_in_a_wrong_way_is_told_so() {
    let operator = Operator::start(&[]);
    let told = operator.ask(Method::PUT, "/api/v1/clients", "{}").await;
    assert_eq!(told.code(), (405, "method_not_allowed"));
    let allowed = told.headers["allow"].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST") && !allowed.contains("PUT"), "{allowed}");
    assert_eq!(operator.ask(Method::OPTIONS, "/healthz", "").await.status, 405);
    assert_eq!(operator.post("/api/v1/clients", "{").await.code(), (400, "bad_json"));
    assert_eq!(operator.post("/api/v1/clients", "").await.code(), (415, "unsupported_media_type"));
    let told = operator.post("/api/v1/clients", r#"{"id": 5}"#).await;
    assert_eq!(told.code(), (422, "invalid"));
    assert!(told.body["problems"][0]["message"].as_str().unwrap().starts_with("id: "), "{told:?}");
    for (path, body) in [
        ("clients", r#"{"id": "dave", "x": 1}"#),
        ("clients", r#"{"id": "dave", "id": "dave"}"#),
        ("clients", r#"["dave", null, null, null, null]"#),
        ("invites", "[]"),
        ("clients/alice/rotate", "[]"),
    ] {
        let told = operator.post(&format!("/api/v1/{path}"), body).await;
        assert_eq!(told.code(), (422, "invalid"), "{path} {body}");
    }
    let large = format!(r#"{{"id": "{}"}}"#, "x".repeat(70_000));
    assert_eq!(operator.post("/api/v1/clients", &large).await.code(), (413, "too_large"));
    for query in ["limit=0", "limit=1001", "limit=x", "x=1", "limit=1&limit=2"] {
        assert_eq!(operator.get(&format!("/api/v1/clients?{query}")).await.code(), (400, "bad_query"), "{query}");
    }
    assert_eq!(operator.get("/api/v1/tunnels?client=No").await.code(), (400, "bad_query"));
    assert_eq!(operator.get("/api/v1/clients/%FF").await.code(), (400, "bad_path"));
    assert_eq!(operator.get("/api/v1/clients/No").await.code(), (404, "not_found"));
}

#[tokio::test]
async fn a_proxy_learns_for_which_hosts_it_may_get_a_certificate() {
    let operator = Operator::start(&[]);
    operator.write_file(&(super::clients() + "domains = [\"carol.example\", \"*.carol.example\"]\n"));
    operator.server.clients_file.reload_changed().await;
    // Carol's domains count as soon as the file is read.
    let asks = async |host: &str| {
        let told = operator.ask_with(Method::GET, &format!("/ask?domain={host}"), &[("host", "localhost")], "").await;
        told.status
    };
    soon("the new clients file", async { while asks("carol.example").await != 200 {} }).await;
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST.", 200),
        ("alice.localhost", 200),
        ("blog.localhost", 200),
        ("deep.carol.example", 200),
        ("nobody.localhost", 404),
        ("x.alice.localhost", 404),
        ("health.localhost", 404),
        ("other.example", 404),
        ("evil-localhost", 404),
        ("127.0.0.1", 404),
        ("", 400),
        ("a..b", 400),
        ("https://localhost", 400),
        ("a%20b", 400),
    ] {
        assert_eq!(asks(host).await, status, "{host}");
    }
    assert_eq!(operator.get("/ask").await.code(), (400, "bad_query"));
}

#[tokio::test]
async fn a_clients_file_that_cannot_be_used_is_no_good_health() {
    let operator = Operator::start(&[]);
    let good = operator.get("/healthz").await.body;
    assert_eq!((&good["status"], &good["clients"], &good["tunnels"]), (&"ok".into(), &3.into(), &0.into()), "{good}");
    assert_eq!(
        (good["version"].as_str(), good["problems"].as_array().unwrap().len()),
        (Some(env!("CARGO_PKG_VERSION")), 0)
    );
    let broken = operator.file().replace("[clients.bob]", "[clients.bob]\nnamse = []");
    operator.write_file(&broken);
    operator.server.clients_file.reload_changed().await;
    let mut problems = operator.server.clients_file.watch_problems();
    soon("a file that is found to be broken", problems.wait_for(Option::is_some)).await.unwrap();
    let health = operator.get("/healthz").await;
    assert_eq!((health.status, health.body["status"].as_str()), (200, Some("degraded")));
    let health = health.body;
    assert_eq!(health["clients"], 3, "what it said before counts");
    assert!(health["problems"][0].as_str().unwrap().contains("clients.bob.namse: unknown key"), "{health}");
    // Nothing can be changed in such a file, and nothing is.
    let told = operator.post("/api/v1/clients", r#"{"id": "dave"}"#).await;
    assert_eq!((told.code(), told.keys()), ((409, "conflict"), vec!["clients.bob.namse"]));
    assert_eq!(operator.file(), broken);
}

#[tokio::test]
async fn a_server_that_drains_says_so_until_its_visitors_have_left() {
    let operator = Operator::start(&[]);
    let mut app = Script::start().await;
    let _agent = TestAgent::connect(&operator.server, "alice", &[("alice", app.address)]).await;
    let mut visitor = visitor::raw(operator.server.public, "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n").await;
    let (mut local, _) = app.request().await;
    let mut watcher = Visitor::connect(operator.address).await;
    let mut ready = async || {
        let request = Request::builder().uri("/readyz").header("host", operator.address.to_string());
        let told = watcher.ask(request.body(Full::<Bytes>::default()).unwrap()).await;
        serde_json::from_slice::<serde_json::Value>(&told.body).unwrap()["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(ready().await, "ready");
    let kept = TcpStream::connect(operator.address).await.unwrap();
    operator.server.begin_stop();
    let draining = async { while ready().await != "draining" {} };
    soon("a server that drains", draining).await;
    // A successor can have the port while visitors are still served.
    let successor = adit::transport::listen::bind(operator.address, "admin.listen").unwrap();
    drop(successor);
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend";
    tokio::io::AsyncWriteExt::write_all(&mut local, whole).await.unwrap();
    read_until(&mut visitor, "end").await;
    drop(visitor);
    // A connection that asks nothing holds nobody up.
    operator.server.stop().await;
    drop(kept);
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let operator = Operator::start(&[]);
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(operator.address).await.unwrap());
    }
    silent.push(TcpStream::connect(operator.address).await.unwrap());
    // The first of them makes room.
    let end = soon("the end of one too many", silent[0].read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// Ways to hold a connection that costs next to nothing.
#[derive(Debug, Clone, Copy)]
enum Holds {
    Silent,
    HalfAHead,
    KeptAlive,
    RefusedAndSending,
    AnswerNotRead,
}

impl Holds {
    async fn hold(self, address: std::net::SocketAddr) -> TcpStream {
        let head = match self {
            Self::Silent => return TcpStream::connect(address).await.unwrap(),
            Self::HalfAHead => "GET /healthz HTTP/1.1\r\nHost: local",
            Self::KeptAlive => "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            Self::RefusedAndSending => {
                "POST /api/v1/clients HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\nx"
            }
            Self::AnswerNotRead => "GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
        };
        let mut socket = visitor::raw(address, head).await;
        if matches!(self, Self::KeptAlive | Self::RefusedAndSending) {
            read_until(&mut socket, "\r\n\r\n").await;
        }
        socket
    }
}

#[tokio::test]
async fn connections_that_do_nothing_lock_nobody_out() {
    for how in [Holds::Silent, Holds::HalfAHead, Holds::KeptAlive, Holds::RefusedAndSending, Holds::AnswerNotRead] {
        let operator = Operator::start(&[]);
        let mut held = Vec::new();
        for _ in 0..200 {
            held.push(how.hold(operator.address).await);
        }
        for page in ["/healthz", "/readyz", "/metrics", "/ask?domain=localhost"] {
            let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let mut socket = visitor::raw(operator.address, &request).await;
            let answer = read_until(&mut socket, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{how:?} {page}: {answer}");
        }
        assert_eq!(operator.get("/api/v1/tunnels").await.status, 200, "{how:?}");
        drop(held);
    }
}

#[tokio::test]
async fn a_request_that_is_under_way_is_not_cut_for_others_and_whoever_finds_no_place_is_told() {
    let operator = Operator::start(&[]);
    let text = r#"{"id": "dave"}"#;
    let post = |length: usize| {
        format!(
            "POST /api/v1/clients HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: \
             application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
            operator.token
        )
    };
    let mut first = visitor::raw(operator.address, &post(text.len())).await;
    read_until(&mut first, "100 Continue\r\n\r\n").await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(operator.address).await.unwrap());
    }
    // Each connection has a request under way: none makes room.
    let mut under_way = Vec::new();
    for _ in 0..63 {
        let mut socket = visitor::raw(operator.address, &post(10)).await;
        read_until(&mut socket, "100 Continue\r\n\r\n").await;
        under_way.push(socket);
    }
    for _ in 0..3 {
        let mut excess = visitor::raw(operator.address, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = String::new();
        soon("a refusal", excess.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], "port_busy");
        assert!(body["message"].as_str().unwrap().contains("all of its 64 connections are in use"), "{body}");
    }
    tokio::io::AsyncWriteExt::write_all(&mut first, text.as_bytes()).await.unwrap();
    let answer = read_until(&mut first, "\r\n\r\n").await;
    assert!(answer.contains("HTTP/1.1 201 "), "{answer}");
    drop((silent, under_way));
}

#[tokio::test]
async fn whoever_says_nothing_is_cut_at_the_deadline() {
    let operator = Operator::start(&[("timeouts.head", "200ms")]);
    let mut silent = TcpStream::connect(operator.address).await.unwrap();
    let mut half = visitor::raw(operator.address, "GET /healthz HTTP/1.1\r\nHost:").await;
    for socket in [&mut silent, &mut half] {
        let end = soon("the end of a silent connection", socket.read(&mut [0; 16])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let server = TestServer::start(&[]);
    assert_eq!(server.admin, None);
    assert!(!server.dir().path().join("admin-token").exists());
}

#[tokio::test]
async fn tunnels_and_services_are_shown_in_pieces_and_by_client() {
    let operator = Operator::start(&[]);
    let local = apps::fixed("here").await;
    let _alice = TestAgent::connect(&operator.server, "alice", &[("alice", local), ("blog", local)]).await;
    let _bob = TestAgent::connect(&operator.server, "bob", &[("bob", local)]).await;
    let tcp = service("carol", &local.to_string(), &[]);
    let _carol = TestAgent::connect_with(&operator.server, "carol", vec![tcp]).await;

    let all = operator.get("/api/v1/tunnels").await;
    let (ids, mut clients) = (all.each("id"), all.each("client"));
    assert!(ids.is_sorted() && ids.len() == 3, "{all:?}");
    clients.sort_unstable();
    assert_eq!((clients, &all.body["next"]), (vec!["alice", "bob", "carol"], &serde_json::Value::Null));
    let first = operator.get("/api/v1/tunnels?limit=2").await;
    assert_eq!((first.each("id"), first.body["next"].as_str()), (ids[..2].to_vec(), Some(ids[1])));
    let rest = operator.get(&format!("/api/v1/tunnels?limit=2&after={}", ids[1])).await;
    assert_eq!((rest.each("id"), rest.body["next"].as_str()), (vec![ids[2]], None));

    let alice = operator.get("/api/v1/tunnels?client=alice").await;
    let item = &alice.body["items"][0];
    assert_eq!((item["state"].as_str(), &item["lanes"], &item["streams"]), (Some("serving"), &1.into(), &0.into()));
    assert_eq!(item["services"], serde_json::json!(["alice", "blog"]));
    assert!(
        item["agent"].as_str().unwrap().starts_with("adit ")
            && item["peer"].as_str().unwrap().starts_with("127.0.0.1:")
    );
    let id = item["id"].as_str().unwrap();
    assert_eq!(&operator.get(&format!("/api/v1/tunnels/{id}")).await.body, item);
    assert_eq!(operator.get("/api/v1/tunnels/0123").await.code(), (404, "not_found"));
    assert_eq!(operator.get("/api/v1/clients/alice").await.body["tunnels"], serde_json::json!([id]));

    let services = operator.get("/api/v1/services").await;
    assert_eq!(services.each("name"), ["alice", "blog", "bob", "carol"]);
    let services = operator.get("/api/v1/services?client=alice&limit=1").await;
    let item = &services.body["items"][0];
    assert_eq!((item["kind"].as_str(), item["client"].as_str()), (Some("http"), Some("alice")));
    assert_eq!(item["tunnels"], serde_json::json!([id]));
    let port = operator.server.public.port();
    assert_eq!(item["public_urls"][0], format!("http://alice.localhost:{port}/"));
    assert_eq!(services.body["next"], "alice");
}
