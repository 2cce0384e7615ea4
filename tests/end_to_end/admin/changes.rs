//! What the operator's tools change counts at once, and is in the log.

use adit::auth::Token;
use adit::link::handshake::{receive_answer, send};
use adit::protocol::login::{Answer, Hello, Proof, Refusal};
use adit::values::Secret;
use serde_json::json;

use super::{Operator, audited};
use crate::harness::apps;
use crate::harness::puppet::{dial, hello, log_in};
use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, name, soon, until};

/// A first word of somebody the tests do not know.
fn newcomer(id: &str, proof: Proof) -> Hello {
    let known = hello("alice", &[id]);
    Hello { client_id: id.parse().unwrap(), proof: Some(proof), ..known }
}

fn secret(told: &serde_json::Value) -> Secret {
    Secret::new(told.as_str().unwrap())
}

#[tokio::test]
async fn a_client_comes_gets_other_tokens_and_goes() {
    let operator = Operator::start(&[]);
    operator.write_file(&("# mine\n".to_owned() + &operator.file()));
    let body = r#"{"id": "dora", "names": ["dora", "*.dora"], "domains": ["dora.example"], "tcp_ports": ["20000-20009"],
                   "expires": "2099-01-01T00:00:00Z"}"#;
    let added = operator.post("/api/v1/clients", body).await;
    assert_eq!((added.status, added.headers["location"].to_str().unwrap()), (201, "/api/v1/clients/dora"), "{added:?}");
    let client = &added.body["client"];
    let expected = json!({
        "id": "dora", "names": ["dora", "*.dora"], "domains": ["dora.example"], "tcp_ports": ["20000-20009"],
        "expires": "2099-01-01T00:00:00Z", "expired": false, "previous_until": null,
        "limits": { "requests_per_second": null, "burst": null, "streams": null }, "tunnels": [],
    });
    assert_eq!(client, &expected);
    let first = secret(&added.body["token"]);
    assert!(Token::parse(first.expose()).is_ok());
    assert!(operator.file().starts_with("# mine\n") && !operator.file().contains(first.expose()));
    assert_eq!(operator.get("/api/v1/clients").await.each("id"), ["alice", "bob", "carol", "dora"]);
    let shown = operator.get("/api/v1/clients/dora").await;
    assert_eq!(shown.body, expected);

    // It can log in at once, with this token and with the next while the first one holds on.
    let (_, first_lane) = log_in(&operator.server, &newcomer("dora", Proof::Token(first.clone()))).await.unwrap();
    let rotated = operator.post("/api/v1/clients/dora/rotate", "").await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert!(rotated.body["client"]["previous_until"].is_string());
    let second = secret(&rotated.body["token"]);
    for token in [&first, &second] {
        assert!(log_in(&operator.server, &newcomer("dora", Proof::Token(token.clone()))).await.is_ok());
    }
    let rotated = operator.post("/api/v1/clients/dora/rotate", r#"{"overlap_s": 0}"#).await;
    assert_eq!(rotated.body["client"]["previous_until"], serde_json::Value::Null);
    for token in [first, second] {
        let refused = log_in(&operator.server, &newcomer("dora", Proof::Token(token))).await.unwrap_err();
        assert_eq!(refused.code, Refusal::BadToken);
    }
    drop(first_lane);
    let third = secret(&rotated.body["token"]);
    let hello = newcomer("dora", Proof::Token(third));
    let (welcome, _lane) = log_in(&operator.server, &hello).await.unwrap();
    let registry = &operator.server.registry;
    until("a lane", registry, || registry.tunnel(&hello.client_id, welcome.tunnel_id).is_some()).await;

    assert_eq!(operator.delete("/api/v1/clients/dora").await.status, 204);
    assert_eq!(operator.get("/api/v1/clients/dora").await.code(), (404, "not_found"));
    until("the end of its tunnel", registry, || registry.tunnels_of(&hello.client_id).is_empty()).await;
    assert_eq!(operator.delete("/api/v1/clients/dora").await.code(), (404, "not_found"));
    assert_eq!(operator.post("/api/v1/clients/dora/rotate", "").await.code(), (404, "not_found"));

    let lines = audited("dora");
    let said: Vec<_> = lines.iter().map(|line| (word(line, "action"), word(line, "outcome"))).collect();
    let expected = [
        ("client.add", "done"),
        ("token.rotate", "done"),
        ("token.rotate", "done"),
        ("client.remove", "done"),
        ("client.remove", "not_found"),
        ("token.rotate", "not_found"),
    ];
    assert_eq!(said, expected.map(|(action, outcome)| (action.to_owned(), outcome.to_owned())));
    assert!(lines.iter().all(|line| line.contains("peer=127.0.0.1:") && !line.contains("adit_")), "{lines:?}");
}

/// What a field of a line says.
fn word(line: &str, field: &str) -> String {
    let (_, rest) = line.split_once(&format!("{field}=\"")).unwrap_or_else(|| panic!("no {field} in {line}"));
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_every_problem_and_what_is_taken_as_a_conflict() {
    let operator = Operator::start(&[]);
    let before = operator.file();
    let body = r#"{"id": "Erna", "names": ["e_a", "*.x"], "domains": ["x"], "tcp_ports": ["0"], "expires": "soon"}"#;
    let told = operator.post("/api/v1/clients", body).await;
    assert_eq!(told.code(), (422, "invalid"));
    assert_eq!(told.keys(), ["id", "names[0]", "domains[0]", "tcp_ports[0]", "expires", "names"], "{told:?}");
    assert!(audited("Erna")[0].contains("outcome=\"invalid\""));
    for (body, code) in [
        (r#"{"id": "alice"}"#, (409, "conflict")),
        (r#"{"id": "erna", "names": ["blog"]}"#, (409, "conflict")),
        (r#"{"id": "erna", "tcp_ports": ["21500"]}"#, (409, "conflict")),
        (r#"{"id": "erna", "expires": "2001-01-01T00:00:00Z"}"#, (422, "invalid")),
    ] {
        assert_eq!(operator.post("/api/v1/clients", body).await.code(), code, "{body}");
    }
    let rotate = operator.post("/api/v1/clients/alice/rotate", r#"{"overlap_s": 1e9}"#).await;
    assert_eq!((rotate.code(), rotate.keys()), ((422, "invalid"), vec!["overlap_s"]));
    for body in [r#"{"overlap_s": 1.5}"#, r#"{"overlap_s": -1}"#, r#"{"overlap_s": "1"}"#] {
        assert_eq!(operator.post("/api/v1/clients/alice/rotate", body).await.code(), (422, "invalid"), "{body}");
    }
    for body in [r#"{"names": ["x"]}"#, r#"{"id": "Erna"}"#, r#"{"expires": "2001-01-01T00:00:00Z"}"#] {
        assert_eq!(operator.post("/api/v1/invites", body).await.code(), (422, "invalid"), "{body}");
    }
    assert_eq!(operator.post("/api/v1/invites", r#"{"id": "bob"}"#).await.code(), (409, "conflict"));
    assert_eq!(operator.file(), before);
}

#[tokio::test]
async fn an_invitation_buys_a_token_once() {
    let operator = Operator::start(&[]);
    let added = operator.post("/api/v1/invites", r#"{"id": "fred", "names": ["fred", "shop-fred"]}"#).await;
    assert_eq!(added.status, 201, "{added:?}");
    let (invite, code) = (&added.body["invite"], secret(&added.body["code"]));
    assert_eq!((invite["id"].as_str(), &invite["names"]), (Some("fred"), &json!(["fred", "shop-fred"])));
    let code_of = adit::auth::InviteCode::parse(code.expose()).unwrap();
    assert_eq!(code_of.pin(), Some(operator.server.fingerprint), "who has the code knows the server");
    let shown = operator.get("/api/v1/invites").await;
    assert_eq!(shown.body, json!({ "items": [invite], "next": null }));
    assert!(!shown.body.to_string().contains(code.expose()));

    let mut pipe = dial(operator.server.tunnel, operator.server.fingerprint).await;
    let hello = Hello { services: Vec::new(), ..newcomer("fred", Proof::Invite(code)) };
    send(&mut pipe, &hello).await.unwrap();
    let Answer::Known(known) = soon("an answer", receive_answer(&mut pipe)).await.unwrap() else { panic!("refused") };
    assert_eq!(known.names.len(), 2);
    assert!(operator.get("/api/v1/invites").await.each("key").is_empty());
    assert_eq!(operator.get("/api/v1/clients/fred").await.status, 200);

    // One that is open to anybody, by a request without a body.
    let open = operator.post("/api/v1/invites", "").await;
    assert_eq!((open.status, &open.body["invite"]["id"]), (201, &serde_json::Value::Null));
    let key = open.body["invite"]["key"].as_str().unwrap();
    assert_eq!(operator.delete(&format!("/api/v1/invites/{key}")).await.status, 204);
    assert_eq!(operator.delete(&format!("/api/v1/invites/{key}")).await.code(), (404, "not_found"));
    assert_eq!(audited(key).len(), 2);
}

#[tokio::test]
async fn an_agent_that_is_disconnected_comes_back_by_itself() {
    let operator = Operator::start(&[]);
    let local = apps::fixed("here").await;
    let mut agent = TestAgent::connect(&operator.server, "alice", &[("alice", local)]).await;
    let before = operator.get("/api/v1/tunnels").await;
    let id = before.each("id")[0].to_owned();
    assert_eq!(operator.delete(&format!("/api/v1/tunnels/{id}")).await.status, 204);
    let registry = &operator.server.registry;
    let is_back = || registry.by_name(&name("alice")).is_some_and(|now| now.tunnel.id().to_string() != id);
    until("another tunnel", registry, is_back).await;
    agent.connected().await;
    until("the old tunnel's end", registry, || registry.len() == 1 && registry.serves_any()).await;
    let after = operator.get("/api/v1/tunnels").await;
    assert!(after.each("id").len() == 1 && after.each("id")[0] != id, "{after:?}");
    assert_eq!(fetch(operator.server.public, "alice", "/").await.text(), "here");
    assert_eq!(operator.delete(&format!("/api/v1/tunnels/{id}")).await.code(), (404, "not_found"));
    assert_eq!(audited(&id).len(), 2);
}

#[tokio::test]
async fn changes_from_all_sides_take_turns() {
    let operator = Operator::start(&[]);
    let adds = (0..8).map(|number| {
        let (path, body) = ("/api/v1/clients", format!(r#"{{"id": "many{number}"}}"#));
        let operator = &operator;
        async move { operator.post(path, &body).await.status }
    });
    let statuses = futures_util::future::join_all(adds).await;
    assert_eq!(statuses, [201; 8]);
    assert_eq!(operator.get("/api/v1/clients?after=many").await.each("id").len(), 8);
}
