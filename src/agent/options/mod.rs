//! `agent.toml`: the home side. `adit agent` reads the file, `adit http` builds the same from flags alone.

use std::path::{Path, PathBuf};

mod local_url;
mod saved_login;
mod secret_file;
mod service;
mod token;

pub use local_url::{LocalScheme, LocalUrl, Place};
pub use saved_login::SavedLogin;
pub use service::{HeaderCondition, HeaderRules, HostHeader, ProxyProtocol, Rule, Service};

use crate::schema::{
    ConfigErrors, Entry, Environment, FileText, Flags, Key, Problem, Report, TOKEN_VARIABLE, Table, key, merge,
};
use crate::telemetry::options::LogOptions;
use crate::transport::tls::Trust;
use crate::values::{ClientId, Secret, ServerAddress};
use token::FoundToken;

/// Where the file is looked for when none is named.
pub const DEFAULT_AGENT_FILE: &str = "config/agent.toml";

/// Everything an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The servers, in the order in which they are tried. Never empty.
    pub servers: Vec<ServerAddress>,
    /// The client the agent logs in as.
    pub client_id: ClientId,
    /// The client's token; empty only while [`AgentOptions::awaited`] says why.
    pub token: Secret,
    /// Whether the token comes from a saved login: then a server has accepted it before.
    pub token_is_saved: bool,
    /// Why the token file holds no token yet; only from [`AgentOptions::load_awaiting_token`].
    pub awaited: Option<String>,
    /// The file it was read from, if it has one of its own.
    pub token_file: Option<PathBuf>,
    /// How the agent knows that it talks to the right server.
    pub trust: Trust,
    /// What is offered. 1 to [`crate::protocol::login::MAX_SERVICES`], each with another name.
    pub services: Vec<Service>,
    /// How many requests are served at once. Default: 4,096, as many as a server sends one agent by default.
    pub max_streams: usize,
    /// Whether the agent exits, instead of standing by, when another agent of the client has all of its names. Default: no.
    pub exit_when_replaced: bool,
    /// What is logged, and how.
    pub log: LogOptions,
}

impl AgentOptions {
    /// Returns the defaults for an agent that offers `services`. Neither list may be empty.
    pub fn new(servers: Vec<ServerAddress>, client_id: ClientId, token: Secret, services: Vec<Service>) -> Self {
        Self {
            servers,
            client_id,
            token,
            token_is_saved: false,
            awaited: None,
            token_file: None,
            trust: Trust::System,
            services,
            max_streams: 4_096,
            exit_when_replaced: false,
            log: LogOptions::plain("warn"),
        }
    }

    /// Reads `file` (without one, [`DEFAULT_AGENT_FILE`]), the process's environment and `flags`; and what they leave open
    /// of server, client and token, in the login that the user has kept.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigErrors> {
        Self::load_with(file, &Environment::of_process(), flags, SavedLogin::folder().as_deref())
    }

    /// Like [`AgentOptions::load`], for an agent that can wait for its token file: a file that is missing, unreadable or
    /// empty is no error, and [`AgentOptions::awaited`] says what is wrong with it.
    ///
    /// # Errors
    /// Everything else that is wrong, at once.
    pub fn load_awaiting_token(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigErrors> {
        let saved = SavedLogin::folder();
        from_layers(
            Some(&read_file(file)?),
            &Environment::of_process(),
            flags,
            Beside { saved: saved.as_deref(), token_file: TokenFile::MayCome },
        )
    }

    /// Like [`AgentOptions::load`], with an environment of the caller's choice, and the folder of a kept login.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load_with(
        file: Option<&Path>,
        environment: &Environment,
        flags: &Flags,
        saved: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        from_layers(Some(&read_file(file)?), environment, flags, Beside::saved(saved))
    }

    /// Like [`AgentOptions::load`], without a file.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_command_line(flags: &Flags) -> Result<Self, ConfigErrors> {
        let saved = SavedLogin::folder();
        from_layers(None, &Environment::of_process(), flags, Beside::saved(saved.as_deref()))
    }

    /// Resolves environment and flags alone, without a file or a kept login.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_flags(environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        from_layers(None, environment, flags, Beside::saved(None))
    }

    /// Resolves `text` as if it had been read from `file`. Only files that hold secrets are read from the disk.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        Self::from_file(&FileText { path: file.to_owned(), text: text.to_owned() }, environment, flags, None)
    }

    pub(crate) fn from_file(
        file: &FileText,
        environment: &Environment,
        flags: &Flags,
        saved: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        from_layers(Some(file), environment, flags, Beside::saved(saved))
    }
}

/// What an agent reads beside its configuration.
struct Beside<'a> {
    /// The folder of a saved login, if that may be used.
    saved: Option<&'a Path>,
    token_file: TokenFile,
}

impl<'a> Beside<'a> {
    fn saved(saved: Option<&'a Path>) -> Self {
        Self { saved, token_file: TokenFile::MustBeThere }
    }
}

/// Whether the token file may still have to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenFile {
    MustBeThere,
    MayCome,
}

fn read_file(file: Option<&Path>) -> Result<FileText, ConfigErrors> {
    let path = file.unwrap_or(Path::new(DEFAULT_AGENT_FILE));
    FileText::read(path, "name one with --config, or share a single port without a file: `adit http 3000`")
}

fn from_layers(
    file: Option<&FileText>,
    environment: &Environment,
    flags: &Flags,
    beside: Beside<'_>,
) -> Result<AgentOptions, ConfigErrors> {
    let values = merge(file, environment, flags)?;
    let path = file.map(|file| file.path.as_path());
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let report = match beside.token_file {
        TokenFile::MustBeThere => Report::new(path, base),
        TokenFile::MayCome => Report::new(path, base).deferring(),
    };
    let (saved, broken) = match beside.saved.map(SavedLogin::read) {
        Some(Ok(saved)) => (saved, None),
        Some(Err(broken)) => (None, Some(broken)),
        None => (None, None),
    };
    let config = resolve(report.root(values), environment.get(TOKEN_VARIABLE), saved.as_ref());
    let awaited = report.take_deferred().pop().map(|problem| problem.to_string());
    let config = config.map(|config| AgentOptions { awaited, ..config });
    report.finish(config).map_err(|mut errors| {
        // It is no matter as long as nobody needs it.
        errors.problems.extend(broken.map(|broken| Problem {
            key: String::new(),
            message: format!("the saved login cannot be used: {broken}"),
        }));
        errors
    })
}

/// What of a login was given, for each of its parts: nothing, or what came of it.
struct Given {
    servers: Option<Vec<ServerAddress>>,
    client_id: Option<Option<ClientId>>,
    token: Option<Option<FoundToken>>,
    trust: Option<Trust>,
}

impl Given {
    /// Whether a saved login may fill in what is missing. It is for its own server and client alone: to no other server,
    /// and to none that is to be known otherwise, its token must ever go.
    fn may_be_completed_by(&self, saved: &SavedLogin) -> bool {
        let is_incomplete = self.servers.is_none() || self.client_id.is_none() || self.token.is_none();
        is_incomplete
            && self.servers.as_ref().is_none_or(|servers| *servers == [saved.server.clone()])
            && self.client_id.as_ref().is_none_or(|id| id.as_ref() == Some(&saved.client_id))
            && self.trust.as_ref().is_none_or(|trust| *trust == saved.trust)
    }
}

/// Reads the whole file. `saved` fills in what is missing of a login.
pub(crate) fn resolve(
    mut root: Table<'_>,
    token_variable: Option<&str>,
    saved: Option<&SavedLogin>,
) -> Option<AgentOptions> {
    let Login { servers, client_id, token, token_is_saved, trust } = login(&mut root, token_variable, saved);
    let (token, token_file) = token.unzip();
    let services = service::resolve_all(&mut root, client_id.as_ref());
    let most = key::number(4_096, 1..=100_000);
    let max_streams = root.get("max_streams", most.doc("Requests served at once."));
    let exit = key::boolean(false).doc(
        "Whether the agent exits with code 77, instead of standing by, when an agent of the same client that was started \
         later has all of its names ([operate.md](operate.md#13-several-agents-of-one-tenant)). `--exit-when-replaced`",
    );
    let exit_when_replaced = root.get("exit_when_replaced", exit);
    let log = LogOptions::read_for_agent(&mut root.section("log"));
    Some(AgentOptions {
        servers: servers?,
        client_id: client_id?,
        token: token?,
        token_is_saved,
        awaited: None,
        token_file: token_file.flatten(),
        trust,
        services,
        max_streams,
        exit_when_replaced,
        log,
    })
}

/// A login, with what a saved one has filled in. `None`: missing or wrong, which was reported.
struct Login {
    servers: Option<Vec<ServerAddress>>,
    client_id: Option<ClientId>,
    token: Option<FoundToken>,
    token_is_saved: bool,
    trust: Trust,
}

/// What to do for a first login from the command line.
const NOT_LOGGED_IN: &str = "not logged in; run `adit login HOST:PORT --invite CODE` once, with the address and the code from \
                             the operator of your server (or give --server, --id and --token)";

fn login(root: &mut Table<'_>, token_variable: Option<&str>, saved: Option<&SavedLogin>) -> Login {
    let given = Given {
        servers: root.take("servers", &servers_key()).map(servers),
        client_id: root.take("client_id", &client_id_key()).map(|entry| entry.parse(ClientId::new)),
        token: token::read(root, token_variable),
        trust: trust(root),
    };
    let fits = saved.filter(|saved| given.may_be_completed_by(saved));
    let unfit = match saved.filter(|_| fits.is_none()) {
        Some(saved) => {
            format!("; the saved login is for {} as {} and is used for nothing else", saved.server, saved.client_id)
        }
        None => String::new(),
    };
    let servers = given.servers.or(fits.map(|saved| vec![saved.server.clone()]));
    let client_id = given.client_id.or(fits.map(|saved| Some(saved.client_id.clone())));
    let token_is_saved = given.token.is_none();
    let token = given.token.or(fits.map(|saved| Some((saved.token.clone(), None))));
    if !root.report().has_file() && saved.is_none() && servers.is_none() && client_id.is_none() && token.is_none() {
        root.report().problem("", NOT_LOGGED_IN);
        return Login { servers: None, client_id: None, token: None, token_is_saved, trust: Trust::System };
    }
    let trust = given.trust.or(fits.map(|saved| saved.trust.clone())).unwrap_or(Trust::System);
    for (key, is_there, advice) in [
        (
            "servers",
            servers.is_some(),
            "give --server or servers, like [\"tunnel.example.com:8080\"], or `adit login` once",
        ),
        ("client_id", client_id.is_some(), "give --id or client_id, the id the server's operator chose for you"),
        ("token", token.is_some(), "give --token, ADIT_TOKEN or token_file"),
    ] {
        if !is_there {
            root.problem(key, format!("is missing; {advice}{unfit}"));
        }
    }
    Login { servers, client_id: client_id.flatten(), token: token.flatten(), token_is_saved, trust }
}

fn servers_key() -> Key<Option<()>> {
    key::any("at least one: `host`, `host:port` or `[v6]:port`").without("required, or a saved login").doc(
        "The server's address; the port defaults to 8080. Several are tried in order. See [saved logins](#adit-login).",
    )
}

fn client_id_key() -> Key<Option<()>> {
    key::any("an id").without("required, or a saved login").doc("The id that the operator chose.")
}

fn servers(entry: Entry<'_>) -> Vec<ServerAddress> {
    let (report, key) = (entry.report(), entry.key().to_owned());
    let entries = entry.list();
    if entries.as_ref().is_some_and(Vec::is_empty) {
        report.problem(key, "is empty; give --server or servers, like [\"tunnel.example.com:8080\"]");
    }
    entries.into_iter().flatten().filter_map(|entry| entry.parse(str::parse)).collect()
}

/// Reads what the server's certificate is checked against, if that is given.
fn trust(root: &mut Table<'_>) -> Option<Trust> {
    let ca = key::path().within("a PEM file").without("the system's authorities");
    let ca = root.get("ca", ca.doc("Trust these certificate authorities and no others."));
    let fingerprint = key::text("`sha256:` and 64 digits", str::parse);
    let fingerprint = root.get(
        "fingerprint",
        fingerprint.doc("Trust the authority (or the server) with this key and no other. Excludes `ca`."),
    );
    match (ca, fingerprint) {
        (None, None) => None,
        (Some(ca), None) => Some(Trust::CaFile(ca)),
        (None, Some(fingerprint)) => Some(Trust::Fingerprint(fingerprint)),
        (Some(ca), Some(_)) => {
            root.problem("fingerprint", "is given together with ca; keep one of the two");
            Some(Trust::CaFile(ca))
        }
    }
}

#[cfg(test)]
mod tests;
