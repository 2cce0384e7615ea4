//! `request_headers` and `response_headers` of a service: changes to header fields.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use super::{HTTP, only_for};
use crate::schema::{Entry, Table, key};

/// Changes to the fields of a head, made in this order: remove, set, add.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// All values of these go.
    pub remove: Vec<HeaderName>,
    /// These values take the place of whatever is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// These come beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Reads the rules for requests and those for responses.
pub(super) fn read(table: &mut Table<'_>) -> [HeaderRules; 2] {
    let request = header_rules(
        table.section("request_headers"),
        [
            "Fields that are removed before the application gets the request.",
            "Fields that replace all values of the same name, after that.",
            "Fields that are added, last.",
        ],
    );
    let response = header_rules(
        table.section("response_headers"),
        [
            "The same for what the visitor gets.",
            "The same. Fields of the connection, `Host` and `Content-Length` cannot be changed, in either direction.",
            "The same.",
        ],
    );
    [request, response]
}

/// Reads `remove`, `set` and `add`; `docs` describes them in this order.
fn header_rules(mut table: Table<'_>, docs: [&'static str; 3]) -> HeaderRules {
    let remove = table.get("remove", key::list("names", field_name).doc(docs[0]));
    let [set, add] = [("set", docs[1]), ("add", docs[2])].map(|(name, doc)| {
        let section = table.take(name, &key::any("names and values").of_section().doc(doc)).and_then(Entry::table);
        section.map(fields).unwrap_or_default()
    });
    HeaderRules { remove, set, add }
}

fn fields(mut table: Table<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::new();
    for key in table.keys() {
        let name = field_name(&key).map_err(|message| table.report().problem(table.key(&key), message)).ok();
        let read = |text: &str| HeaderValue::from_str(text).map_err(|_| "has characters that a field cannot have");
        let value = table.get(&key, key::text("", read));
        fields.extend(name.zip(value));
    }
    fields
}

/// A field that may be changed: not one that says where a message goes, how long it is, or what becomes of the connection.
fn field_name(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not the name of a field"))?;
    match name {
        HOST => Err("is what host_header is for".to_owned()),
        CONNECTION | CONTENT_LENGTH | TE | TRAILER | TRANSFER_ENCODING | UPGRADE => {
            Err(format!("`{name}` belongs to the connection, not to the message, and cannot be changed"))
        }
        _ if ["keep-alive", "proxy-connection"].contains(&name.as_str()) => {
            Err(format!("`{name}` belongs to the connection, not to the message, and cannot be changed"))
        }
        _ => Ok(name),
    }
}

/// Reads whether identity fields are removed from requests.
pub(super) fn remove_identity_headers(table: &mut Table<'_>, is_http: bool) -> bool {
    let remove = key::boolean(false).doc(
        "`http` only: removes fields that tell an application who the user is, like `Remote-User` and `X-Auth-Request-*`. \
         [When to use it](security.md#fields-that-only-a-proxy-may-send)",
    );
    let remove_identity_headers = table.get("remove_identity_headers", remove);
    only_for(table, "remove_identity_headers", remove_identity_headers, is_http, HTTP);
    remove_identity_headers
}
