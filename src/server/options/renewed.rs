//! `server.toml`, read again while a server runs: what of it counts at once, and what waits for the next start.

use super::{PublicOptions, ServerOptions, TunnelOptions};
use crate::telemetry::options::LogOptions;

/// A configuration that was read while a server runs by another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// What counts from now on: as it was read, but for the keys that wait, which are as they were.
    pub config: ServerOptions,
    /// The paths of the keys that say something else from now on, in the order of the file.
    pub changed: Vec<&'static str>,
    /// The paths of those that wait for the next start.
    pub waiting: Vec<&'static str>,
}

impl ServerOptions {
    /// What becomes of this one when `read` is taken over: listeners, and what else is made once, stay as they are.
    pub fn renewed(&self, read: &Self) -> Renewed {
        let config = self.over(read.clone());
        let differing = |one: &Self, other: &Self| {
            KEYS.iter().filter(|key| (key.differs)(one, other)).map(|key| key.path).collect::<Vec<_>>()
        };
        Renewed { changed: differing(self, &config), waiting: differing(read, &config), config }
    }

    /// `read`, with what waits for the next start as it is here.
    fn over(&self, mut read: Self) -> Self {
        let (tunnel, public, log) = (&self.tunnel, &self.public, &self.log);
        // Both belong to a listener that comes or goes with the next start.
        if read.public.https.is_some() != public.https.is_some() {
            read.public.certificates.clone_from(&public.certificates);
            read.public.redirect_to_https.clone_from(&public.redirect_to_https);
        }
        Self {
            clients: self.clients.clone(),
            tunnel: TunnelOptions { listen: tunnel.listen, tls: tunnel.tls.clone(), ..read.tunnel },
            public: PublicOptions {
                domain: public.domain.clone(),
                http: public.http,
                https: public.https,
                ..read.public
            },
            admin: self.admin.clone(),
            log: LogOptions { format: log.format, file: log.file.clone(), ..read.log },
            traces: self.traces.clone(),
            ..read
        }
    }
}

/// One key of the file.
pub(crate) struct Key {
    pub(crate) path: &'static str,
    differs: fn(&ServerOptions, &ServerOptions) -> bool,
}

/// A key that is called as its field.
macro_rules! key {
    ($first:ident $(. $rest:ident)*) => {
        Key {
            path: concat!(stringify!($first) $(, ".", stringify!($rest))*),
            differs: |one, other| one.$first $(.$rest)* != other.$first $(.$rest)*,
        }
    };
}

/// A key whose field is part of something that may be missing.
macro_rules! part {
    ($path:literal, $($of:ident).+, $part:ident) => {
        Key {
            path: $path,
            differs: |one, other| {
                one.$($of).+.as_ref().map(|of| &of.$part) != other.$($of).+.as_ref().map(|of| &of.$part)
            },
        }
    };
}

/// Every key, in the order of the sample.
pub(crate) const KEYS: &[Key] = &[
    key!(clients),
    key!(tunnel.listen),
    key!(tunnel.heartbeat),
    key!(tunnel.login_timeout),
    key!(tunnel.drain_timeout),
    key!(tunnel.max_tunnels),
    key!(tunnel.tls.dir),
    key!(tunnel.tls.names),
    part!("tunnel.tls.cert", tunnel.tls.own, cert),
    part!("tunnel.tls.key", tunnel.tls.own, key),
    key!(public.domain),
    key!(public.http),
    key!(public.https),
    key!(public.redirect_to_https),
    key!(public.url),
    key!(public.routing),
    key!(public.trusted_proxies),
    key!(public.proxy_protocol_from),
    key!(public.forwarded),
    key!(public.domain_proof),
    key!(public.resolvers),
    key!(public.certificates),
    key!(admin.listen),
    key!(admin.token_file),
    key!(timeouts.head),
    key!(timeouts.keep_alive),
    key!(timeouts.connect),
    key!(timeouts.response_head),
    key!(timeouts.idle),
    key!(timeouts.quiet_stream),
    key!(limits.streams),
    key!(limits.connections),
    key!(limits.head_size),
    key!(limits.held_heads),
    key!(limits.held_bodies),
    key!(limits.unread_answers),
    key!(limits.per_ip.requests_per_second),
    key!(limits.per_ip.burst),
    key!(limits.per_ip.connections),
    key!(limits.per_ip.streams),
    key!(limits.per_ip.logins_per_minute),
    key!(limits.per_ip.ipv6_prefix),
    key!(limits.per_client.requests_per_second),
    key!(limits.per_client.burst),
    key!(limits.per_client.streams),
    key!(limits.per_tunnel.streams),
    key!(limits.per_tunnel.streams_per_lane),
    key!(limits.per_tunnel.lane_lifetime),
    key!(limits.per_tunnel.lane_window),
    key!(log.format),
    key!(log.level),
    part!("log.file", log.file, path),
    part!("log.file_size", log.file, size),
    part!("log.files", log.file, keep),
    key!(log.access),
    key!(log.query),
    key!(traces.endpoint),
    key!(traces.sample),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{Environment, Flags};

    fn config(text: &str) -> ServerOptions {
        ServerOptions::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new()).unwrap()
    }

    #[test]
    fn what_can_count_at_once_does_and_the_rest_is_named() {
        let running = config("");
        for (text, is_live, keys) in [
            ("tunnel.heartbeat = '1s'", true, &["tunnel.heartbeat"][..]),
            (
                "tunnel.max_tunnels = 1\ntunnel.drain_timeout = '1s'",
                true,
                &["tunnel.drain_timeout", "tunnel.max_tunnels"],
            ),
            ("public.url = 'https://{name}.example'", true, &["public.url"]),
            ("public.routing = ['path']\npublic.forwarded = true", true, &["public.routing", "public.forwarded"]),
            ("timeouts.idle = '1s'", true, &["timeouts.idle"]),
            ("limits.per_ip.burst = 1\nlimits.streams = 1", true, &["limits.streams", "limits.per_ip.burst"]),
            ("limits.per_client.streams = 1", true, &["limits.per_client.streams"]),
            ("log.level = 'debug'\nlog.query = true", true, &["log.level", "log.query"]),
            ("clients = 'others.toml'", false, &["clients"]),
            ("tunnel.listen = '127.0.0.1:1'", false, &["tunnel.listen"]),
            ("tunnel.tls.cert = 'c'\ntunnel.tls.key = 'k'", false, &["tunnel.tls.cert", "tunnel.tls.key"]),
            ("tunnel.tls.names = ['x.example']", false, &["tunnel.tls.names"]),
            ("public.domain = 'x.example'", false, &["public.domain"]),
            ("admin.listen = 'off'", false, &["admin.listen"]),
            ("log.format = 'json'", false, &["log.format"]),
            ("log.file = 'l'", false, &["log.file", "log.file_size", "log.files"]),
        ] {
            let read = config(text);
            let Renewed { config, changed, waiting } = running.renewed(&read);
            let (expected, none) = if is_live { (&read, &waiting) } else { (&running, &changed) };
            assert!(config == *expected && none.is_empty(), "{text}: {changed:?} {waiting:?}");
            assert_eq!(if is_live { changed } else { waiting }, keys, "{text}");
        }
    }

    #[test]
    fn what_was_changed_back_waits_for_nothing() {
        let started = config("");
        let first = started.renewed(&config("public.domain = 'x.example'\nlimits.streams = 1"));
        assert_eq!((first.changed, first.waiting), (vec!["limits.streams"], vec!["public.domain"]));
        let second = first.config.renewed(&config("public.domain = 'x.example'\nlimits.streams = 1"));
        assert_eq!((second.changed, second.waiting), (vec![], vec!["public.domain"]));
        let third = second.config.renewed(&started);
        assert_eq!((third.changed, third.waiting), (vec!["limits.streams"], vec![]));
        assert_eq!(third.config, started);
    }

    #[test]
    fn certificates_wait_with_their_listener() {
        let with = "[public]\nhttps = '[::]:9443'\nredirect_to_https = ['*']\n[[public.certificates]]\ncert = 'c'\nkey = 'k'\n";
        let keys = ["public.https", "public.redirect_to_https", "public.certificates"];
        for (running, read) in [("", with), (with, "")] {
            let (running, read) = (config(running), config(read));
            let renewed = running.renewed(&read);
            assert_eq!((renewed.changed, renewed.waiting), (vec![], keys.to_vec()));
            assert_eq!(renewed.config, running);
        }
        let other = with.replace("'c'", "'other'").replace("9443", "9444");
        let renewed = config(with).renewed(&config(&other));
        assert_eq!((renewed.changed, renewed.waiting), (vec!["public.certificates"], vec!["public.https"]));
    }
}
