//! How somebody is invited to the server that runs.

use std::path::{Path, PathBuf};

use crate::schema::{Environment, Flags};
use crate::server::options::{DEFAULT_SERVER_FILE, ServerOptions};
use crate::values::Fingerprint;

/// What `adit token invite` cannot see in the server's configuration file, because flags or the environment say it: it
/// would take another clients file, or pin another authority.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsaid {
    /// The file itself, if it is worth naming: not in its usual place, and of use without the rest.
    config: Option<PathBuf>,
    clients: Option<PathBuf>,
    has_other_authority: bool,
}

impl Unsaid {
    /// Compares `config` with what `file` alone says.
    pub(super) fn of(config: &ServerOptions, file: Option<&Path>) -> Self {
        let alone = ServerOptions::load_with(file, &Environment::default(), &Flags::new()).ok();
        let alone = alone.as_ref();
        let named = file.filter(|file| alone.is_some() && *file != Path::new(DEFAULT_SERVER_FILE));
        Self {
            config: named.map(Path::to_owned),
            clients: alone.is_none_or(|alone| alone.clients != config.clients).then(|| config.clients.clone()),
            has_other_authority: config.tunnel.tls.own.is_none()
                && alone.is_none_or(|alone| {
                    alone.tunnel.tls.own.is_some() || alone.tunnel.tls.dir != config.tunnel.tls.dir
                }),
        }
    }

    /// The command. What the file does not say, it does.
    pub(super) fn invite_command(&self, fingerprint: Fingerprint) -> String {
        let config = self.config.as_ref().map(|file| format!(" --config {}", file.display()));
        let clients = self.clients.as_ref().map(|clients| format!(" --clients {}", clients.display()));
        let pin = self.has_other_authority.then(|| format!(" --fingerprint {fingerprint}"));
        let flags = [config, clients, pin].into_iter().flatten().collect::<String>();
        format!("adit token invite alice{flags}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_says_what_the_file_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("server.toml");
        std::fs::write(&file, "tunnel.listen = '127.0.0.1:0'\n").unwrap();
        let pin: Fingerprint = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let command = |flags: &[(&str, &str)]| {
            let flags = flags.iter().fold(Flags::new(), |flags, (key, value)| flags.with(key, *value));
            let config = ServerOptions::load_with(Some(&file), &Environment::default(), &flags).unwrap();
            Unsaid::of(&config, Some(&file)).invite_command(pin)
        };
        let plain = format!("adit token invite alice --config {}", file.display());
        assert_eq!(command(&[]), plain);
        assert_eq!(command(&[("public.domain", "a.example")]), plain);
        assert_eq!(command(&[("tunnel.tls.dir", "/elsewhere")]), format!("{plain} --fingerprint {pin}"));
        assert_eq!(command(&[("clients", "/c.toml")]), format!("{plain} --clients /c.toml"));
        assert_eq!(command(&[("tunnel.tls.names", "a.example")]), plain, "it is in nobody's code");
        // A file that says nothing of use without the flags is not named, and what it means is said.
        std::fs::write(&file, "tunnel.listen = 'nonsense'\n").unwrap();
        let clients = dir.path().join("clients.toml");
        let all = format!("adit token invite alice --clients {} --fingerprint {pin}", clients.display());
        assert_eq!(command(&[("tunnel.listen", "127.0.0.1:0")]), all);
        assert_eq!(Unsaid::default().invite_command(pin), "adit token invite alice");
    }
}
