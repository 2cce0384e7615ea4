//! `server.toml`: the public side. After resolving, everything has its value and nothing needs a second look.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod admin;
mod public;
pub(crate) mod renewed;

pub use admin::{AdminOptions, open_admin_warning};
pub use public::PublicOptions;
pub use renewed::Renewed;

use self::public::listen;
use crate::routing::RoutingMode;
use crate::schema::{ConfigErrors, Environment, FileText, Flags, Problem, Report, Table, merge};
use crate::telemetry::options::{self as telemetry, LogOptions, TracesOptions};
use crate::tenants::entry::{self, ClientLimits, ClientsFile};
use crate::values::dns_name;

/// Where the file is looked for when none is named.
pub const DEFAULT_SERVER_FILE: &str = "config/server.toml";

/// The sections and keys at the top of the file.
pub(crate) const TOP_LEVEL: &[&str] = &["admin", "clients", "limits", "log", "public", "timeouts", "traces", "tunnel"];

/// Everything `adit server` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// The clients file. Default: `clients.toml` beside the configuration file.
    pub clients: PathBuf,
    /// Where agents connect.
    pub tunnel: TunnelOptions,
    /// Where visitors connect.
    pub public: PublicOptions,
    /// Where the operator's tools connect.
    pub admin: AdminOptions,
    /// How long to wait for a visitor or an application.
    pub timeouts: TimeoutOptions,
    /// How much of everything there may be.
    pub limits: LimitOptions,
    /// What is logged, and how.
    pub log: LogOptions,
    /// Where spans of requests go.
    pub traces: TracesOptions,
}

/// The `[tunnel]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelOptions {
    /// Where agents connect. Default: `[::]:8080`.
    pub listen: SocketAddr,
    /// Time between two heartbeats on a lane; three missed ones end it. Default: 10 s, from 100 ms to 5 min.
    pub heartbeat: Duration,
    /// For the TLS handshake and the login together. Default: 10 s.
    pub login_timeout: Duration,
    /// How long a stopping server lets running requests end. Default: 30 s.
    pub drain_timeout: Duration,
    /// How many tunnels at once. Default: 10,000.
    pub max_tunnels: usize,
    /// The certificate agents see.
    pub tls: TlsOptions,
}

/// The `[tunnel.tls]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Where self-made certificates are kept. Default: `../certs` from the configuration file, `certs` without one.
    pub dir: PathBuf,
    /// Further DNS names and IP addresses for the self-made certificate, in lower case. Default: none.
    pub names: Vec<String>,
    /// The operator's own certificate instead of the self-made one.
    pub own: Option<OwnCertificate>,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
}

/// The `[timeouts]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutOptions {
    /// For a visitor's request head, its first byte included. Default: 10 s.
    pub head: Duration,
    /// For the first byte of the next request on a connection that is kept. Default: 75 s.
    pub keep_alive: Duration,
    /// For the agent's connection to the local application. Default: 5 s.
    pub connect: Duration,
    /// From the whole request to the head of the answer. Default: 120 s.
    pub response_head: Duration,
    /// Between two bytes of a body. Default: 5 min.
    pub idle: Duration,
    /// The same for upgraded connections and event streams. Default: 1 h.
    pub quiet_stream: Duration,
}

/// The `[limits]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitOptions {
    /// For each visitor's or agent's address.
    pub per_ip: PerIpLimits,
    /// For each client, over all its tunnels and visitors; a client's own come first. Default: none.
    pub per_client: ClientLimits,
    /// For each tunnel.
    pub per_tunnel: PerTunnelLimits,
    /// Visitors' connections in all. Default: 16,384.
    pub connections: usize,
    /// Streams of all tunnels together; the memory ceiling follows from it. Default: 16,384.
    pub streams: usize,
    /// The most a request head may measure, in bytes. Default: 65,536, from 8,192 to 262,144.
    pub head_size: usize,
    /// Maximum memory for the decoded heads of all waiting requests, beyond 8 KiB each, in bytes. Default: 33,554,432
    /// (32 MiB), from 1,048,576 to 4,000,000,000.
    pub held_heads: usize,
    /// Bodies that are held until their signature is checked, in bytes, of all requests together. Default: 67,108,864
    /// (64 MiB), from 65,536 to 4,000,000,000.
    pub held_bodies: usize,
    /// What has come from agents and waits for its visitors, in bytes, of all requests together. Default: 1,073,741,824
    /// (1 GiB), from 1,048,576 to 4,000,000,000.
    pub unread_answers: usize,
}

/// The `[limits.per_ip]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerIpLimits {
    /// Requests a second in the long run. Default: 100.
    pub requests_per_second: NonZeroU32,
    /// Requests at once before the rate counts. Default: 300.
    pub burst: NonZeroU32,
    /// Open connections. Default: 256.
    pub connections: NonZeroU32,
    /// Requests at once over its connections. Default: 1,024.
    pub streams: usize,
    /// Failed logins a minute, and wrong passwords of visitors; counted apart. Default: 30.
    pub logins_per_minute: NonZeroU32,
    /// How many leading bits of an IPv6 address make one visitor. Default: 64, from 1 to 128.
    pub ipv6_prefix: u8,
}

/// The `[limits.per_tunnel]` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerTunnelLimits {
    /// Streams at once, over all lanes. Default: 4,096.
    pub streams: usize,
    /// Streams at once on one lane. Default: 1,000, at most 4,000.
    pub streams_per_lane: usize,
    /// Streams that a lane opens in its life before a fresh lane takes its place. Default: 500,000,000, at most
    /// 1,000,000,000.
    pub lane_lifetime: u64,
    /// What all answers in one lane may have waiting for their visitors beyond 256 KiB each, in bytes. Default: 16,777,216
    /// (16 MiB), at most 1,073,741,824.
    pub lane_window: usize,
}

impl ServerOptions {
    /// Reads `file` (without one, [`DEFAULT_SERVER_FILE`] if it is there), the process's environment and `flags`.
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
        from_layers(text.as_ref(), environment, flags)
    }

    /// Resolves `text` as if it had been read from `file`; nothing is read from the disk.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn from_text(file: &Path, text: &str, environment: &Environment, flags: &Flags) -> Result<Self, ConfigErrors> {
        from_layers(Some(&FileText { path: file.to_owned(), text: text.to_owned() }), environment, flags)
    }

    /// What `file` says, with the defaults in place of what is wrong; and everything that is.
    ///
    /// # Errors
    /// There is nothing to make sense of.
    pub(crate) fn draft(file: &FileText, environment: &Environment) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        let (config, report) = walk(Some(file), environment, &Flags::new())?;
        Ok((config, report.into_problems()))
    }
}

fn from_layers(
    file: Option<&FileText>,
    environment: &Environment,
    flags: &Flags,
) -> Result<ServerOptions, ConfigErrors> {
    let (config, report) = walk(file, environment, flags)?;
    report.finish(Some(config))
}

fn walk(
    file: Option<&FileText>,
    environment: &Environment,
    flags: &Flags,
) -> Result<(ServerOptions, Report), ConfigErrors> {
    let values = merge(file, environment, flags)?;
    let path = file.map(|file| file.path.as_path());
    // Without a file the defaults are those of an empty one in its usual place.
    let base = path.unwrap_or(Path::new(DEFAULT_SERVER_FILE)).parent().unwrap_or(Path::new(""));
    let report = Report::new(path, base);
    let config = resolve(report.root(values), path.is_some());
    Ok((config, report))
}

pub(crate) fn resolve(mut root: Table<'_>, has_file: bool) -> ServerOptions {
    let report = root.report();
    let clients = root.by_default("`clients.toml` beside the file").path("clients");
    let clients = clients.unwrap_or_else(|| report.base().join("clients.toml"));
    let tunnel = tunnel(root.section("tunnel"), has_file);
    let config = ServerOptions {
        clients,
        public: public::resolve(root.section("public")),
        admin: admin::resolve(root.section("admin"), &tunnel.tls.dir),
        tunnel,
        timeouts: timeouts(root.section("timeouts")),
        limits: limits(root.section("limits")),
        log: telemetry::resolve_server(root.section("log")),
        traces: telemetry::resolve_traces(root.section("traces")),
    };
    let public = &config.public;
    let listeners = [
        ("tunnel.listen", Some(config.tunnel.listen)),
        ("public.http", Some(public.http)),
        ("public.https", public.https),
        ("admin.listen", config.admin.listen),
    ];
    for (at, (key, address)) in listeners.iter().enumerate() {
        let same = |other: &&(&str, Option<SocketAddr>)| other.1 == *address;
        if let (Some(address), Some((other, _))) = (address, listeners[..at].iter().find(same))
            && address.port() != 0
        {
            report.problem(*key, format!("is the same address as {other}; give each its own port"));
        }
    }
    config
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn between(least: Duration, most: Duration) -> RangeInclusive<Duration> {
    least..=most
}

fn tunnel(mut table: Table<'_>, has_file: bool) -> TunnelOptions {
    TunnelOptions {
        listen: listen(&mut table, "listen", 8080),
        heartbeat: table.duration("heartbeat", 10 * SECOND, between(100 * MILLISECOND, 5 * MINUTE)),
        login_timeout: table.duration("login_timeout", 10 * SECOND, between(10 * MILLISECOND, 5 * MINUTE)),
        drain_timeout: table.duration("drain_timeout", 30 * SECOND, between(10 * MILLISECOND, 24 * HOUR)),
        max_tunnels: table.number("max_tunnels", 10_000, 1..=1_000_000),
        tls: tls(table.section("tls"), has_file),
    }
}

fn tls(mut table: Table<'_>, has_file: bool) -> TlsOptions {
    let default_dir = || if has_file { table.report().base().join("../certs") } else { PathBuf::from("certs") };
    let default_dir = default_dir();
    let dir = table.by_default("`../certs` from the file; `certs` without one").path("dir").unwrap_or(default_dir);
    let names = table.within("DNS names (no wildcards), IP addresses").list("names", certificate_name);
    let names = names.unwrap_or_default();
    let own = own_certificate(&mut table);
    TlsOptions { dir, names, own }
}

/// `cert` and `key`, which go together.
pub(crate) fn own_certificate(table: &mut Table<'_>) -> Option<OwnCertificate> {
    let missing = |table: &Table<'_>, key: &str| {
        table.report().problem(table.key(key), "is missing: a certificate of your own needs `cert` and `key`");
        None
    };
    let mut path = |key| table.within(", both or neither").path(key);
    match (path("cert"), path("key")) {
        (Some(cert), Some(key)) => Some(OwnCertificate { cert, key }),
        (None, None) => None,
        (Some(_), None) => missing(table, "key"),
        (None, Some(_)) => missing(table, "cert"),
    }
}

fn certificate_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() { Ok(text.to_ascii_lowercase()) } else { dns_name(text) }
}

fn timeouts(mut table: Table<'_>) -> TimeoutOptions {
    let least = 10 * MILLISECOND;
    TimeoutOptions {
        head: table.duration("head", 10 * SECOND, between(least, 10 * MINUTE)),
        keep_alive: table.duration("keep_alive", 75 * SECOND, between(least, 60 * MINUTE)),
        connect: table.duration("connect", 5 * SECOND, between(least, 10 * MINUTE)),
        response_head: table.duration("response_head", 120 * SECOND, between(least, 24 * HOUR)),
        idle: table.duration("idle", 5 * MINUTE, between(least, 24 * HOUR)),
        quiet_stream: table.duration("quiet_stream", HOUR, between(least, 30 * 24 * HOUR)),
    }
}

fn limits(mut table: Table<'_>) -> LimitOptions {
    LimitOptions {
        per_ip: per_ip(table.section("per_ip")),
        per_client: entry::limits(table.section("per_client")),
        per_tunnel: per_tunnel(table.section("per_tunnel")),
        connections: table.number("connections", 16_384, 1..=1_000_000),
        streams: table.number("streams", 16_384, 1..=1_000_000),
        head_size: table.within(" bytes").number("head_size", 65_536, 8_192..=262_144),
        held_heads: table.within(" bytes").number("held_heads", 33_554_432, 1_048_576..=4_000_000_000),
        held_bodies: table.within(" bytes").number("held_bodies", 67_108_864, 65_536..=4_000_000_000),
        unread_answers: table.within(" bytes").number("unread_answers", 1_073_741_824, 1_048_576..=4_000_000_000),
    }
}

fn per_ip(mut table: Table<'_>) -> PerIpLimits {
    PerIpLimits {
        requests_per_second: positive(&mut table, "requests_per_second", 100),
        burst: positive(&mut table, "burst", 300),
        connections: positive(&mut table, "connections", 256),
        streams: table.number("streams", 1_024, 1..=1_000_000),
        logins_per_minute: positive(&mut table, "logins_per_minute", 30),
        ipv6_prefix: u8::try_from(table.number("ipv6_prefix", 64, 1..=128)).unwrap_or(64),
    }
}

fn per_tunnel(mut table: Table<'_>) -> PerTunnelLimits {
    PerTunnelLimits {
        streams: table.number("streams", 4_096, 1..=1_000_000),
        streams_per_lane: table.number("streams_per_lane", 1_000, 1..=4_000),
        lane_lifetime: table.number("lane_lifetime", 500_000_000, 1..=1_000_000_000) as u64,
        lane_window: table.within(" bytes").number("lane_window", 16_777_216, 0..=1_073_741_824),
    }
}

fn positive(table: &mut Table<'_>, key: &str, default: usize) -> NonZeroU32 {
    let number = table.number(key, default, 1..=1_000_000_000);
    u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

/// A warning for a server on which path routing makes several clients share one browser origin.
///
/// Worth saying at start-up, too: cookies and scripts of one client's pages then reach those of the others.
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

#[cfg(test)]
mod tests;
