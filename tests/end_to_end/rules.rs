//! Rules: one name, several applications.

use adit::schema::ValueKind;

use crate::harness::apps;
use crate::harness::visitor::{Visitor, fetch, get};
use crate::harness::{ServiceEntry, TestAgent, TestServer, service};

fn rule(local: std::net::SocketAddr, keys: &[(&str, ValueKind)]) -> ValueKind {
    let own = ("local".to_owned(), ValueKind::from(local.to_string()));
    let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    ValueKind::from(keys.chain([own]).collect::<ServiceEntry>())
}

fn table(keys: &[(&str, &str)]) -> ValueKind {
    keys.iter().map(|(key, value)| ((*key).to_owned(), ValueKind::from(*value))).collect::<ServiceEntry>().into()
}

#[tokio::test]
async fn a_request_goes_where_the_first_rule_that_fits_says() {
    let server = TestServer::start(&[]);
    let [web, api, two] = [apps::echo().await, apps::echo().await, apps::fixed("two").await];
    let header = table(&[("name", "X-Version"), ("value", "2")]);
    let rules = vec![
        rule(two, &[("path", "/api".into()), ("header", header)]),
        rule(api, &[("path", "/api".into()), ("strip_prefix", true.into())]),
    ];
    let own = apps::with(|request| async move {
        http::Response::new(http_body_util::Full::new(bytes::Bytes::from(format!("own {}", request.uri()))))
    })
    .await;
    let services =
        vec![service("alice", &own.to_string(), &[("rules", rules.into())]), service("blog", &web.to_string(), &[])];
    let _agent = TestAgent::connect_with(&server, "alice", services).await;

    for path in ["/", "/apix", "/x/api", "/%61pi", "//api"] {
        assert_eq!(fetch(server.public, "alice", path).await.text(), format!("own {path}"));
    }
    let answer = fetch(server.public, "alice", "/api/x?q=1").await;
    assert!(answer.text().starts_with("GET /x?q=1\n"), "{}", answer.text());
    assert!(answer.text().contains("x-forwarded-prefix: /api\n"), "{}", answer.text());
    assert!(fetch(server.public, "alice", "/api").await.text().starts_with("GET /\n"));
    // By path, the server has taken the name off already.
    let answer = Visitor::connect(server.public).await.ask(by_path("/alice/api/x")).await;
    assert!(answer.text().starts_with("GET /x\n"), "{}", answer.text());
    assert!(answer.text().contains("x-forwarded-prefix: /alice/api\n"), "{}", answer.text());
    for (version, expected) in [("2", "two"), ("1", "GET /\n")] {
        let mut request = get("alice", "/api");
        request.headers_mut().insert("x-version", version.parse().unwrap());
        let answer = Visitor::connect(server.public).await.ask(request).await;
        assert!(answer.text().starts_with(expected), "{}", answer.text());
    }
}

fn by_path(path: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let mut request = get("alice", path);
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    request
}
