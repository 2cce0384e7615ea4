//! What the server counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;

use super::Operator;
use crate::harness::apps::{self, Script};
use crate::harness::puppet::{self, Puppet};
use crate::harness::visitor::{Http2Visitor, Visitor, fetch, get, http2_request, raw, read_to_end, request};
use crate::harness::{TestAgent, soon, spawn, until, until_idle};

/// The page, by series.
async fn scrape(operator: &Operator) -> BTreeMap<String, f64> {
    let request = Request::builder().uri("/metrics").header("host", "localhost").body(Full::default()).unwrap();
    let answer = Visitor::connect(operator.address).await.ask(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let series = answer.text().lines().filter(|line| !line.starts_with('#'));
    series
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect()
}

/// What has grown between two pages, by how much; gauges that have shrunk are left out.
fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let more = |(key, value): (&String, &f64)| (key.clone(), value - before.get(key).copied().unwrap_or_default());
    after.iter().map(more).filter(|(key, more)| *more > 0.0 && !key.starts_with("process_")).collect()
}

#[tokio::test]
async fn requests_are_counted_where_they_came_to() {
    let operator = Operator::start(&[]);
    let app = apps::echo().await;
    let agent = TestAgent::connect(&operator.server, "alice", &[("alice", app), ("blog", app)]).await;
    let before = scrape(&operator).await;
    let public = operator.server.public;
    let mut visitor = Visitor::connect(public).await;
    for _ in 0..3 {
        assert_eq!(visitor.ask(get("alice", "/?secret=1")).await.status, StatusCode::OK);
    }
    assert_eq!(visitor.ask(request(Method::POST, "blog", "/", "12345")).await.status, StatusCode::OK);
    assert_eq!(fetch(public, "nobody", "/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(fetch(public, "bob", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    until_idle(&operator.server.open, crate::harness::PATIENCE).await;
    let more = grown(&before, &scrape(&operator).await);
    let of = |key: &str| more.get(key).copied().unwrap_or_default();
    assert_eq!(of(r#"adit_requests_total{client="alice",service="alice",status="2xx"}"#), 3.0);
    assert_eq!(of(r#"adit_requests_total{client="alice",service="blog",status="2xx"}"#), 1.0);
    assert_eq!(of(r#"adit_service_bytes_total{client="alice",service="blog",direction="in"}"#), 5.0);
    assert!(of(r#"adit_service_bytes_total{client="alice",service="blog",direction="out"}"#) > 0.0);
    assert!(of(r#"adit_service_seconds_total{client="alice",service="alice"}"#) > 0.0);
    assert_eq!(of(r#"adit_failures_total{code="unknown_name"}"#), 1.0);
    assert_eq!(of(r#"adit_failures_total{code="tunnel_offline"}"#), 1.0);
    assert_eq!((of("adit_request_seconds_count"), of("adit_request_waiting_seconds_count")), (4.0, 4.0));
    assert_eq!(of(r#"adit_request_seconds_bucket{le="+Inf"}"#), 4.0);
    assert!(
        more.keys().all(|key| !key.contains("nobody") && !key.contains("bob")),
        "a stranger has made a series: {more:?}"
    );
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn the_page_is_for_this_machine_or_for_whoever_has_the_token() {
    let operator = Operator::start(&[]);
    let bearer = format!("Bearer {}", operator.token);
    for (fields, status) in [
        (vec![("host", "localhost")], 200),
        (vec![("host", "evil.example")], 401),
        (vec![("host", "localhost"), ("x-forwarded-for", "192.0.2.1")], 401),
        (vec![("host", "evil.example"), ("authorization", &bearer)], 200),
    ] {
        let request =
            fields.iter().fold(Request::builder().uri("/metrics"), |all, (name, value)| all.header(*name, *value));
        let answer = Visitor::connect(operator.address).await.ask(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{fields:?}");
        assert_eq!(answer.text().contains("adit_tunnels 0"), status == 200, "{fields:?}");
    }
}

#[tokio::test]
async fn agents_are_counted_as_they_come_and_go() {
    let operator = Operator::start(&[]);
    let before = scrape(&operator).await;
    let app = apps::echo().await;
    let mut agent = TestAgent::connect(&operator.server, "alice", &[("alice", app)]).await;
    let up = scrape(&operator).await;
    assert_eq!((up["adit_tunnels"], up["adit_lanes"], up[r#"adit_client_tunnels{client="alice"}"#]), (1.0, 1.0, 1.0));
    let logins = |page: &BTreeMap<String, f64>| page[r#"adit_logins_total{shown="token",result="ok"}"#];
    assert_eq!((logins(&before), logins(&up)), (0.0, 1.0));
    let tunnels = operator.get("/api/v1/tunnels").await;
    operator.delete(&format!("/api/v1/tunnels/{}", tunnels.each("id")[0])).await;
    // It comes back with its ticket.
    let back = || tunnel_ids(&operator).into_iter().any(|id| id != tunnels.each("id")[0]);
    until("the agent's return", &operator.server.registry, back).await;
    // Its login is counted before its lane is served, and after it is in the registry.
    agent.connected().await;
    let again = scrape(&operator).await;
    assert_eq!(again[r#"adit_logins_total{shown="ticket",result="ok"}"#], 1.0);
    assert_eq!(again[r#"adit_lanes_ended_total{reason="disconnected"}"#], 1.0);
    assert!(again["adit_login_seconds_count"] >= 2.0);
    agent.stop().await.unwrap();
    until("its goodbye", &operator.server.registry, || operator.server.registry.is_empty()).await;
    let gone = scrape(&operator).await;
    assert_eq!((gone["adit_tunnels"], gone[r#"adit_client_tunnels{client="alice"}"#]), (0.0, 0.0));
    // The client is removed, and with it its series.
    assert_eq!(operator.delete("/api/v1/clients/alice").await.status, 204);
    let page = scrape(&operator).await;
    assert!(page.keys().all(|key| !key.contains("alice")), "{page:?}");
}

/// Its agent is cut a moment later than it is removed.
#[tokio::test]
async fn a_client_that_is_removed_while_it_is_connected_loses_its_series() {
    let operator = Operator::start(&[]);
    let app = apps::echo().await;
    let mut agent = TestAgent::connect(&operator.server, "alice", &[("alice", app)]).await;
    assert_eq!(fetch(operator.server.public, "alice", "/").await.status, StatusCode::OK);
    assert!(scrape(&operator).await.contains_key(r#"adit_client_tunnels{client="alice"}"#));
    assert_eq!(operator.delete("/api/v1/clients/alice").await.status, 204);
    agent.refused("bad_token").await;
    // The agent knows before the last of the server's tasks has let go of its tunnel.
    soon("the end of its series", async { while scrape(&operator).await.keys().any(|key| key.contains("alice")) {} })
        .await;
}

/// What the histogram `name` has counted, and the seconds of all of it.
fn observed(page: &BTreeMap<String, f64>, name: &str) -> (f64, f64) {
    (page[&format!("{name}_count")], page[&format!("{name}_sum")])
}

#[tokio::test]
async fn the_time_of_the_application_is_told_by_its_agent() {
    let operator = Operator::start(&[]);
    let (mut slow, quick) = (Script::start().await, apps::echo().await);
    let _agent = TestAgent::connect(&operator.server, "alice", &[("alice", slow.address), ("blog", quick)]).await;
    let public = operator.server.public;
    let asking = spawn(async move { fetch(public, "alice", "/").await.status });
    let (mut socket, _) = slow.request().await;
    let asked = Instant::now();
    assert_eq!(fetch(public, "blog", "/").await.status, StatusCode::OK);
    let took = asked.elapsed().as_secs_f64();
    assert_eq!(observed(&scrape(&operator).await, "adit_request_local_seconds").0, 1.0);
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(asking.await.unwrap(), StatusCode::OK);
    let page = scrape(&operator).await;
    let (local, waiting) =
        (observed(&page, "adit_request_local_seconds"), observed(&page, "adit_request_waiting_seconds"));
    assert_eq!((local.0, waiting.0), (2.0, 2.0));
    assert!(took <= local.1 && local.1 <= waiting.1, "{took} {local:?} {waiting:?}");
}

#[tokio::test]
async fn an_agent_may_say_nothing_of_its_application_and_no_more_than_can_be() {
    let operator = Operator::start(&[]);
    let mut puppet = Puppet::connect(&operator.server, &puppet::hello("alice", &["alice"])).await;
    let public = operator.server.public;
    for (local, count) in [(None, 0.0), (Some(Duration::from_secs(4000)), 1.0)] {
        let asking = spawn(async move { fetch(public, "alice", "/").await });
        let mut asked = puppet.request().await;
        asked.head_after(StatusCode::NO_CONTENT, &[], local).await;
        asked.end().await;
        assert_eq!(asking.await.unwrap().status, StatusCode::NO_CONTENT);
        let page = scrape(&operator).await;
        let (local, waiting) =
            (observed(&page, "adit_request_local_seconds"), observed(&page, "adit_request_waiting_seconds"));
        assert_eq!(local.0, count);
        assert!(local.1 <= waiting.1 && waiting.1 < 1000.0, "{local:?} {waiting:?}");
    }
}

#[tokio::test]
async fn the_servers_own_pages_are_bytes_to_visitors_too() {
    let operator = Operator::start(&[]);
    let nothing = apps::nothing().await;
    let _agent = TestAgent::connect(&operator.server, "alice", &[("alice", nothing)]).await;
    let mut closed = puppet::hello("bob", &["bob"]);
    closed.services[0].access.deny = vec!["127.0.0.0/8".parse().unwrap()];
    let _bob = Puppet::connect(&operator.server, &closed).await;
    let public = operator.server.public;
    for (client, status) in [("alice", StatusCode::BAD_GATEWAY), ("bob", StatusCode::FORBIDDEN)] {
        let page = fetch(public, client, "/").await;
        assert_eq!(page.status, status);
        let head = Visitor::connect(public).await.ask(request(Method::HEAD, client, "/", "")).await;
        assert_eq!((head.status, head.header("content-length")), (status, page.body.len().to_string().as_str()));
        let key = format!(r#"adit_service_bytes_total{{client="{client}",service="{client}",direction="out"}}"#);
        assert_eq!(scrape(&operator).await[&key], page.body.len() as f64, "{client}");
    }
}

fn tunnel_ids(operator: &Operator) -> Vec<String> {
    operator.server.registry.all().iter().map(|tunnel| tunnel.id().to_string()).collect()
}

#[tokio::test]
async fn limits_that_are_reached_are_counted() {
    let settings =
        [("limits.per_ip.burst", "1"), ("limits.per_ip.requests_per_second", "1"), ("limits.per_ip.connections", "2")];
    let operator = Operator::start(&settings);
    let public = operator.server.public;
    assert_eq!(fetch(public, "nobody", "/").await.status, StatusCode::NOT_FOUND);
    let requests = (0..20).map(|_| http2_request(Method::GET, "nobody", "/", ""));
    let answers = Http2Visitor::connect(public).await.ask_at_once(requests).await;
    let refused = answers.iter().filter(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS).count() as f64;
    assert!(refused >= 10.0, "{refused}");
    let held = [raw(public, "GET").await, raw(public, "GET").await];
    let mut third = raw(public, "").await;
    let _ = read_to_end(&mut third).await;
    drop(held);
    let page = scrape(&operator).await;
    assert_eq!(page[r#"adit_limit_hits_total{limit="rate_per_ip"}"#], refused);
    assert!(page[r#"adit_limit_hits_total{limit="connections_per_ip"}"#] >= 1.0);
    assert_eq!(page[r#"adit_failures_total{code="rate_limited"}"#], refused);
}

#[tokio::test]
async fn the_state_of_the_server_is_there() {
    let operator = Operator::start(&[("public.https", "127.0.0.1:0")]);
    let page = scrape(&operator).await;
    let now = jiff::Timestamp::now().as_second() as f64;
    let expires: Vec<f64> =
        page.iter().filter(|(key, _)| key.starts_with("adit_certificate_expires")).map(|(_, value)| *value).collect();
    assert!(expires.len() == 2 && expires.iter().all(|at| *at > now), "{page:?}");
    assert!(page[r#"adit_build_info{version="0.1.0"}"#] == 1.0 && page["adit_clients"] == 3.0, "{page:?}");
    assert!((now - page["process_start_time_seconds"]).abs() < 600.0);
    assert!(page["process_open_fds"] > 3.0 && page["process_resident_memory_bytes"] > 1e6, "{page:?}");
    assert_eq!((page["adit_draining"], page["adit_clients_file_ok"]), (0.0, 1.0));
    operator.write_file("nonsense");
    operator.server.clients_file.reload_changed().await;
    assert_eq!(scrape(&operator).await["adit_clients_file_ok"], 0.0);
}

/// Writes a certificate for these names that ends with this year, and its key.
fn bring(operator: &Operator, file: &str, names: &[&str], year: i32) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let dir = operator.server.dir();
    std::fs::write(dir.path().join(format!("{file}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

fn certificate(file: &str) -> String {
    format!("[[public.certificates]]\ncert = '{file}.pem'\nkey = '{file}.key'\n")
}

/// What `/healthz` says is wrong.
async fn problems(operator: &Operator) -> Vec<String> {
    let health = operator.get("/healthz").await.body;
    let problems = health["problems"].as_array().unwrap();
    assert_eq!(health["status"] == "ok", problems.is_empty(), "{health}");
    problems.iter().map(|problem| problem.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn two_certificates_of_one_name_are_one_series_with_the_earlier_end() {
    let operator = Operator::start(&[("public.https", "127.0.0.1:0")]);
    bring(&operator, "rsa", &["a.test"], 2031);
    bring(&operator, "ecdsa", &["a.test", "b.test"], 2030);
    operator.server.reload_file(&format!("{}{}", certificate("rsa"), certificate("ecdsa"))).await.unwrap();
    let request = Request::builder().uri("/metrics").header("host", "localhost").body(Full::default()).unwrap();
    let page = Visitor::connect(operator.address).await.ask(request).await;
    let series: Vec<&str> = page.text().lines().filter(|line| line.contains(r#"of="https""#)).collect();
    let end: jiff::Timestamp = "2030-12-31T00:00:00Z".parse().unwrap();
    let [series] = series[..] else { panic!("{series:?}") };
    let (labels, value) = series.rsplit_once(' ').unwrap();
    assert_eq!(labels, r#"adit_certificate_expires_timestamp_seconds{of="https",name="a.test"}"#);
    assert_eq!(value.parse::<f64>().unwrap(), end.as_second() as f64);
}

#[tokio::test]
async fn a_refused_reload_is_shown_until_one_is_good() {
    let operator = Operator::start(&[]);
    assert_eq!(scrape(&operator).await["adit_reload_ok"], 1.0);
    operator.server.reload_file("limits.streams = 0\n").await.unwrap_err();
    assert_eq!(scrape(&operator).await["adit_reload_ok"], 0.0);
    let said = problems(&operator).await;
    assert!(said.len() == 1 && said[0].starts_with("the latest reload was refused: "), "{said:?}");
    assert!(said[0].contains("server.toml: limits.streams: is 0"), "{said:?}");
    operator.server.reload_file("").await.unwrap();
    assert_eq!((scrape(&operator).await["adit_reload_ok"], problems(&operator).await.len()), (1.0, 0));
}

#[tokio::test]
async fn certificates_that_cannot_be_taken_over_are_shown_until_they_can() {
    let operator = Operator::start(&[("public.https", "127.0.0.1:0")]);
    bring(&operator, "a", &["a.test"], 2031);
    operator.server.reload_file(&certificate("a")).await.unwrap();
    let ok = async |wanted: f64| {
        while scrape(&operator).await["adit_certificates_ok"] != wanted {}
    };
    assert_eq!(scrape(&operator).await["adit_certificates_ok"], 1.0);
    // One that another configuration would bring is no matter of the files that count.
    operator.server.reload_file(&certificate("nowhere")).await.unwrap_err();
    let page = scrape(&operator).await;
    assert_eq!((page["adit_certificates_ok"], page["adit_reload_ok"]), (1.0, 0.0));
    operator.server.reload_file(&certificate("a")).await.unwrap();
    // Nobody asks for it: the files are watched.
    let key = operator.server.dir().path().join("a.key");
    std::fs::write(&key, "nonsense").unwrap();
    soon("a broken certificate", ok(0.0)).await;
    let said = problems(&operator).await;
    assert!(said.len() == 1 && said[0].starts_with("public.certificates[0].key: "), "{said:?}");
    assert_eq!(scrape(&operator).await["adit_reload_ok"], 1.0);
    bring(&operator, "a", &["a.test"], 2032);
    soon("a good one", ok(1.0)).await;
    assert!(problems(&operator).await.is_empty());
    // A reload finds out as well, and does not wait for a second look.
    std::fs::write(&key, "nonsense").unwrap();
    operator.server.reload_file(&certificate("a")).await.unwrap_err();
    let page = scrape(&operator).await;
    assert_eq!((page["adit_certificates_ok"], page["adit_reload_ok"]), (0.0, 0.0));
    assert_eq!(problems(&operator).await.len(), 2);
}
