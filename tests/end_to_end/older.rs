//! Servers that are older than their agents must not ignore access conditions that they do not know.

use adit::agent::State;
use adit::link::handshake::{ControlReader, receive_answer, send_encoded};
use adit::protocol::control::Control;
use adit::protocol::json;
use adit::protocol::login::{Answer, Refusal, Refused, ServiceKind, ServiceOffer};
use adit::schema::ValueKind;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::puppet::{self, Puppet, dial, hello};
use crate::harness::stand_in::StandIn;
use crate::harness::{ServiceEntry, TestAgent, TestServer, apps, name, service, soon};

/// A service of alice's with conditions for visitors.
fn guarded(local: std::net::SocketAddr, access: &[(&str, ValueKind)]) -> ServiceEntry {
    let access: ServiceEntry = access.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    service("alice", &local.to_string(), &[("access", access.into())])
}

fn some_network() -> (&'static str, ValueKind) {
    ("allow", vec!["192.0.2.0/24".to_owned()].into())
}

fn webhook(scheme: &str) -> (&'static str, ValueKind) {
    let keys = [("scheme", scheme), ("secret", "s")];
    let webhook: ServiceEntry = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    ("webhook", webhook.into())
}

#[tokio::test]
async fn an_agent_requires_what_its_services_need_and_says_which_side_to_upgrade() {
    let server = StandIn::start().await;
    let app = apps::nothing().await;
    let keys = |access: &[(&str, ValueKind)]| vec![guarded(app, access)];
    for (services, required) in [
        (keys(&[]), &[][..]),
        (keys(&[some_network()]), &["access.allow"]),
        (keys(&[some_network(), webhook("stripe")]), &["access.allow", "access.webhook.stripe"]),
    ] {
        let mut agent = TestAgent::start_with(&[server.address], server.fingerprint, "alice", services);
        let login = server.login().await;
        assert_eq!(login.hello.compatibility.required, required);
        let Some(first) = required.first() else { continue };
        // The words of a server that knows none of them.
        login.refuse(Refusal::Version, &format!("the server lacks `{first}`, which the agent requires")).await;
        // It asks again: the server may be upgraded meanwhile.
        let message = agent.refused("version").await;
        assert!(message.contains("upgrade the server") && message.contains(&required.join(", ")), "{message}");
    }
}

#[tokio::test]
async fn a_condition_that_a_server_does_not_list_is_never_sent_on_a_control_stream() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let plain = || vec![service("alice", &app.to_string(), &[])];
    let mut agent = TestAgent::start_with(&[server.address], server.fingerprint, "alice", plain());
    let mut lane = server.login().await.welcome_as_older().await;
    agent.connected().await;
    agent.change(vec![guarded(app, &[some_network()])]);
    // It asks with a login instead, which such a server refuses.
    let login = server.login().await;
    assert_eq!(login.hello.compatibility.required, ["access.allow"]);
    login.refuse(Refusal::Version, "the server lacks `access.allow`, which the agent requires").await;
    let refused = |state: &State| matches!(state, State::Connected { refused: Some(_), .. });
    let State::Connected { refused: Some(why), .. } = agent.reaches("a refusal", refused).await else { unreachable!() };
    assert!(why.contains("upgrade the server"), "{why}");
    // What needs nothing goes the short way.
    let both = vec![service("alice", &app.to_string(), &[]), service("blog", &app.to_string(), &[])];
    agent.change(both);
    let Control::Services { change: 2, required, services } = lane.heard().await else { panic!("not the change") };
    assert!(required.is_empty() && services.len() == 2);
}

#[tokio::test]
async fn a_change_says_what_it_requires_to_a_server_that_knows_it() {
    let server = StandIn::start().await;
    let app = apps::fixed("app").await;
    let plain = vec![service("alice", &app.to_string(), &[])];
    let mut agent = TestAgent::start_with(&[server.address], server.fingerprint, "alice", plain);
    let mut lane = server.login().await.welcome().await;
    agent.connected().await;
    agent.change(vec![guarded(app, &[some_network(), webhook("github")])]);
    let Control::Services { required, .. } = lane.heard().await else { panic!("not the change") };
    assert_eq!(required, ["access.allow", "access.webhook.github"]);
}

/// Says hello in these words.
async fn refusal(server: &TestServer, hello: &Value) -> Refused {
    let mut pipe = dial(server.tunnel, server.fingerprint).await;
    send_encoded(&mut pipe, &json::encode(hello).unwrap()).await.unwrap();
    match soon("an answer", receive_answer(&mut pipe)).await.unwrap() {
        Answer::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

/// What an agent of a later version might want of a service of alice's.
fn of_later_versions() -> Vec<Value> {
    let access = |access: Value| json!({ "name": "alice", "kind": "http", "access": access });
    let github = |more: Value| {
        let mut webhook = json!({ "scheme": "github", "secret": "s", "tolerance_s": 1, "max_body": 1 });
        webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        access(json!({ "webhook": webhook }))
    };
    vec![
        access(json!({ "countries": ["de"] })),
        access(json!({ "allow": ["192.0.2.0/24"], "at": "night" })),
        access(json!({ "basic_auth": [{ "user": "a", "hash": "h", "totp": "t" }] })),
        github(json!({ "scheme": "slack" })),
        github(json!({ "events": ["push"] })),
        json!({ "name": "alice", "kind": "udp" }),
    ]
}

#[tokio::test]
async fn a_login_of_a_later_version_is_refused_and_opens_nothing() {
    let server = TestServer::start(&[]);
    for later in of_later_versions() {
        let mut words = serde_json::to_value(hello("alice", &["alice"])).unwrap();
        words["services"] = json!([later]);
        let refused = refusal(&server, &words).await;
        assert_eq!(refused.code, Refusal::Version, "{later}");
        assert!(refused.message.ends_with("upgrade the server"), "{}", refused.message);
        words["required"] = json!(["access.countries"]);
        let refused = refusal(&server, &words).await;
        assert!(refused.message.contains("lacks `access.countries`"), "{}", refused.message);
    }
    // Without anything that cannot be read, too.
    let mut words = serde_json::to_value(hello("alice", &["alice"])).unwrap();
    words["required"] = json!(["access.allow", "access.countries"]);
    assert_eq!(refusal(&server, &words).await.code, Refusal::Version);
    assert!(server.registry.is_empty());
}

#[tokio::test]
async fn a_change_of_a_later_version_is_refused_and_leaves_what_was_there() {
    let server = TestServer::start(&[]);
    let puppet = Puppet::connect(&server, &hello("alice", &["alice"])).await;
    let stream = puppet.control(&json::encode(&Control::Heartbeat).unwrap()).await;
    let mut reader = ControlReader::new(stream.clone());
    let before = server.tunnel_of("alice");
    let mut say = async |message: Value| {
        let bytes = json::encode(&message).unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            sent += std::future::poll_fn(|cx| stream.poll_write(cx, &bytes[sent..])).await.unwrap();
        }
        loop {
            match soon("an answer", reader.receive()).await.unwrap() {
                Control::Heartbeat => {}
                Control::NotOffered { change, refused } => return (change, refused),
                other => panic!("{other:?}"),
            }
        }
    };
    for (change, later) in of_later_versions().into_iter().enumerate() {
        let (answered, refused) = say(json!({ "type": "services", "change": change, "services": [later] })).await;
        assert_eq!((answered, refused.code), (change as u64, Refusal::Version), "{later}");
        assert!(refused.message.ends_with("upgrade the server"), "{}", refused.message);
    }
    let plain = json!({ "name": "alice", "kind": "http" });
    let required = json!({ "type": "services", "change": 9, "services": [plain], "required": ["access.countries"] });
    let (_, refused) = say(required).await;
    assert!(refused.message.contains("lacks `access.countries`"), "{}", refused.message);
    let now = server.tunnel_of("alice");
    assert_eq!((now.id(), now.lanes().len()), (before.id(), 1));
    let offered = ServiceOffer::new(name("alice"), ServiceKind::Http);
    assert_eq!(server.registry.by_name(&name("alice")).unwrap().service.offer(), &offered);
}

#[tokio::test]
async fn strangers_are_answered_as_before() {
    let server = TestServer::start(&[]);
    let mut pipe = puppet::dial(server.tunnel, server.fingerprint).await;
    send_encoded(&mut pipe, &json::encode(&json!({ "hello": "world" })).unwrap()).await.unwrap();
    let mut rest = Vec::new();
    let _ = soon("the end of the connection", pipe.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
}
