//! What the tests are made of: [`TestServer`], [`TestAgent`], local applications ([`apps`]), visitors ([`visitor`]) and
//! agents and servers in the test's own hands ([`puppet`], [`stand_in`]), a name server ([`dns`]).

pub mod apps;
pub mod dns;
pub mod frames;
pub mod puppet;
pub mod stand_in;
pub mod visitor;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use adit::agent::options::AgentOptions;
use adit::agent::{Agent, GivenUp, ServiceChanges, State};
use adit::auth::Token;
use adit::limits::{HeldHeads, SharedBudget};
use adit::link::carriers::mux::Unread;
use adit::schema::{ConfigErrors, Environment, Flags, ValueKind};
use adit::server::directory::registry::Registry;
use adit::server::directory::tunnel::Tunnel;
use adit::server::lifecycle::reload::{NotReloaded, Reloaded, Reloader};
use adit::server::options::ServerOptions;
use adit::server::{Drained, Server, StartError};
use adit::tenants::clients::Clients;
use adit::tenants::entry::ClientsFile;
use adit::tenants::file_store::FileStore;
use adit::tenants::store::ClientStore;
use adit::transport::inherited::Inherited;
use adit::values::{Fingerprint, Name};
use argon2::PasswordHasher as _;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Long enough for anything that happens at all; reached only by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for: {what}"),
    }
}

/// Waits until `condition` holds, looking again whenever something has changed at `registry`.
pub async fn until(what: &str, registry: &Registry, mut condition: impl FnMut() -> bool) {
    let mut changes = registry.changes();
    soon(what, async {
        while !condition() {
            changes.borrow_and_update();
            if condition() {
                return;
            }
            changes.changed().await.unwrap();
        }
    })
    .await;
}

/// Waits until nothing is open any more.
pub async fn until_idle(exchanges: &TaskTracker, within: Duration) {
    if tokio::time::timeout(within, exchanges.wait()).await.is_err() {
        panic!("{} exchanges are still open after {within:?}", exchanges.len());
    }
}

/// The clients that every test server knows, and what they may claim.
const CLIENTS: [(&str, &str); 3] =
    [("alice", r#"["alice", "blog", "shop"]"#), ("bob", r#"["bob"]"#), ("carol", r#"["carol"]"#)];

/// How many files this process may have open, as many as the system allows.
pub static FILES: LazyLock<u64> = LazyLock::new(|| rlimit::increase_nofile_limit(rlimit::INFINITY).unwrap());

static TOKENS: LazyLock<HashMap<&'static str, (Token, String)>> = LazyLock::new(|| {
    let made = CLIENTS.iter().map(|(id, _)| {
        let token = Token::generate().unwrap();
        let hash = cheap_hash(token.as_secret()).unwrap();
        (*id, (token, hash))
    });
    made.collect()
});

/// A client's token.
pub fn token(client: &str) -> &'static Token {
    &TOKENS[client].0
}

/// What the server keeps of a client's token.
pub fn token_hash(client: &str) -> &'static str {
    &TOKENS[client].1
}

/// The clients file of every test server.
pub fn clients() -> String {
    let section =
        |(id, names): &(&str, &str)| format!("[clients.{id}]\ntoken_hash = \"{}\"\nnames = {names}\n", TOKENS[id].1);
    // Below the ports that systems give out by themselves. Tests that run at once pass over each other's.
    CLIENTS
        .iter()
        .map(section)
        .collect::<String>()
        .replace("[clients.bob]", "tcp_ports = [\"21000-21999\"]\n[clients.bob]")
}

/// Gives a file that is watched another text, in one step: whoever looks in between finds neither half of it nor nothing.
pub fn replace_file(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What a configuration file of this text says, with these flags over it.
pub fn server_config(file: &Path, text: &str, flags: &Flags) -> Result<ServerOptions, ConfigErrors> {
    ServerOptions::from_text(file, text, &Environment::default(), flags)
}

/// What a clients file says.
pub fn clients_file(text: &str) -> ClientsFile {
    ClientsFile::from_text(Path::new("clients.toml"), text).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A server that runs.
pub struct TestServer {
    pub tunnel: SocketAddr,
    pub public: SocketAddr,
    pub https: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub fingerprint: Fingerprint,
    pub registry: Arc<Registry>,
    pub clients: Arc<Clients>,
    pub clients_file: Arc<FileStore>,
    pub open: TaskTracker,
    /// What has come from agents and waits for visitors.
    pub unread: Arc<Unread>,
    pub held_heads: HeldHeads,
    pub held_bodies: SharedBudget,
    reloader: Reloader,
    /// With what it was started.
    flags: Flags,
    dir: Arc<TempDir>,
    stop: CancellationToken,
    run: Option<JoinHandle<Drained>>,
    /// A runtime of its own: a crash ends it with everything on it.
    runtime: Option<Runtime>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl TestServer {
    /// With settings over the tests' defaults, e.g. `[("timeouts.idle", "1s")]`.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), settings)
    }

    /// As [`TestServer::start`], with the keys and certificates of an earlier one.
    pub fn start_in(dir: Arc<TempDir>, settings: &[(&str, &str)]) -> Self {
        Self::try_start_in(dir, settings).unwrap()
    }

    /// Starts again where an earlier one was: same keys, same ports. Another test may use such a port for a moment.
    pub async fn start_again(dir: Arc<TempDir>, tunnel: SocketAddr, public: SocketAddr) -> Self {
        let (tunnel, public) = (tunnel.to_string(), public.to_string());
        let settings = [("tunnel.listen", tunnel.as_str()), ("public.http", public.as_str())];
        let started = async {
            loop {
                match Self::try_start_in(Arc::clone(&dir), &settings) {
                    Ok(server) => return server,
                    Err(StartError::Listen(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        soon("the ports of an earlier server", started).await
    }

    /// With a configuration file of this text, which lies in `dir`.
    pub fn start_with_file(dir: Arc<TempDir>, text: &str) -> Self {
        Self::try_start(dir, text, &[]).unwrap()
    }

    fn try_start_in(dir: Arc<TempDir>, settings: &[(&str, &str)]) -> Result<Self, StartError> {
        Self::try_start(dir, "", settings)
    }

    /// Starts a server that keeps its clients in `store`.
    pub fn start_with_store(dir: Arc<TempDir>, settings: &[(&str, &str)], store: Arc<dyn ClientStore>) -> Self {
        Self::try_start_with(dir, "", settings, Some(store), Inherited::default()).unwrap()
    }

    /// Starts a server whose visitors connect to `public`, which a service manager has opened.
    pub fn start_on(public: std::net::TcpListener) -> Self {
        let address = public.local_addr().unwrap().to_string();
        let (dir, inherited) = (Arc::new(TempDir::new().unwrap()), Inherited::new(vec![public]));
        Self::try_start_with(dir, "", &[("public.http", &address)], None, inherited).unwrap()
    }

    fn try_start(dir: Arc<TempDir>, text: &str, settings: &[(&str, &str)]) -> Result<Self, StartError> {
        Self::try_start_with(dir, text, settings, None, Inherited::default())
    }

    fn try_start_with(
        dir: Arc<TempDir>,
        text: &str,
        settings: &[(&str, &str)],
        store: Option<Arc<dyn ClientStore>>,
        mut inherited: Inherited,
    ) -> Result<Self, StartError> {
        // Both ends of everything are in this process, over all tests at once: the usual soft limit is 1,024.
        LazyLock::force(&FILES);
        let defaults = [
            ("tunnel.listen", "127.0.0.1:0"),
            ("public.http", "127.0.0.1:0"),
            ("admin.listen", "off"),
            ("tunnel.tls.dir", dir.path().to_str().unwrap()),
            ("limits.per_ip.requests_per_second", "100000"),
            ("limits.per_ip.burst", "100000"),
            ("limits.per_ip.connections", "100000"),
        ];
        let flags = defaults.iter().chain(settings).fold(Flags::new(), |flags, (key, value)| flags.with(key, *value));
        let file = dir.path().join("server.toml");
        let config = server_config(&file, text, &flags).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listed = Arc::new(Clients::new(clients_file(&clients())));
        let file_store = Arc::new(FileStore::new(config.clients.clone(), listed));
        let store = store.unwrap_or_else(|| Arc::<FileStore>::clone(&file_store));
        let bound = {
            let _on = runtime.enter();
            Server::bind_with(config, store, &mut inherited)
        };
        let server = match bound {
            Ok(server) => server,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let stop = CancellationToken::new();
        Ok(Self {
            tunnel: server.tunnel_address().unwrap(),
            public: server.public_address().unwrap(),
            https: server.https_address().unwrap(),
            admin: server.admin_address().unwrap(),
            fingerprint: server.fingerprint(),
            registry: server.registry(),
            clients: server.clients(),
            clients_file: file_store,
            open: server.exchanges(),
            unread: server.unread(),
            held_heads: server.held_heads(),
            held_bodies: server.held_bodies(),
            reloader: server.reloader(),
            flags,
            dir,
            stop: stop.clone(),
            run: Some(runtime.spawn(async move { server.run(stop).await })),
            runtime: Some(runtime),
        })
    }

    /// Has it read everything again, with these settings over those it was started with, and the clients file.
    pub async fn reload(&self, settings: &[(&str, &str)]) -> Result<Reloaded, NotReloaded> {
        self.reload_with("", settings).await
    }

    /// The same with a configuration file of this text.
    pub async fn reload_file(&self, text: &str) -> Result<Reloaded, NotReloaded> {
        self.reload_with(text, &[]).await
    }

    async fn reload_with(&self, text: &str, settings: &[(&str, &str)]) -> Result<Reloaded, NotReloaded> {
        let clients_file = self.dir.path().join("clients.toml");
        if !clients_file.exists() {
            replace_file(&clients_file, &clients());
        }
        let flags = settings.iter().fold(self.flags.clone(), |flags, (key, value)| flags.with(key, *value));
        let (file, text) = (self.dir.path().join("server.toml"), text.to_owned());
        soon("a reload", self.reloader.reload(move || server_config(&file, &text, &flags))).await
    }

    /// Where its keys are.
    pub fn dir(&self) -> Arc<TempDir> {
        Arc::clone(&self.dir)
    }

    /// The tunnel that holds `text` now.
    pub fn tunnel_of(&self, text: &str) -> Arc<Tunnel> {
        let offered = self.registry.by_name(&name(text)).unwrap_or_else(|| panic!("nobody holds {text}"));
        Arc::clone(&offered.tunnel)
    }

    /// Starts to drain.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Drains, and waits for it.
    pub async fn stop(mut self) -> Drained {
        self.stop.cancel();
        soon("the end of the server", self.run.take().unwrap()).await.unwrap()
    }

    /// Ends it as a crash would: its sockets close, nothing is said.
    pub fn crash(self) {}
}

/// An agent that runs.
pub struct TestAgent {
    pub state: watch::Receiver<State>,
    changes: ServiceChanges,
    /// What does not change.
    flags: Flags,
    stop: CancellationToken,
    run: JoinHandle<Result<(), GivenUp>>,
}

impl TestAgent {
    /// Starts an agent of `client` that offers `services` (name, local address), and waits until it is connected.
    pub async fn connect(server: &TestServer, client: &str, services: &[(&str, SocketAddr)]) -> Self {
        let mut agent = Self::start(server, client, services);
        agent.connected().await;
        agent
    }

    /// Starts an agent and does not wait.
    pub fn start(server: &TestServer, client: &str, services: &[(&str, SocketAddr)]) -> Self {
        Self::start_at(&[server.tunnel], server.fingerprint, client, services)
    }

    /// Starts an agent that dials `servers`, in this order.
    pub fn start_at(
        servers: &[SocketAddr],
        fingerprint: Fingerprint,
        client: &str,
        services: &[(&str, SocketAddr)],
    ) -> Self {
        let services = services.iter().map(|(name, local)| service(name, &local.to_string(), &[])).collect();
        Self::start_with(servers, fingerprint, client, services)
    }

    /// Starts an agent of `client` that offers `services` as its configuration would have them, and waits until it is
    /// connected.
    pub async fn connect_with(server: &TestServer, client: &str, services: Vec<ServiceEntry>) -> Self {
        let mut agent = Self::start_with(&[server.tunnel], server.fingerprint, client, services);
        agent.connected().await;
        agent
    }

    /// Starts an agent that dials `servers` and offers `services` as its configuration would have them.
    pub fn start_with(
        servers: &[SocketAddr],
        fingerprint: Fingerprint,
        client: &str,
        services: Vec<ServiceEntry>,
    ) -> Self {
        Self::start_set(servers, fingerprint, client, services, Flags::new())
    }

    /// The same, with further settings.
    pub fn start_set(
        servers: &[SocketAddr],
        fingerprint: Fingerprint,
        client: &str,
        services: Vec<ServiceEntry>,
        settings: Flags,
    ) -> Self {
        Self::start_as(servers, fingerprint, client, services, (settings, |agent| agent))
    }

    /// Starts an agent as a person at a terminal does, who waits for the outcome.
    pub fn start_at_a_terminal(
        servers: &[SocketAddr],
        fingerprint: Fingerprint,
        client: &str,
        services: &[(&str, SocketAddr)],
    ) -> Self {
        let services = services.iter().map(|(name, local)| service(name, &local.to_string(), &[])).collect();
        Self::start_as(servers, fingerprint, client, services, (Flags::new(), Agent::exiting_if_refused))
    }

    fn start_as(
        servers: &[SocketAddr],
        fingerprint: Fingerprint,
        client: &str,
        services: Vec<ServiceEntry>,
        (settings, set_up): (Flags, impl FnOnce(Agent) -> Agent),
    ) -> Self {
        let flags = settings
            .with("servers", servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
            .with("client_id", client)
            .with("token", token(client).as_secret().expose())
            .with("fingerprint", fingerprint.to_string());
        let agent = set_up(Agent::new(agent_config(&flags, services)).unwrap());
        let changes = agent.changes();
        let stop = CancellationToken::new();
        let state = agent.state();
        let run = spawn({
            let stop = stop.clone();
            async move { agent.run(stop).await }
        });
        Self { state, changes, flags, stop, run }
    }

    /// Has it offer `services` from now on. Says whether these are others than before.
    pub fn change(&self, services: Vec<ServiceEntry>) -> bool {
        self.changes.apply(&agent_config(&self.flags, services)).unwrap()
    }

    /// As [`TestAgent::change`], with another token.
    pub fn change_token(&self, token: &str, services: Vec<ServiceEntry>) -> bool {
        self.changes.apply(&agent_config(&self.flags.clone().with("token", token), services)).unwrap()
    }

    /// Has it ask its servers at once, as after its configuration was read again.
    pub fn reconnect_now(&self) {
        self.changes.reconnect_now();
    }

    /// Waits until it waits because of a refusal with this word; gives what it says.
    pub async fn refused(&mut self, word: &str) -> String {
        let is_refused = |state: &State| matches!(state, State::Waiting { why, .. } if why.contains(word));
        let State::Waiting { why, .. } = self.reaches(word, is_refused).await else { unreachable!() };
        why
    }

    /// Waits until it is connected.
    pub async fn connected(&mut self) {
        self.reaches("a connected agent", |state| matches!(state, State::Connected { .. })).await;
    }

    /// Waits for a state.
    pub async fn reaches(&mut self, what: &str, condition: impl FnMut(&State) -> bool) -> State {
        soon(what, self.state.wait_for(condition)).await.unwrap().clone()
    }

    /// Starts to drain.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has ended by itself.
    pub async fn ended(self) -> Result<(), GivenUp> {
        soon("the end of the agent", self.run).await.unwrap()
    }

    /// Drains, and waits for it.
    pub async fn stop(self) -> Result<(), GivenUp> {
        self.stop.cancel();
        self.ended().await
    }

    /// Ends it as a crash would: its sockets close, nothing is said.
    pub async fn crash(self) {
        self.run.abort();
        let _ = self.run.await;
    }
}

fn agent_config(flags: &Flags, services: Vec<ServiceEntry>) -> AgentOptions {
    AgentOptions::from_flags(&Environment::default(), &flags.clone().with("services", services)).unwrap()
}

/// One of `[[services]]`.
pub type ServiceEntry = HashMap<String, ValueKind>;

/// A service with its name, its local address, and further keys.
pub fn service(name: &str, local: &str, keys: &[(&str, ValueKind)]) -> ServiceEntry {
    let own = [("name", ValueKind::from(name)), ("local", local.into())];
    own.iter().chain(keys).map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

/// Runs a task that the test owns.
#[allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(task)
}

/// Makes a hash of a token or password that costs next to nothing, for tests that log in hundreds of times.
pub fn cheap_hash(secret: &adit::values::Secret) -> Result<String, argon2::password_hash::Error> {
    let params = argon2::Params::new(8, 1, 1, None)?;
    let hash: argon2::password_hash::phc::PasswordHash =
        argon2::Argon2::from(params).hash_password(secret.expose().as_bytes())?;
    Ok(hash.to_string())
}
