use std::path::Path;
use std::str::FromStr as _;

use toml_edit::{DocumentMut, Item, Value};

use super::*;
use crate::agent::options::AgentOptions;
use crate::schema::{Environment, Flags};
use crate::server::options::ServerOptions;

fn facts(kind: Kind, path: &str) -> Option<(String, String)> {
    let key = every_key(kind).into_iter().find(|key| key.path == path)?;
    Some((key.default, key.bounds))
}

#[test]
fn facts_are_values_where_the_walk_knows_them_and_words_elsewhere() {
    for (kind, path, default, bounds) in [
        (Kind::Server, "tunnel.heartbeat", "`10s`", "100 ms to 5 min"),
        (Kind::Server, "timeouts.quiet_stream", "`1h`", "10 ms to 30 days"),
        (Kind::Server, "tunnel.drain_timeout", "`30s`", "10 ms to 24 h"),
        (Kind::Server, "limits.head_size", "65536", "8,192 to 262,144 bytes"),
        (Kind::Server, "public.certificates[].key", "none", "a path, both or neither"),
        (Kind::Server, "log.format", "`text`", "`text`, `json`"),
        (Kind::Agent, "services[].access", "everybody", "see below"),
        (Kind::Agent, "services[].rules[].strip_prefix", "`false`", "`true`, `false`"),
        (Kind::Clients, "clients.ID.expires", "never", "a moment with its offset"),
        (Kind::Clients, "invites.KEY.expires", "required", "a moment with its offset"),
    ] {
        assert_eq!(facts(kind, path), Some((default.to_owned(), bounds.to_owned())), "{path}");
    }
    for section in ["tunnel", "tunnel.tls", "public.certificates"] {
        assert_eq!(facts(Kind::Server, section), None, "{section}");
    }
}

/// The document with `path` set to a default as it is shown.
fn with(document: &str, path: &str, default: &str) -> String {
    let value = Value::from_str(default).unwrap_or_else(|_| Value::from(default));
    let mut document: DocumentMut = document.parse().unwrap();
    let mut item: &mut Item = document.as_item_mut();
    for part in path.split('.') {
        item = match part.strip_suffix("[]") {
            Some(list) => &mut item[list][0],
            None => &mut item[part],
        };
    }
    *item = Item::Value(value);
    document.to_string()
}

/// The defaults among the facts that are values: in backticks and nothing else, or a number.
fn values(kind: Kind) -> Vec<(String, String)> {
    let value = |key: KeyReference| {
        let text = key.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(&key.default);
        let is_value = !text.contains('`') && (text.len() < key.default.len() || text.parse::<usize>().is_ok());
        is_value.then(|| (key.path, text.to_owned()))
    };
    every_key(kind).into_iter().filter_map(value).collect()
}

#[test]
fn a_default_that_is_said_is_the_one_that_counts() {
    let server = |text: &str| {
        let file = Path::new("config/server.toml");
        ServerOptions::from_text(file, text, &Environment::default(), &Flags::new())
            .map_err(|errors| errors.to_string())
    };
    let said = values(Kind::Server);
    assert!(said.len() > 30, "{said:?}");
    for (path, default) in said {
        assert_eq!(server(&with("", &path, &default)), server(""), "{path} is said to be {default}");
    }
    let agent = |text: &str| {
        let file = Path::new("config/agent.toml");
        let config = AgentOptions::from_text(file, text, &Environment::default(), &Flags::new());
        format!("{:?}", config.map_err(|errors| errors.to_string()).unwrap())
    };
    let least = "servers = ['a']\nclient_id = 'alice'\ntoken = 't'\n[[services]]\nlocal = 3000\n\
                 [[services.rules]]\npath = '/x'\nlocal = 4000\n\
                 [services.access.webhook]\nscheme = 'stripe'\nsecret = 's'\n";
    let said = values(Kind::Agent);
    assert!(said.len() > 8, "{said:?}");
    for (path, default) in said {
        assert_eq!(agent(&with(least, &path, &default)), agent(least), "{path} is said to be {default}");
    }
}
