//! The `[admin]` section of `server.toml`: where the operator's tools ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::{OWN_ADDRESS, ServerOptions, address};
use crate::schema::{Key, key, options};

/// The name of the token's file, where none is named.
const TOKEN_FILE: &str = "admin-token";

const PORT: u16 = 9091;

options! {
    /// The `[admin]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct AdminOptions {
        /// Where health and the API for the operator's tools are served ([admin.md](admin.md)), over plain HTTP.
        pub listen: Option<SocketAddr> = listen(), restart;
        /// The file of the API's token, which the first start creates.
        pub token_file: PathBuf = key::path().or(format!("`{TOKEN_FILE}` in `tunnel.tls.dir`"), PathBuf::new()), restart;
    }
}

impl AdminOptions {
    /// Fills in the default that depends on `state`, the folder of the server's other secrets.
    pub(super) fn complete(&mut self, state: &Path) {
        if self.token_file.as_os_str().is_empty() {
            self.token_file = state.join(TOKEN_FILE);
        }
    }
}

fn listen() -> Key<Option<SocketAddr>> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let read = |text: &str| match text {
        "off" => Ok(None),
        text => address(text, PORT).map(Some).map_err(|message| format!("{message}; or \"off\"")),
    };
    key::text(format!("{OWN_ADDRESS}, or `off`"), read).or(format!("`{default}`"), Some(default))
}

/// Returns a warning for an admin listener that other machines can reach: its token would cross the network in the clear.
pub fn open_admin_warning(server: &ServerOptions) -> Option<String> {
    let listen = server.admin.listen.filter(|listen| !listen.ip().to_canonical().is_loopback())?;
    Some(format!(
        "admin.listen is {listen}, which other machines can reach, and speaks plain HTTP: whoever listens on the way \
         learns the admin token; put it behind TLS, or listen on 127.0.0.1"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Environment, Flags};

    fn server(text: &str) -> Result<ServerOptions, String> {
        let file = Path::new("etc/server.toml");
        ServerOptions::from_text(file, text, &Environment::default(), &Flags::new())
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn it_listens_on_loopback_unless_told_otherwise() {
        let admin = server("[tunnel.tls]\ndir = 'state'\n").unwrap().admin;
        assert_eq!(admin.listen, Some("127.0.0.1:9091".parse().unwrap()));
        assert_eq!(admin.token_file, Path::new("etc/state/admin-token"));
        let admin = server("[admin]\nlisten = 'off'\ntoken_file = 'secrets/admin'\n").unwrap().admin;
        assert_eq!((admin.listen, admin.token_file.as_path()), (None, Path::new("etc/secrets/admin")));
        let message = server("[admin]\nlisten = 'on'\n").unwrap_err();
        assert!(message.contains("admin.listen: `on` is not an address") && message.contains("\"off\""), "{message}");
    }

    #[test]
    fn another_listener_cannot_have_its_address() {
        let message = server("[admin]\nlisten = '[::]:9090'\n").unwrap_err();
        assert!(message.contains("admin.listen: is the same address as public.http"), "{message}");
        assert!(server("[admin]\nlisten = '127.0.0.1:0'\n[public]\nhttp = '127.0.0.1:0'\n").is_ok());
    }

    #[test]
    fn only_what_others_can_reach_warns() {
        let warning = |listen: &str| open_admin_warning(&server(&format!("[admin]\nlisten = '{listen}'\n")).unwrap());
        for listen in ["127.0.0.1:9091", "127.1.2.3:1", "[::1]:9091", "[::ffff:127.0.0.1]:9091", "off"] {
            assert_eq!(warning(listen), None, "{listen}");
        }
        for listen in ["0.0.0.0:9091", "[::]:9091", "192.0.2.1:9091"] {
            assert!(warning(listen).unwrap().contains("plain HTTP"), "{listen}");
        }
    }
}
