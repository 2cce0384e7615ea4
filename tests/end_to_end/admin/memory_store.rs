//! A server whose clients are kept in memory: everything that it does with clients goes through the `ClientStore`.

use std::sync::Arc;

use adit::protocol::login::{Hello, Proof};
use adit::schema::ConfigErrors;
use adit::tenants::clients::Clients;
use adit::tenants::edit_error::EditError;
use adit::tenants::entry::ClientsFile;
use adit::tenants::store::{ClientStore, Edit, LoadedClients, StoreFuture};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Operator;
use crate::harness::puppet::{self, hello, secret};
use crate::harness::visitor::fetch;
use crate::harness::{TestAgent, TestServer, apps, clients, clients_file};

/// Keeps the list of clients in memory.
#[derive(Debug)]
struct MemoryStore {
    stored: Mutex<ClientsFile>,
    clients: Arc<Clients>,
}

impl MemoryStore {
    fn new(file: ClientsFile) -> Self {
        Self { clients: Arc::new(Clients::new(file.clone())), stored: Mutex::new(file) }
    }
}

impl ClientStore for MemoryStore {
    fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    fn problems(&self) -> Option<ConfigErrors> {
        None
    }

    fn transact(&self, mut edit: Edit) -> StoreFuture<'_, Result<(), EditError>> {
        Box::pin(async move {
            let mut stored = self.stored.lock();
            let mut changed = stored.clone();
            if edit(&mut changed) {
                changed.check().map_err(EditError::Refused)?;
                *stored = changed.clone();
                self.clients.replace_by(changed, true);
            }
            Ok(())
        })
    }

    fn refresh(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {})
    }

    fn reload(&self) -> StoreFuture<'_, ()> {
        Box::pin(async {})
    }

    fn load(&self) -> StoreFuture<'_, Result<LoadedClients<'_>, ConfigErrors>> {
        Box::pin(async { Ok(LoadedClients::new(self.stored.lock().clone(), |_| false)) })
    }

    fn watch(self: Arc<Self>, stop: CancellationToken) -> StoreFuture<'static, ()> {
        Box::pin(async move { stop.cancelled().await })
    }
}

#[tokio::test]
async fn a_server_works_with_clients_that_are_in_no_file() {
    let dir = Arc::new(TempDir::new().unwrap());
    let store = Arc::new(MemoryStore::new(clients_file(&clients())));
    let settings = [("admin.listen", "127.0.0.1:0")];
    let server = TestServer::start_with_store(Arc::clone(&dir), &settings, Arc::<MemoryStore>::clone(&store));
    let operator = Operator::of(server);
    let mut alice = TestAgent::connect(&operator.server, "alice", &[("alice", apps::fixed("hers").await)]).await;
    assert_eq!(fetch(operator.server.public, "alice", "/").await.text(), "hers");

    // An invitation, redeemed once.
    let invited = operator.post("/api/v1/invites", r#"{"id": "dave", "names": ["dave", "shop-dave"]}"#).await;
    assert_eq!(invited.status, 201, "{invited:?}");
    let code = secret(invited.body["code"].as_str().unwrap());
    let login = Hello { client_id: "dave".parse().unwrap(), proof: Some(Proof::Invite(code)), ..hello("alice", &[]) };
    let known = puppet::ask(&operator.server, &login).await.unwrap();
    assert_eq!((known.client_id.as_str(), known.names.len(), known.token.is_some()), ("dave", 2, true));
    assert!(puppet::ask(&operator.server, &login).await.is_err(), "the invitation is used");
    assert_eq!(operator.get("/api/v1/clients").await.each("id"), ["alice", "bob", "carol", "dave"]);
    assert!(store.stored.lock().invites.is_empty());

    // What belongs to another client is refused by the same rules as in a file.
    let refused = operator.post("/api/v1/clients", r#"{"id": "eve", "names": ["shop-dave"]}"#).await;
    assert_eq!(refused.code(), (409, "conflict"), "{refused:?}");

    // A revoked client is disconnected, and may not come back.
    assert_eq!(operator.delete("/api/v1/clients/alice").await.status, 204);
    alice.refused("bad_token").await;
    assert_eq!(operator.get("/healthz").await.body["clients"], 3);
    assert!(!dir.path().join("clients.toml").exists());
}
