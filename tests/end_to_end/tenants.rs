//! What the operator lets clients do, and changes while they are connected.

use adit::agent::State;
use adit::link::handshake::{ControlReader, ControlWriter};
use adit::protocol::control::Control;
use adit::protocol::json;
use adit::protocol::login::{Hello, Refusal, ServiceKind, ServiceOffer};
use adit::values::Domain;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncWriteExt;

use crate::harness::apps::{self, Script};
use crate::harness::puppet::{Puppet, hello, log_in};
use crate::harness::visitor::{self, Answer, Visitor, fetch};
use crate::harness::{TestAgent, TestServer, clients, clients_file, dns, name, replace_file, service, soon, until};

/// The clients of every test, with more for alice.
fn more_for_alice(lines: &str) -> String {
    clients().replace("[clients.bob]", &format!("{lines}\n[clients.bob]"))
}

async fn at_host(server: &TestServer, host: &str) -> Answer {
    let request = Request::get("/").header("host", host).body(Full::default()).unwrap();
    Visitor::connect(server.public).await.ask(request).await
}

#[tokio::test]
async fn a_revoked_client_is_cut_at_once_and_nobody_else_notices() {
    let server = TestServer::start(&[]);
    let mut downloads = [Script::start().await, Script::start().await];
    let mut alice = TestAgent::connect(&server, "alice", &[("alice", downloads[0].address)]).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", downloads[1].address)]).await;
    let mut open = Vec::new();
    for (download, who) in downloads.iter_mut().zip(["alice", "bob"]) {
        let mut visitor = Visitor::connect(server.public).await;
        let begun = visitor.begin(visitor::get(who, "/big"));
        let answer = async {
            let (mut local, _) = download.request().await;
            local.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
            local
        };
        let (begun, local) = tokio::join!(begun, answer);
        open.push((visitor, begun.unwrap().into_body(), local));
    }
    let without_alice = clients().split_once("[clients.bob]").unwrap().1.to_owned();
    server.clients.replace(clients_file(&format!("[clients.bob]{without_alice}")));
    let refused = alice.refused("bad_token");
    let (mut bobs, alices) = (open.pop().unwrap(), open.pop().unwrap());
    let (cut, _) = tokio::join!(soon("the end of alice's download", alices.1.collect()), refused);
    assert!(cut.is_err(), "half of it came");
    bobs.2.write_all(b"half").await.unwrap();
    let whole = soon("the rest of bob's download", bobs.1.collect()).await.unwrap();
    assert_eq!(whole.to_bytes(), "halfhalf");
    assert_eq!(fetch(server.public, "alice", "/").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_agent_that_is_revoked_is_refused_until_it_is_listed_again() {
    let server = TestServer::start(&[]);
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    server.clients.replace(clients_file("[clients]\n"));
    let why = agent.refused("bad_token").await;
    assert!(why.contains("ask the operator for a new one"), "{why}");
    assert!(server.registry.is_empty());
    server.clients.replace(clients_file(&clients()));
    agent.connected().await;
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "here");
}

#[tokio::test]
async fn a_token_that_expires_ends_its_tunnel_until_it_is_renewed() {
    let server = TestServer::start(&[]);
    let mut agent = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(300);
    server.clients.replace(clients_file(&more_for_alice(&format!("expires = {soon}"))));
    agent.refused("bad_token").await;
    server.clients.replace(clients_file(&clients()));
    agent.connected().await;
}

#[tokio::test]
async fn limits_count_from_the_next_request_on() {
    let server = TestServer::start(&[]);
    let _alice = TestAgent::connect(&server, "alice", &[("alice", apps::fixed("here").await)]).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("there").await)]).await;
    let mut visitor = Visitor::connect(server.public).await;
    for _ in 0..10 {
        assert_eq!(visitor.ask(visitor::get("alice", "/")).await.status, StatusCode::OK);
    }
    server.clients.replace(clients_file(&more_for_alice("limits = { requests_per_second = 1, burst = 2 }")));
    let asked = || visitor::http2_request(Method::GET, "alice", "/", "");
    let limited = visitor::first_refusal(server.public, StatusCode::OK, asked).await;
    assert_eq!((limited.status, limited.header("x-adit-error")), (StatusCode::TOO_MANY_REQUESTS, "site_rate_limited"));
    assert_eq!(limited.header("retry-after"), "1");
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "there");
}

#[tokio::test]
async fn a_client_has_only_so_many_streams_over_all_its_tunnels() {
    let server = TestServer::start(&[("limits.per_client.streams", "1")]);
    let mut busy = Script::start().await;
    let _one = TestAgent::connect(&server, "alice", &[("alice", busy.address)]).await;
    let _two = TestAgent::connect(&server, "alice", &[("blog", apps::fixed("blog").await)]).await;
    let mut waiting = Visitor::connect(server.public).await;
    let (begun, refused) = tokio::join!(waiting.begin(visitor::get("alice", "/")), async {
        let (mut local, _) = busy.request().await;
        let refused = fetch(server.public, "blog", "/").await;
        local.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        refused
    });
    assert_eq!((refused.status, refused.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_busy"));
    assert_eq!(begun.unwrap().status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn hosts_below_a_name_and_domains_of_ones_own_lead_to_the_service() {
    let server = TestServer::start(&[]);
    let lines = "domains = [\"blog.alice.example\", \"*.wild.example\"]";
    let listed = more_for_alice(lines).replace("\"shop\"]", "\"shop\", \"*.alice\"]");
    server.clients.replace(clients_file(&listed));
    for host in ["blog.alice.example", "x.wild.example", "x.alice.localhost"] {
        assert_eq!(at_host(&server, host).await.status, StatusCode::SERVICE_UNAVAILABLE, "{host} is listed");
    }
    let domains = vec!["blog.alice.example", "*.wild.example"];
    let keys = [("domains", domains.into()), ("wildcard", true.into())];
    let local = apps::echo().await.to_string();
    let agent = TestAgent::connect_with(&server, "alice", vec![service("alice", &local, &keys)]).await;
    for host in
        ["blog.alice.example", "Blog.Alice.Example.:80", "y.x.wild.example", "x.y.alice.localhost", "alice.localhost"]
    {
        let answer = at_host(&server, host).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
        assert!(answer.text().contains(&format!("\nhost: {host}\n")), "{}", answer.text());
    }
    for host in ["wild.example", "x.blog.alice.example", "alice.example", "x.blog.localhost"] {
        assert_eq!(at_host(&server, host).await.status, StatusCode::NOT_FOUND, "{host}");
    }
    let State::Connected { services, .. } = agent.state.borrow().clone() else { panic!("not connected") };
    let port = server.public.port();
    let told = |host: &str| services[0].public_urls.contains(&format!("http://{host}:{port}/"));
    assert!(told("blog.alice.example") && told("*.alice.localhost"), "{services:?}");
}

#[tokio::test]
async fn what_is_not_listed_may_not_be_claimed() {
    let server = TestServer::start(&[]);
    server.clients.replace(clients_file(&more_for_alice("domains = [\"blog.alice.example\"]")));
    let offer = |change: fn(&mut ServiceOffer)| {
        let mut offer = ServiceOffer::new(name("alice"), ServiceKind::Http);
        change(&mut offer);
        Hello { services: vec![offer], ..hello("alice", &["alice"]) }
    };
    for (hello, says) in [
        (offer(|offer| offer.wildcard = true), "`adit token set alice --names '+*.alice'`"),
        (
            offer(|offer| offer.domains = vec![Domain::new("bob.example").unwrap()]),
            "`adit token set alice --domains +bob.example`",
        ),
        (
            offer(|offer| offer.domains = vec![Domain::new("*.blog.alice.example").unwrap()]),
            "--domains '+*.blog.alice.example'`",
        ),
        (offer(|offer| offer.domains = vec![Domain::new("bob.localhost").unwrap()]), "belongs to the server itself"),
    ] {
        let refused = log_in(&server, &hello).await.expect_err(says);
        assert_eq!(refused.code, Refusal::NotAllowed);
        assert!(refused.message.contains(says), "{}", refused.message);
    }
}

#[tokio::test]
async fn a_group_shares_its_visitors_and_a_dead_agent_takes_none_with_it() {
    let server = TestServer::start(&[]);
    let group = [("group", "web".into())];
    let mut dying = Script::start().await;
    let first = vec![service("alice", &dying.address.to_string(), &group)];
    let first = TestAgent::connect_with(&server, "alice", first).await;
    let local = apps::fixed("second").await.to_string();
    let _second = TestAgent::connect_with(&server, "alice", vec![service("alice", &local, &group)]).await;
    let shared = || server.registry.tunnels_of(&"alice".parse().unwrap()).len() == 2;
    until("two agents side by side", &server.registry, shared).await;

    // Sent until one arrives at the first agent's application, which takes it along.
    let mut requests: Vec<_> = (0..4).map(|_| Box::pin(fetch(server.public, "alice", "/"))).collect();
    let all = futures_util::future::join_all(requests.drain(..));
    let die = async {
        let (_local, _) = dying.request().await;
        first.crash().await;
    };
    let (answers, ()) = tokio::join!(all, die);
    assert!(answers.iter().all(|answer| answer.text() == "second"), "{answers:?}");
}

#[tokio::test]
async fn what_must_not_be_done_twice_is_not_sent_again() {
    let server = TestServer::start(&[]);
    let group = [("group", "web".into())];
    let mut dying = Script::start().await;
    let first = vec![service("alice", &dying.address.to_string(), &group)];
    let first = TestAgent::connect_with(&server, "alice", first).await;
    let local = apps::fixed("second").await.to_string();
    let request = visitor::request(Method::POST, "alice", "/", "");
    let mut visitor = Visitor::connect(server.public).await;
    let (answer, _second) = tokio::join!(visitor.ask(request), async {
        let (_local, _) = dying.request().await;
        let second = TestAgent::connect_with(&server, "alice", vec![service("alice", &local, &group)]).await;
        first.crash().await;
        second
    });
    assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::BAD_GATEWAY, "tunnel_lost"));
    assert_eq!(fetch(server.public, "alice", "/").await.text(), "second");
}

#[tokio::test]
async fn an_agent_whose_application_is_down_leaves_the_request_to_another() {
    let server = TestServer::start(&[]);
    let group = [("group", "web".into())];
    let nothing = apps::nothing().await.to_string();
    let _first = TestAgent::connect_with(&server, "alice", vec![service("alice", &nothing, &group)]).await;
    let local = apps::fixed("second").await.to_string();
    let _second = TestAgent::connect_with(&server, "alice", vec![service("alice", &local, &group)]).await;
    for _ in 0..4 {
        let request = visitor::request(Method::POST, "alice", "/", "");
        assert_eq!(Visitor::connect(server.public).await.ask(request).await.text(), "second");
    }
}

/// The control stream of a puppet's first lane.
async fn control(puppet: &Puppet) -> (ControlReader, ControlWriter) {
    let stream = puppet.control(&json::encode(&Control::Heartbeat).unwrap()).await;
    (ControlReader::new(stream.clone()), ControlWriter::new(stream))
}

/// The next message that is not a heartbeat.
async fn heard(reader: &mut ControlReader) -> Control {
    loop {
        match soon("a control message", reader.receive()).await.unwrap() {
            Control::Heartbeat => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn an_agent_changes_what_it_offers_while_it_is_connected() {
    let server = TestServer::start(&[]);
    let puppet = Puppet::connect(&server, &hello("alice", &["alice", "blog"])).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("bob").await)]).await;
    let tunnel = server.tunnel_of("alice");
    let (mut reader, mut writer) = control(&puppet).await;
    let offers = |names: &[&str]| names.iter().map(|text| ServiceOffer::new(name(text), ServiceKind::Http)).collect();
    writer
        .send(&Control::Services { change: 1, services: offers(&["alice", "shop"]), required: Vec::new() })
        .await
        .unwrap();
    let Control::Offered { change: 1, services, .. } = heard(&mut reader).await else { panic!("not offered") };
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["alice", "shop"]);
    assert_eq!(server.tunnel_of("shop").id(), tunnel.id());
    assert_eq!(fetch(server.public, "blog", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);

    for (change, names) in [(2, &["alice", "bob"][..]), (3, &[]), (4, &["alice", "alice"])] {
        writer.send(&Control::Services { change, services: offers(names), required: Vec::new() }).await.unwrap();
        match heard(&mut reader).await {
            Control::NotOffered { change: answered, refused } => {
                assert_eq!((answered, refused.code), (change, Refusal::NotAllowed));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(server.tunnel_of("shop").id(), tunnel.id());
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "bob");
}

#[tokio::test]
async fn a_name_that_is_taken_away_leaves_the_others_and_comes_back_when_it_is_allowed_again() {
    let server = TestServer::start(&[]);
    let puppet = Puppet::connect(&server, &hello("alice", &["alice", "blog"])).await;
    let (mut reader, _writer) = control(&puppet).await;
    server.clients.replace(clients_file(&clients().replace("\"blog\", ", "")));
    let Control::Offered { change: 0, services, .. } = heard(&mut reader).await else { panic!("not told") };
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].name, name("alice"));
    assert!(server.registry.by_name(&name("blog")).is_none() && server.registry.by_name(&name("alice")).is_some());
    server.clients.replace(clients_file(&clients()));
    let Control::Offered { change: 0, services, .. } = heard(&mut reader).await else { panic!("not told") };
    assert_eq!(services.len(), 2);
    assert_eq!(server.tunnel_of("blog").id(), server.tunnel_of("alice").id());
}

#[tokio::test]
async fn a_changed_clients_file_counts_and_a_broken_one_does_not() {
    let server = TestServer::start(&[]);
    let file = server.dir().path().join("clients.toml");
    replace_file(&file, &clients());
    let mut agent = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("bob").await)]).await;
    let mut changes = server.clients.changes();
    replace_file(&file, &more_for_alice("limits = { streams = 5 }"));
    soon("the new file", changes.changed()).await.unwrap();
    let mut problems = server.clients_file.watch_problems();
    assert_eq!(*problems.borrow_and_update(), None);

    replace_file(&file, "[clients.alice]\ntoken_hash = 7\nnaems = []\n");
    server.clients_file.reload_changed().await;
    let broken = soon("the problems", problems.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert_eq!(broken.problems.len(), 2, "{broken}");
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "bob");

    replace_file(&file, "[clients]\n");
    agent.refused("bad_token").await;
    assert_eq!(*problems.borrow(), None);
}

#[tokio::test]
async fn a_login_without_services_only_asks_whether_its_proof_is_good() {
    let server = TestServer::start(&[]);
    let known = crate::harness::puppet::ask(&server, &hello("alice", &[])).await.unwrap();
    assert_eq!((known.client_id.as_str(), known.names.len()), ("alice", 3));
    assert!(known.token.is_none() && server.registry.is_empty());
}

#[tokio::test]
async fn dns_may_prove_whose_a_domain_is() {
    let records = [
        ("_adit.blog.alice.example", "alice@localhost"),
        ("_adit.wild.example", "alice@localhost"),
        ("_adit.bob.example", "bob@localhost"),
        ("_adit.other.example", "alice@tunnel.example.com"),
        ("_adit.listed.example", "alice@localhost"),
    ];
    let resolver = dns::serve(&records).await.to_string();
    let server = TestServer::start(&[("public.domain_proof", "dns"), ("public.resolvers", &resolver)]);
    let bobs = "[clients.bob]\ndomains = [\"listed.example\"]";
    server.clients.replace(clients_file(&clients().replace("[clients.bob]", bobs)));
    let offering = |domain: &str| {
        let domains = vec![Domain::new(domain).unwrap()];
        let offer = ServiceOffer { domains, ..ServiceOffer::new(name("alice"), ServiceKind::Http) };
        Hello { services: vec![offer], ..hello("alice", &["alice"]) }
    };
    for proved in ["blog.alice.example", "*.wild.example"] {
        assert!(log_in(&server, &offering(proved)).await.is_ok(), "{proved}");
    }
    for not_proved in ["bob.example", "other.example", "nowhere.example", "listed.example"] {
        let refused = log_in(&server, &offering(not_proved)).await.expect_err(not_proved);
        assert_eq!(refused.code, Refusal::NotAllowed);
        // What the operator has given to somebody else is not to be had this way.
        let advice = format!("TXT record `alice@localhost` at _adit.{not_proved}");
        assert_eq!(refused.message.contains(&advice), not_proved != "listed.example", "{}", refused.message);
    }
}

#[tokio::test]
async fn a_proved_wildcard_does_not_stand_in_for_a_host_that_is_listed_for_another() {
    let resolver = dns::serve(&[("_adit.wild.example", "alice@localhost")]).await.to_string();
    let server = TestServer::start(&[("public.domain_proof", "dns"), ("public.resolvers", &resolver)]);
    let bobs = "[clients.bob]\ndomains = [\"bobs.wild.example\", \"*.below.wild.example\"]";
    server.clients.replace(clients_file(&clients().replace("[clients.bob]", bobs)));
    let keys = [("domains", vec!["*.wild.example"].into())];
    let local = apps::fixed("alice").await.to_string();
    let _alice = TestAgent::connect_with(&server, "alice", vec![service("alice", &local, &keys)]).await;
    assert_eq!(at_host(&server, "x.wild.example").await.text(), "alice");
    for host in ["bobs.wild.example", "x.below.wild.example"] {
        let answer = at_host(&server, host).await;
        assert_eq!((answer.status, answer.header("x-adit-error")), (StatusCode::SERVICE_UNAVAILABLE, "tunnel_offline"));
    }
}

#[tokio::test]
async fn an_agent_tries_again_when_dns_does_not_answer() {
    // A name server that hears and says nothing.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = silent.local_addr().unwrap().to_string();
    let server = TestServer::start(&[("public.domain_proof", "dns"), ("public.resolvers", &resolver)]);
    let domains = vec![Domain::new("blog.alice.example").unwrap()];
    let offer = ServiceOffer { domains, ..ServiceOffer::new(name("alice"), ServiceKind::Http) };
    let hello = Hello { services: vec![offer], ..hello("alice", &["alice"]) };
    let refused = log_in(&server, &hello).await.expect_err("nobody knows whose it is");
    assert!(refused.code.may_retry(), "{refused:?}");
    assert!(refused.message.contains("blog.alice.example"), "{}", refused.message);
}

#[tokio::test]
async fn a_tenant_with_many_visitors_leaves_the_others_room() {
    let server = TestServer::start(&[("limits.streams", "16"), ("limits.per_ip.streams", "1000")]);
    let mut app = Script::start().await;
    let _alice = TestAgent::connect(&server, "alice", &[("alice", app.address)]).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("bob").await)]).await;
    let ask = "GET / HTTP/1.1\r\nHost: alice.localhost\r\n\r\n";
    let mut open = Vec::new();
    loop {
        let mut visitor = visitor::raw(server.public, ask).await;
        tokio::select! {
            asked = app.request() => open.push((visitor, asked.0)),
            answer = visitor::read_until(&mut visitor, "\r\n\r\n") => {
                assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("tunnel_busy"), "{answer}");
                break;
            }
        }
    }
    assert_eq!(open.len(), 8, "half of them, and its part of the rest is used up");
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "bob");
}

#[tokio::test]
async fn connections_to_a_port_leave_other_tenants_room_too() {
    let server = TestServer::start(&[("limits.streams", "16")]);
    let mut hello = hello("alice", &["alice"]);
    hello.services[0].kind = ServiceKind::Tcp;
    let mut alice = Puppet::connect(&server, &hello).await;
    let _bob = TestAgent::connect(&server, "bob", &[("bob", apps::fixed("bob").await)]).await;
    let (_, port) = alice.welcome.services[0].public_urls[0].rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    let mut open = Vec::new();
    loop {
        // The reset may be quicker than the visitor.
        let Ok(mut visitor) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else { break };
        tokio::select! {
            stream = soon("a stream", alice.streams.recv()) => open.push((visitor, stream.unwrap())),
            // A reset.
            _ = visitor::read_to_end(&mut visitor) => break,
        }
    }
    assert_eq!(open.len(), 8);
    assert_eq!(fetch(server.public, "bob", "/").await.text(), "bob");
}

#[tokio::test]
async fn a_login_has_only_so_many_domains_proved_and_comes_back_for_the_rest() {
    let count = 40;
    let records: Vec<(String, String)> =
        (0..count).map(|number| (format!("_adit.d{number}.example"), "alice@localhost".to_owned())).collect();
    let records: Vec<(&str, &str)> = records.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let resolver = dns::serve(&records).await.to_string();
    let server = TestServer::start(&[("public.domain_proof", "dns"), ("public.resolvers", &resolver)]);
    let offer = |at: usize, name: &str| ServiceOffer {
        domains: (at..at + count / 2).map(|number| Domain::new(&format!("d{number}.example")).unwrap()).collect(),
        ..ServiceOffer::new(crate::harness::name(name), ServiceKind::Http)
    };
    let services = vec![offer(0, "alice"), offer(count / 2, "blog")];
    let hello = Hello { services, ..hello("alice", &["alice"]) };
    let refused = log_in(&server, &hello).await.expect_err("40 lookups at once");
    assert!(refused.code.may_retry() && refused.message.contains("8 more domains"), "{refused:?}");
    assert!(log_in(&server, &hello).await.is_ok(), "the others were proved a moment ago");
}
