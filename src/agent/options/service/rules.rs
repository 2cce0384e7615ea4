//! `[[services.rules]]`: which of several applications gets a request.

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, InvalidHeaderValue, TE, TRAILER, TRANSFER_ENCODING};

use super::local;
use crate::agent::options::LocalUrl;
use crate::protocol::login::ServiceKind;
use crate::schema::{Entry, Table, key};
use crate::values::split_host_port;

/// The most rules of one service.
const MAX_RULES: usize = 64;

/// One of the conditions under which a request goes elsewhere than to the service's own application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the path begins with, in whole segments: `/api`. Never ends with a slash; empty fits every path, `None` what
    /// has none (`*`), too.
    pub path: Option<String>,
    /// A field that must be there.
    pub header: Option<HeaderCondition>,
    /// The application that gets what fits.
    pub local: LocalUrl,
    /// Whether the application is asked without the path of this rule. Default: no.
    pub strip_prefix: bool,
}

/// A field that a request must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Its name. `Host` stands for the host that the visitor asked for, without its port.
    pub name: HeaderName,
    /// What one of its lines must be; `None` takes any.
    pub value: Option<HeaderValue>,
}

impl Rule {
    /// Whether no request with a path is left to the rules behind it.
    fn fits_everything(&self) -> bool {
        self.header.is_none() && self.path.as_ref().is_none_or(String::is_empty)
    }
}

const LOCAL: &str = "The application. A port alone means `localhost`. A host name is resolved for each connection, and \
                     connections for requests are used for a minute at most, so that the agent follows a name that moves.";

/// Where a service leads: the application that gets what no rule fits, and the rules. A last rule that fits everything is
/// the same as `local`, which may then be left out.
pub(crate) fn resolve(table: &mut Table<'_>, kind: ServiceKind) -> (Option<LocalUrl>, Vec<Rule>) {
    let report = table.report();
    let (key, local_key) = (table.key("rules"), table.key("local"));
    let own = key::any("see below").without("required, unless the last rule fits everything");
    let own = table.take("local", &own.doc(LOCAL));
    let is_given = own.is_some();
    let own = own.and_then(|entry| entry.parse_or_number(|text| local(text, kind)));
    let rules = key::any(format!("at most {MAX_RULES}, see below")).of_sections();
    let rules = rules.doc("`http` only: requests that go to other applications.");
    let entries = table.take("rules", &rules).and_then(Entry::list).unwrap_or_default();
    let count = entries.len();
    if count > 0 && kind != ServiceKind::Http {
        report.problem(&key, "is only for services of the kind http; remove it");
    }
    if count > MAX_RULES {
        report.problem(&key, format!("has {count} entries, at most {MAX_RULES} are allowed"));
    }
    let mut rules: Vec<Rule> = entries.into_iter().filter_map(Entry::table).filter_map(rule).collect();
    let is_whole = rules.len() == count;
    let all = rules.iter().position(Rule::fits_everything).filter(|_| is_whole);
    match all {
        Some(at) if at + 1 < count => {
            let message = format!("is never reached: {key}[{at}] before it fits everything; change their order");
            report.problem(format!("{key}[{}]", at + 1), message);
        }
        Some(at) if is_given => {
            report
                .problem(format!("{key}[{at}]"), "fits everything, so that `local` is never asked; remove one of them");
        }
        Some(_) => {
            let last = rules.pop().map(|rule| rule.local);
            return (last, rules);
        }
        None if !is_given && is_whole => {
            report.problem(local_key, "is missing; say where the application listens, like 3000");
        }
        None => {}
    }
    (own, rules)
}

fn rule(mut table: Table<'_>) -> Option<Rule> {
    let before = table.report().count();
    let path = key::text("a path", path)
        .without("any")
        .doc("What the path begins with, in whole segments: `/api` fits `/api`, `/api/` and `/api/x`, not `/apix`.");
    let path = table.get("path", path);
    let header = table.take("header", &key::any("").of_section()).and_then(Entry::table).and_then(condition);
    let local =
        key::text_or_number("as `services[].local`", |text| local(text, ServiceKind::Http)).doc("The application.");
    let local = table.get("local", local.required("say which application gets what fits"));
    let strip_prefix = key::boolean(false).doc(
        "`/api/x` becomes `/x` for this application, and `X-Forwarded-Prefix` says `/api`. Links and redirects in \
         responses stay as they are.",
    );
    let strip_prefix = table.get("strip_prefix", strip_prefix);
    // A mistake in a condition must not make one that fits more.
    let is_right = table.report().count() == before;
    if is_right && strip_prefix && path.is_none() {
        table.report().problem(table.key("strip_prefix"), "needs a path that is taken off; add one or remove it");
    }
    is_right.then_some(Rule { path, header, local: local?, strip_prefix })
}

/// A path as it crosses the wire.
fn path(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
    match text.starts_with('/') && text.bytes().all(is_plain) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!(
            "`{text}` is not a path; write one like /api, as it stands in a request: without a query, other letters as %C3%A9"
        )),
    }
}

fn condition(mut table: Table<'_>) -> Option<HeaderCondition> {
    let name = key::text("the name of a field", visible_field).required("name a field like X-Version").doc(
        "A field that must be there: `{ name = \"X-Version\", value = \"2\" }`. `Host` stands for the host that the visitor \
         asked for, without its port.",
    );
    let name = table.get("name", name);
    let field = name.clone();
    let value = key::text("a text", move |text| match (&field, split_host_port(text)) {
        (Some(name), Ok((_, Some(_))) | Err(_)) if *name == HOST => {
            Err(format!("`{text}` is not a host; write one like blog.example.com, without a port"))
        }
        (Some(name), Ok(_)) if *name == HOST => HeaderValue::from_str(&text.to_ascii_lowercase()).map_err(unfit),
        _ => HeaderValue::from_str(text).map_err(unfit),
    });
    let value = table.get("value", value.without("any").doc("What one line of that field must be, exactly."));
    Some(HeaderCondition { name: name?, value })
}

fn unfit(_: InvalidHeaderValue) -> String {
    "has characters that a field cannot have".to_owned()
}

/// A field that can be seen on the way: those of one connection are not.
pub(crate) fn visible_field(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not the name of a field"))?;
    let of_connection = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING].contains(&name)
        || ["keep-alive", "proxy-connection"].contains(&name.as_str());
    match of_connection {
        true => Err(format!("`{name}` belongs to the visitor's connection, and is not seen here")),
        false => Ok(name),
    }
}
