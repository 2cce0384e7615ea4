//! Who gets in, who does not, and what each of them learns.

use std::time::Duration;

use adit::agent::{GivenUp, State};
use adit::link::handshake::{receive_answer, send};
use adit::protocol::json;
use adit::protocol::login::{Answer, Hello, MAX_SERVICES, Proof, Refusal};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::puppet::{self, hello, log_in};
use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, TestServer, apps, clients, clients_file, soon, spawn, token, until};

async fn refusal(server: &TestServer, hello: &Hello) -> (Refusal, String) {
    let refused = log_in(server, hello).await.expect_err("the login should have been refused");
    (refused.code, refused.message)
}

fn wrong_token() -> Option<Proof> {
    Some(Proof::Token(adit::auth::Token::generate().unwrap().as_secret().clone()))
}

#[tokio::test]
async fn the_right_token_gets_in_and_learns_where_it_is_reached() {
    let server = TestServer::start(&[]);
    let (welcome, _pipe) = log_in(&server, &hello("alice", &["alice", "blog"])).await.unwrap();
    let port = server.public.port();
    assert_eq!(welcome.services.len(), 2);
    assert_eq!(
        welcome.services[1].public_urls,
        [format!("http://blog.localhost:{port}/"), format!("http://localhost:{port}/blog/")]
    );
}

#[tokio::test]
async fn a_wrong_token_and_an_unknown_client_get_the_same_answer() {
    let server = TestServer::start(&[]);
    let wrong = Hello { proof: wrong_token(), ..hello("alice", &["alice"]) };
    let unknown = Hello { client_id: "mallory".parse().unwrap(), ..hello("alice", &["mallory"]) };
    let without = Hello { proof: None, ..hello("alice", &["alice"]) };
    let expected = refusal(&server, &wrong).await;
    assert_eq!(expected.0, Refusal::BadToken);
    assert_eq!(refusal(&server, &unknown).await, expected);
    assert_eq!(refusal(&server, &without).await, expected);
    let foreign = Hello { client_id: "bob".parse().unwrap(), ..hello("alice", &["bob"]) };
    assert_eq!(refusal(&server, &foreign).await, expected, "alice's token is not bob's");
}

#[tokio::test]
async fn a_skewed_clock_is_named_but_only_to_the_tokens_owner() {
    let server = TestServer::start(&[]);
    for timestamp in [puppet::now() - 301, puppet::now() + 400, 0, u64::MAX] {
        let skewed = Hello { timestamp, ..hello("alice", &["alice"]) };
        assert_eq!(refusal(&server, &skewed).await.0, Refusal::ClockSkew);
        let stranger = Hello { proof: wrong_token(), ..skewed };
        assert_eq!(refusal(&server, &stranger).await.0, Refusal::BadToken);
    }
    let within = Hello { timestamp: puppet::now() - 240, ..hello("alice", &["alice"]) };
    assert!(log_in(&server, &within).await.is_ok());
}

#[tokio::test]
async fn only_the_clients_own_names_may_be_claimed() {
    let server = TestServer::start(&[]);
    let (code, message) = refusal(&server, &hello("alice", &["alice", "bob"])).await;
    assert_eq!(code, Refusal::NotAllowed);
    assert!(message.contains("`bob`") && message.contains("alice, blog, shop"), "{message}");
    assert_eq!(refusal(&server, &hello("alice", &["alice", "alice"])).await.0, Refusal::NotAllowed);
    assert!(server.registry.is_empty(), "a refused login registers nothing");
}

/// As many services as an agent may offer, with names as long as names may be, and alice's leave to claim them.
fn many_long_names(server: &TestServer) -> Vec<String> {
    let names: Vec<String> = (0..MAX_SERVICES).map(|at| format!("{at:x<63}")).collect();
    let hash = crate::harness::cheap_hash(token("alice").as_secret()).unwrap();
    server.clients.replace(clients_file(&format!("[clients.alice]\ntoken_hash = \"{hash}\"\nnames = {names:?}\n")));
    names
}

#[tokio::test]
async fn as_many_services_as_allowed_with_the_longest_names_are_welcome() {
    let server = TestServer::start(&[]);
    let names = many_long_names(&server);
    let local = apps::fixed("here").await;
    let services: Vec<(&str, std::net::SocketAddr)> = names.iter().map(|name| (name.as_str(), local)).collect();
    let _agent = TestAgent::connect(&server, "alice", &services).await;
    assert_eq!(fetch(server.public, &names[MAX_SERVICES - 1], "/").await.text(), "here");
}

#[tokio::test]
async fn addresses_too_long_for_an_answer_are_refused_and_nothing_is_registered() {
    let url = format!("https://{{name}}.example.com/{}", "x".repeat(3000));
    let server = TestServer::start(&[("public.url", &url)]);
    let names = many_long_names(&server);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (code, message) = refusal(&server, &hello("alice", &names)).await;
    assert_eq!(code, Refusal::NotAllowed);
    assert!(message.contains("offer fewer"), "{message}");
    assert!(server.registry.is_empty());
    assert!(log_in(&server, &hello("alice", &names[..3])).await.is_ok());
}

#[tokio::test]
async fn a_refusal_lists_only_a_few_of_many_names() {
    let server = TestServer::start(&[]);
    let names = many_long_names(&server);
    let (code, message) = refusal(&server, &hello("alice", &["bob"])).await;
    assert_eq!(code, Refusal::NotAllowed);
    assert!(message.contains(&names[9]) && !message.contains(&names[10]), "{message}");
    assert!(message.contains("… and 54 more"), "{message}");
}

#[tokio::test]
async fn another_protocol_version_or_an_unknown_need_is_refused() {
    let server = TestServer::start(&[]);
    let mut newer = hello("alice", &["alice"]);
    newer.compatibility.protocol = 99;
    let (code, message) = refusal(&server, &newer).await;
    assert!(code == Refusal::Version && message.ends_with("upgrade the server"), "{message}");
    let mut demanding = hello("alice", &["alice"]);
    demanding.compatibility.required = vec!["resume".to_owned()];
    let (code, message) = refusal(&server, &demanding).await;
    assert!(code == Refusal::Version && message.contains("lacks `resume`"), "{message}");
    assert!(message.ends_with("upgrade the server"), "{message}");
    let mut capable = hello("alice", &["alice"]);
    capable.compatibility.capabilities = vec!["resume".to_owned()];
    assert!(log_in(&server, &capable).await.is_ok(), "what is not required is ignored");
}

#[tokio::test]
async fn a_frame_that_is_too_large_or_no_frame_ends_that_connection_only() {
    let server = TestServer::start(&[]);
    for spoilt in
        [&(json::MAX as u32 + 1).to_be_bytes()[..], &[0xff; 4], &[0, 0, 0, 2, b'{', b'x'], b"GET / HTTP/1.1\r\n"]
    {
        let mut pipe = puppet::dial(server.tunnel, server.fingerprint).await;
        pipe.write_all(spoilt).await.unwrap();
        pipe.flush().await.unwrap();
        let mut rest = Vec::new();
        // Whether it ends in order or not, it ends, and nothing is said.
        let _ = soon("the end of the connection", pipe.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
    assert!(log_in(&server, &hello("alice", &["alice"])).await.is_ok());
}

#[tokio::test]
async fn whoever_says_nothing_is_cut_at_the_deadline() {
    let server = TestServer::start(&[("tunnel.login_timeout", "3s")]);
    let mut silent = TcpStream::connect(server.tunnel).await.unwrap();
    let mut pipe = puppet::dial(server.tunnel, server.fingerprint).await;
    let mut half = puppet::dial(server.tunnel, server.fingerprint).await;
    half.write_all(&[0, 0]).await.unwrap();
    let mut buffer = [0; 16];
    for end in [
        soon("the end of a silent connection", silent.read(&mut buffer)).await,
        soon("the end after TLS", pipe.read(&mut buffer)).await,
        soon("the end after half a frame", half.read(&mut buffer)).await,
    ] {
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    assert!(server.registry.is_empty());
}

#[tokio::test]
async fn failed_logins_are_limited_by_address_and_others_cost_nothing() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "3")]);
    for _ in 0..5 {
        assert!(log_in(&server, &hello("alice", &["alice"])).await.is_ok());
    }
    for _guess in 0..3 {
        let wrong = Hello { proof: wrong_token(), ..hello("alice", &["alice"]) };
        for _ in 0..3 {
            assert_eq!(refusal(&server, &wrong).await.0, Refusal::BadToken, "repeats are free");
        }
    }
    let refused = log_in(&server, &hello("alice", &["alice"])).await.expect_err("the address is blocked");
    assert_eq!(refused.code, Refusal::TooMany);
    assert!(refused.retry_after_s.is_some_and(|seconds| (1..=60).contains(&seconds)));
}

#[tokio::test]
async fn a_ticket_and_a_lane_secret_count_whatever_others_did_from_the_same_address() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let first = hello("alice", &["alice"]);
    let (welcome, _pipe) = log_in(&server, &first).await.unwrap();
    until("a lane", &server.registry, || server.registry.serves_any()).await;
    let wrong = Hello { proof: wrong_token(), ..first.clone() };
    assert_eq!(refusal(&server, &wrong).await.0, Refusal::BadToken);
    assert_eq!(refusal(&server, &first).await.0, Refusal::TooMany, "a token has to wait, even the right one");
    let join = puppet::join(&first, &welcome);
    assert!(log_in(&server, &join).await.is_ok(), "a lane secret has not");
    let ticket = Hello { proof: Some(Proof::Ticket(welcome.ticket.clone())), ..first };
    assert!(log_in(&server, &ticket).await.is_ok(), "nor has a ticket");
    let forged = Hello { proof: Some(Proof::Ticket(puppet::secret("forged"))), ..ticket };
    assert_eq!(refusal(&server, &forged).await.0, Refusal::BadToken);
}

#[tokio::test]
async fn an_address_has_only_so_many_logins_under_way() {
    let server = TestServer::start(&[("tunnel.login_timeout", "60s")]);
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(server.tunnel).await.unwrap());
    }
    let mut excess = TcpStream::connect(server.tunnel).await.unwrap();
    let end = soon("the end of one too many", excess.read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    drop(silent.pop());
    let mut agent = TestAgent::start(&server, "alice", &[("alice", apps::fixed("here").await)]);
    agent.connected().await;
    // A login that is over counts no more: there is room for the next one.
    let _second = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("here").await)]).await;
}

#[tokio::test]
async fn a_ticket_lets_an_agent_back_in_until_the_token_changes() {
    let server = TestServer::start(&[]);
    let first = hello("alice", &["alice"]);
    let (welcome, pipe) = log_in(&server, &first).await.unwrap();
    drop(pipe);
    let again = Hello { proof: Some(Proof::Ticket(welcome.ticket.clone())), ..first.clone() };
    assert!(log_in(&server, &again).await.is_ok());
    let foreign = Hello { client_id: "bob".parse().unwrap(), ..again.clone() };
    assert_eq!(refusal(&server, &foreign).await.0, Refusal::BadToken, "a ticket is for one client");

    // The same keys after a restart: the ticket still counts.
    let dir = server.dir();
    server.stop().await;
    let server = TestServer::start_in(dir, &[]);
    assert!(log_in(&server, &again).await.is_ok());

    let hash = crate::harness::cheap_hash(token("bob").as_secret()).unwrap();
    server.clients.replace(clients_file(&format!("[clients.alice]\ntoken_hash = \"{hash}\"\n")));
    assert_eq!(refusal(&server, &again).await.0, Refusal::BadToken, "another token ends it");
}

#[tokio::test]
async fn an_agent_with_a_wrong_token_ends_at_a_terminal_and_asks_again_elsewhere() {
    let server = TestServer::start(&[]);
    server.clients.replace(clients_file(
        &clients().replace("[clients.alice]", "[clients.dave]").replace("\"alice\"", "\"dave\""),
    ));
    let services = [("alice", apps::nothing().await)];
    let mut waiting = TestAgent::start(&server, "alice", &services);
    waiting.refused("bad_token").await;
    let agent = TestAgent::start_at_a_terminal(&[server.tunnel], server.fingerprint, "alice", &services);
    match agent.ended().await {
        Err(GivenUp::Refused { code: Refusal::BadToken, .. }) => {}
        other => panic!("{other:?}"),
    }
    server.clients.replace(clients_file(&clients()));
    waiting.connected().await;
}

#[tokio::test]
async fn an_agent_never_trusts_another_key() {
    let server = TestServer::start(&[]);
    let other = TestServer::start(&[]);
    let local = apps::nothing().await;
    let mut agent = TestAgent::start_at(&[server.tunnel], other.fingerprint, "alice", &[("alice", local)]);
    let state = agent.reaches("a refusal to connect", |state| matches!(state, State::Waiting { .. })).await;
    let State::Waiting { why, .. } = state else { unreachable!() };
    assert!(why.contains("not the pinned one") && why.contains(&server.fingerprint.to_string()), "{why}");
    assert!(server.registry.is_empty());
    assert_eq!(agent.stop().await, Ok(()), "it can be stopped while it waits");
}

#[tokio::test]
async fn a_wait_that_the_server_asks_for_is_respected() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let wrong = Hello { proof: wrong_token(), ..hello("alice", &["alice"]) };
    refusal(&server, &wrong).await;
    let mut agent = TestAgent::start(&server, "alice", &[("alice", apps::nothing().await)]);
    let state = agent.reaches("a wait", |state| matches!(state, State::Waiting { .. })).await;
    let State::Waiting { why, retry_in } = state else { unreachable!() };
    assert!(why.contains("too_many") && retry_in > Duration::from_secs(10), "{why} {retry_in:?}");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_by_its_missing_heartbeats() {
    let server = TestServer::start(&[("tunnel.heartbeat", "1s")]);
    // A relay that stops relaying: the connection stays up and nothing comes any more.
    let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = relay.local_addr().unwrap();
    let (cut, is_cut) = tokio::sync::watch::channel(false);
    let behind = server.tunnel;
    spawn(async move {
        while let Ok((mut near, _)) = relay.accept().await {
            // Whoever comes while it is cut is sent away, and comes again.
            if *is_cut.borrow() {
                continue;
            }
            let mut far = TcpStream::connect(behind).await.unwrap();
            let mut cut = is_cut.clone();
            spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(cut.wait_for(|cut| *cut).await) } => std::future::pending().await,
                }
            });
        }
    });
    let local = apps::fixed("here").await;
    let mut agent = TestAgent::start_at(&[address], server.fingerprint, "alice", &[("alice", local)]);
    agent.connected().await;
    cut.send_replace(true);
    // Both sides notice: the agent tries again, the server forgets the name.
    let state = agent.reaches("a lost connection", |state| matches!(state, State::Waiting { .. })).await;
    let State::Waiting { why, .. } = state else { unreachable!() };
    assert!(why.contains("silent") && why.contains("3 heartbeats"), "{why}");
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
    assert_eq!(fetch(server.public, "alice", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    cut.send_replace(false);
    agent.connected().await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here");
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_forgotten() {
    let server = TestServer::start(&[("tunnel.heartbeat", "1s")]);
    // Logged in, and not a word after that: no control stream.
    let (_welcome, _pipe) = log_in(&server, &hello("alice", &["alice"])).await.unwrap();
    // One heartbeat, and then silence.
    let puppet = puppet::Puppet::connect(&server, &hello("bob", &["bob"])).await;
    let beat = json::encode(&adit::protocol::control::Control::Heartbeat).unwrap();
    let _control = puppet.control(&beat).await;
    until("an empty registry", &server.registry, || server.registry.is_empty()).await;
    soon("the end of the session", puppet.session.ended()).await;
}

#[tokio::test]
async fn a_draining_server_sends_agents_away_for_a_while() {
    let server = TestServer::start(&[]);
    let mut pipe = puppet::dial(server.tunnel, server.fingerprint).await;
    server.begin_stop();
    send(&mut pipe, &hello("alice", &["alice"])).await.unwrap();
    // It may be told, or the connection may be gone already.
    if let Ok(answer) = soon("an answer", receive_answer(&mut pipe)).await {
        assert!(
            matches!(answer, Answer::Refused(refused) if refused.code == Refusal::Draining && refused.code.may_retry())
        );
    }
    server.stop().await;
}

/// The text of a clients file with an invitation that leaves the id open, and its code.
fn open_invitation() -> (String, adit::values::Secret) {
    let code = adit::auth::InviteCode::generate(None, None).unwrap();
    let text = format!(
        "{}[invites.{}]\ncode_hash = \"{}\"\nexpires = 2999-01-01T00:00:00Z\n",
        clients(),
        adit::tenants::entry::invite_key(&code.digest()),
        code.digest()
    );
    (text, code.as_secret().clone())
}

/// Gives the server such a clients file. Returns the code.
fn with_open_invitation(server: &TestServer) -> adit::values::Secret {
    let (text, code) = open_invitation();
    crate::harness::replace_file(&server.dir().path().join("clients.toml"), &text);
    server.clients.replace(clients_file(&text));
    code
}

#[tokio::test]
async fn an_open_invitation_does_not_buy_a_hash_with_each_id_that_is_taken() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "5")]);
    let code = with_open_invitation(&server);
    let invited = |id: &str| Hello {
        client_id: id.parse().unwrap(),
        proof: Some(Proof::Invite(code.clone())),
        ..hello("alice", &[])
    };
    // An id, and a name of somebody else.
    for id in ["bob", "blog", "alice", "shop", "carol"] {
        let refused = puppet::ask(&server, &invited(id)).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message),
            (Refusal::NotAllowed, format!("`{id}` is taken; choose another id"))
        );
    }
    let refused = puppet::ask(&server, &invited("bob")).await.unwrap_err();
    assert_eq!(refused.code, Refusal::TooMany, "each attempt was counted");
}

#[tokio::test]
async fn a_reserved_id_is_refused_before_a_token_is_hashed() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "3")]);
    // The file does not have the invitation: after a hash, the answer would be that there is none.
    let (text, code) = open_invitation();
    server.clients.replace(clients_file(&text));
    let invited = |id: &str| Hello {
        client_id: id.parse().unwrap(),
        proof: Some(Proof::Invite(code.clone())),
        ..hello("alice", &[])
    };
    for id in ["www", "ns1", "sign-in"] {
        let refused = puppet::ask(&server, &invited(id)).await.unwrap_err();
        assert!(refused.code == Refusal::NotAllowed && refused.message.contains("is reserved"), "{}", refused.message);
    }
    let refused = puppet::ask(&server, &invited("www")).await.unwrap_err();
    assert_eq!(refused.code, Refusal::TooMany, "each attempt was counted");
}

#[tokio::test]
async fn an_open_invitation_is_good_for_an_id_that_is_free() {
    let server = TestServer::start(&[]);
    let code = with_open_invitation(&server);
    let invited = Hello { client_id: "dave".parse().unwrap(), proof: Some(Proof::Invite(code)), ..hello("alice", &[]) };
    let known = puppet::ask(&server, &invited).await.unwrap();
    assert!(known.client_id.as_str() == "dave" && known.token.is_some());
    let refused = puppet::ask(&server, &invited).await.unwrap_err();
    assert_eq!(refused.code, Refusal::BadInvite, "it was used");
}

#[tokio::test]
async fn logins_of_one_address_that_succeed_are_limited_too() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let hello = hello("alice", &[]);
    // They count by their cost: those of the other tests cost next to nothing.
    let usual = adit::auth::hash(token("alice").as_secret()).unwrap();
    server.clients.replace(clients_file(&clients().replacen(crate::harness::token_hash("alice"), &usual, 1)));
    let began = std::time::Instant::now();
    let mut allowed = 0;
    let refused = loop {
        match puppet::ask(&server, &hello).await {
            Ok(_) => allowed += 1,
            Err(refused) => break refused,
        }
        // As many as there are at once, and as many again in a minute.
        assert!(allowed < 140 + began.elapsed().as_millis() * 138 / 60_000, "{allowed}");
        assert!(began.elapsed() < Duration::from_secs(240), "{allowed} logins, and none was refused");
    };
    assert!(allowed >= 138, "{allowed}");
    assert_eq!(refused.code, Refusal::TooMany);
    assert!(refused.retry_after_s.is_some_and(|wait| (1..=3).contains(&wait)), "{refused:?}");
}

#[tokio::test]
async fn a_fleet_behind_one_address_logs_in_by_token_at_once() {
    let server = TestServer::start(&[]);
    let logins = (0..60).map(|number| {
        let client = ["alice", "bob", "carol"][number % 3];
        let server = &server;
        // A connection that the server closes at once had no place: as an agent does, it tries again.
        async move {
            loop {
                let mut pipe = match dial_again(server).await {
                    Some(pipe) => pipe,
                    None => continue,
                };
                if send(&mut pipe, &hello(client, &[])).await.is_ok()
                    && let Ok(answer) = receive_answer(&mut pipe).await
                {
                    return matches!(answer, Answer::Known(_));
                }
            }
        }
    });
    let answers = soon("sixty logins", futures_util::future::join_all(logins)).await;
    assert!(answers.into_iter().all(|is_known| is_known));
}

async fn dial_again(server: &TestServer) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let trust = adit::transport::tls::Trust::Fingerprint(server.fingerprint);
    let config = adit::transport::tls::client(&trust).unwrap();
    let socket = TcpStream::connect(server.tunnel).await.ok()?;
    let host = rustls::pki_types::ServerName::try_from(server.tunnel.ip().to_string()).unwrap();
    tokio_rustls::TlsConnector::from(config).connect(host, socket).await.ok()
}

#[tokio::test]
async fn agents_behind_a_load_balancer_have_limits_of_their_own() {
    use adit::transport::proxy_protocol::{Version, header};

    let settings = [("tunnel.proxy_protocol_from", "127.0.0.1"), ("limits.per_ip.logins_per_minute", "1")];
    let server = TestServer::start(&settings);
    let log_in = async |from: &str, version, right: bool| {
        let first = header(version, from.parse().unwrap(), server.tunnel);
        let mut pipe = puppet::dial_after(&first, server.tunnel, server.fingerprint).await.unwrap();
        let mut hello = puppet::hello("alice", &["alice"]);
        if !right {
            hello.proof = wrong_token();
        }
        send(&mut pipe, &hello).await.unwrap();
        (soon("an answer", receive_answer(&mut pipe)).await.unwrap(), pipe)
    };
    let refused = |answer: &Answer| match answer {
        Answer::Refused(refused) => refused.code,
        other => panic!("{other:?}"),
    };
    for (version, address) in [(Version::V1, "192.0.2.1:4711"), (Version::V2, "[2001:db8::1]:4711")] {
        let mut codes = Vec::new();
        while codes.last() != Some(&Refusal::TooMany) {
            codes.push(refused(&log_in(address, version, false).await.0));
        }
        assert_eq!(codes[0], Refusal::BadToken, "{address} begins with a limit of its own");
    }
    let (answer, _pipe) = log_in("192.0.2.2:4711", Version::V2, true).await;
    assert!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
    let peer = server.registry.all()[0].peer();
    assert_eq!(peer.to_string(), "192.0.2.2:4711", "the operator sees the agent, not the load balancer");
    assert!(puppet::dial_after(b"", server.tunnel, server.fingerprint).await.is_err(), "the header is required");
    let other = TestServer::start(&[]);
    let first = header(Version::V1, "192.0.2.1:4711".parse().unwrap(), other.tunnel);
    assert!(puppet::dial_after(&first, other.tunnel, other.fingerprint).await.is_err(), "nobody may forge it");
}
