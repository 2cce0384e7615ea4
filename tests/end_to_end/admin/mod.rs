//! The operator's port: who gets in, what is shown, what is changed, and what the log says of it.

mod changes;
mod doors;
mod memory_store;
mod metrics;
mod requests;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use adit::telemetry::AUDIT_LOG;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::harness::visitor::Visitor;
use crate::harness::{TestServer, clients, replace_file};

/// A server with an admin port and a clients file on the disk, and the operator's tool for it.
struct Operator {
    server: TestServer,
    address: SocketAddr,
    token: String,
}

/// An answer of the admin port.
#[derive(Debug)]
struct Told {
    status: u16,
    headers: HeaderMap,
    /// `Null`, if there is no body.
    body: Value,
}

impl Told {
    fn code(&self) -> (u16, &str) {
        (self.status, self.body["error"].as_str().unwrap_or_default())
    }

    /// The keys of the problems.
    fn keys(&self) -> Vec<&str> {
        let problems = self.body["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
        problems.iter().map(|problem| problem["key"].as_str().unwrap()).collect()
    }

    /// One field of each item of a list.
    fn each(&self, field: &str) -> Vec<&str> {
        let items = self.body["items"].as_array().unwrap_or_else(|| panic!("no list: {self:?}"));
        items.iter().map(|item| item[field].as_str().unwrap()).collect()
    }
}

impl Operator {
    fn start(settings: &[(&str, &str)]) -> Self {
        LazyLock::force(&AUDITED);
        let dir = Arc::new(TempDir::new().unwrap());
        std::fs::write(dir.path().join("clients.toml"), clients()).unwrap();
        let settings: Vec<_> = [("admin.listen", "127.0.0.1:0")].into_iter().chain(settings.iter().copied()).collect();
        Self::of(TestServer::start_in(dir, &settings))
    }

    fn of(server: TestServer) -> Self {
        let address = server.admin.unwrap();
        let token = std::fs::read_to_string(server.dir().path().join("admin-token")).unwrap().trim().to_owned();
        Self { server, address, token }
    }

    /// What the clients file says.
    fn file(&self) -> String {
        std::fs::read_to_string(self.server.dir().path().join("clients.toml")).unwrap()
    }

    fn write_file(&self, text: &str) {
        replace_file(&self.server.dir().path().join("clients.toml"), text);
    }

    /// Asks with the token. A body that is empty is none.
    async fn ask(&self, method: Method, path: &str, body: &str) -> Told {
        let bearer = format!("Bearer {}", self.token);
        let mut fields = vec![("host", "localhost"), ("authorization", bearer.as_str())];
        if !body.is_empty() {
            fields.push(("content-type", "application/json"));
        }
        self.ask_with(method, path, &fields, body).await
    }

    async fn get(&self, path: &str) -> Told {
        self.ask(Method::GET, path, "").await
    }

    async fn post(&self, path: &str, body: &str) -> Told {
        self.ask(Method::POST, path, body).await
    }

    async fn delete(&self, path: &str) -> Told {
        self.ask(Method::DELETE, path, "").await
    }

    /// Asks with these fields and no others.
    async fn ask_with(&self, method: Method, path: &str, fields: &[(&str, &str)], body: &str) -> Told {
        let request = fields
            .iter()
            .fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let answer = Visitor::connect(self.address).await.ask(request).await;
        let body = match answer.body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}")),
        };
        if answer.status != StatusCode::NO_CONTENT {
            assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
        }
        assert_eq!((answer.header("cache-control"), answer.header("x-content-type-options")), ("no-store", "nosniff"));
        Told { status: answer.status.as_u16(), headers: answer.headers, body }
    }
}

/// Every line of the audit log of this process, as `action on outcome` and the rest.
static AUDITED: LazyLock<Arc<Mutex<Vec<String>>>> = LazyLock::new(|| {
    let lines = Arc::default();
    let subscriber = tracing_subscriber::registry().with(Lines(Arc::clone(&lines)));
    tracing::subscriber::set_global_default(subscriber).expect("another test listens to the log");
    lines
});

/// The lines that are about `on`.
fn audited(on: &str) -> Vec<String> {
    AUDITED.lock().iter().filter(|line| line.contains(&format!("on={on:?} "))).cloned().collect()
}

struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == AUDIT_LOG {
            let mut line = Line(String::new());
            event.record(&mut line);
            self.0.lock().push(line.0);
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}
