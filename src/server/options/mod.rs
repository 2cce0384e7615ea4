//! The options of a server: `server.toml`. Each key is one row in these files.

mod admin;
mod limits;
mod public;
#[cfg(test)]
mod tests;
mod tunnel;

pub use admin::{AdminOptions, open_admin_warning};
pub use limits::{LimitOptions, PerIpLimits, PerTunnelLimits, TimeoutOptions};
pub use public::PublicOptions;
pub use tunnel::{OwnCertificate, TlsOptions, TunnelOptions};

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::routing::RoutingMode;
use crate::schema::{
    ConfigErrors, Environment, FileText, Flags, Key, Problem, Reload, Report, Section as _, Table, key, merge, options,
};
use crate::telemetry::options::{LogOptions, TracesOptions};
use crate::tenants::entry::ClientsFile;

/// The file that a server reads when none is named.
pub const DEFAULT_SERVER_FILE: &str = "config/server.toml";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

options! {
    /// Everything `adit server` needs to know.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ServerOptions check by check {
        /// The clients file.
        pub clients: PathBuf =
            key::path().or_else("`clients.toml` beside the file", |report| report.base().join("clients.toml")), restart;
        /// Where agents connect.
        pub tunnel: TunnelOptions, section;
        /// Where visitors connect.
        pub public: PublicOptions, section;
        /// Where the operator's tools connect.
        pub admin: AdminOptions, section;
        /// How long to wait for a visitor or an application.
        pub timeouts: TimeoutOptions, section;
        /// How much a visitor, a client, a tunnel and all of them together may use.
        pub limits: LimitOptions, section;
        /// What is logged, and how.
        pub log: LogOptions, section;
        /// Where spans of requests are exported to.
        pub traces: TracesOptions, section;
    }
}

/// A configuration that was read while a server runs with another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// What applies from now on: as it was read, but for the keys that apply on restart, which are as they were.
    pub config: ServerOptions,
    /// The paths of the keys that have another value from now on.
    pub changed: Vec<String>,
    /// The paths of the keys whose new value applies on restart.
    pub waiting: Vec<String>,
}

impl ServerOptions {
    /// Reads `file` (without one, [`DEFAULT_SERVER_FILE`] if it exists), the process's environment and `flags`.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<Self, ConfigErrors> {
        Self::load_with(file, &Environment::of_process(), flags)
    }

    /// Like [`ServerOptions::load`], with an environment of the caller's choice.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load_with(file: Option<&Path>, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        let default = Path::new(DEFAULT_SERVER_FILE);
        let path = file.or_else(|| default.exists().then_some(default));
        let missing = "name an existing file, or none to run with the built-in defaults";
        let text = path.map(|path| FileText::read(path, missing)).transpose()?;
        Self::from_layers(text.as_ref(), environment, flags)
    }

    /// Resolves `text` as if it had been read from `file`. Reads nothing from the disk.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        let file = FileText { path: file.to_owned(), text: text.to_owned() };
        Self::from_layers(Some(&file), environment, flags)
    }

    fn from_layers(file: Option<&FileText>, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        let (options, report) = Self::walk(file, environment, flags)?;
        report.finish(Some(options))
    }

    /// Returns the options in `file`, with defaults in place of what is wrong, and everything that is wrong.
    ///
    /// # Errors
    /// The file or the environment cannot be read at all.
    pub(crate) fn draft(file: &FileText, environment: &Environment) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        let (options, report) = Self::walk(Some(file), environment, &Flags::new())?;
        Ok((options, report.into_problems()))
    }

    fn walk(file: Option<&FileText>, environment: &Environment, flags: &Flags) -> Result<(Self, Report), ConfigErrors> {
        let values = merge(file, environment, flags)?;
        let path = file.map(|file| file.path.as_path());
        // Without a file, the defaults are those of an empty one in its usual place.
        let base = path.unwrap_or(Path::new(DEFAULT_SERVER_FILE)).parent().unwrap_or(Path::new(""));
        let report = Report::new(path, base);
        let options = Self::read(&mut report.root(values));
        Ok((options, report))
    }

    /// Returns what applies after a reload that has read `read`.
    pub fn renewed(&self, read: &Self) -> Renewed {
        let mut reload = Reload::default();
        let config = self.reload(read, "", &mut reload);
        Renewed { config, changed: reload.changed, waiting: reload.waiting }
    }
}

fn check(options: &mut ServerOptions, root: &Table<'_>) {
    options.admin.complete(&options.tunnel.tls.dir);
    let listeners = [
        ("tunnel.listen", Some(options.tunnel.listen)),
        ("public.http", Some(options.public.http)),
        ("public.https", options.public.https),
        ("admin.listen", options.admin.listen),
    ];
    for (at, (key, address)) in listeners.iter().enumerate() {
        let same = |other: &&(&str, Option<SocketAddr>)| other.1 == *address;
        if let (Some(address), Some((other, _))) = (address, listeners[..at].iter().find(same))
            && address.port() != 0
        {
            root.problem(key, format!("is the same address as {other}; give each its own port"));
        }
    }
}

/// What keys take that say where to listen.
const OWN_ADDRESS: &str = "address and port of its own";

/// An address to listen on; by default a port on every address of the machine.
fn listen(default_port: u16) -> Key<SocketAddr> {
    let default = SocketAddr::from((Ipv6Addr::UNSPECIFIED, default_port));
    key::text(OWN_ADDRESS, move |text| address(text, default_port)).or(format!("`{default}`"), default)
}

fn address(text: &str, example_port: u16) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "`{text}` is not an address with a port; write one like [::]:{example_port} or 127.0.0.1:{example_port}"
        )
    })
}

/// Returns a note for a server without subdomains: some applications cannot work there.
pub fn no_subdomain_note(server: &ServerOptions) -> Option<String> {
    let routing = &server.public.routing;
    let is_path_alone = routing.contains(&RoutingMode::Path) && !routing.contains(&RoutingMode::Subdomain);
    is_path_alone.then(|| {
        "there is no subdomain routing, and on path routes WebDAV, Digest authentication and links from the root do not work \
         unless the application has the name as its base path (docs/self-hoster.md); add \"subdomain\" to public.routing for \
         such applications"
            .to_owned()
    })
}

/// Returns a warning for a server on which path routing makes several clients share one browser origin.
///
/// It belongs into the output at start, too: cookies and scripts of one client's pages then reach those of the others.
pub fn shared_origin_warning(server: &ServerOptions, clients: &ClientsFile) -> Option<String> {
    let lifecycle = server.public.routing.contains(&RoutingMode::Path) && clients.clients.len() > 1;
    lifecycle.then(|| {
        let domain = &server.public.domain;
        format!(
            "path routing is on for {} clients: all names under {domain}/<name>/ share one browser origin, so the pages \
             of one client can read cookies and data of the others; use subdomain routing alone if they do not trust \
             each other",
            clients.clients.len()
        )
    })
}
