//! Turns the text of one list of clients into that of another, and changes only what differs.

use super::toml_text::{self, Comments, NotThere, append, inline, insert_after, list, quoted, remove, set};
use crate::tenants::claim::{Claim, default_names};
use crate::tenants::client_limits::ClientLimits;
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry};
use crate::tenants::list_change::ListItem;
use crate::values::ClientId;

/// The value of a key, as TOML but for the items of a list.
#[derive(PartialEq)]
enum Value {
    Text(String),
    List(Vec<String>),
    Table(Vec<(&'static str, String)>),
}

impl Value {
    fn list<T: ListItem>(items: &[T]) -> Self {
        Self::List(items.iter().map(T::text).collect())
    }

    fn toml(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => list(items),
            Self::Table(fields) => inline(fields),
        }
    }
}

/// A key of a client or an invitation.
#[derive(PartialEq)]
struct Field {
    key: &'static str,
    value: Value,
    /// Whether the value applies without the key, which is not written then.
    is_default: bool,
}

impl Field {
    fn new(key: &'static str, value: Value) -> Self {
        Self { key, value, is_default: false }
    }

    fn list<T: ListItem>(key: &'static str, items: &[T], default: &[T]) -> Self {
        Self { key, value: Value::list(items), is_default: items == default }
    }

    fn optional(key: &'static str, value: Option<Value>) -> Self {
        Self { key, is_default: value.is_none(), value: value.unwrap_or(Value::Table(Vec::new())) }
    }
}

/// Returns the keys of a client, in the order in which they are written.
fn client_fields(id: &ClientId, entry: &ClientEntry) -> Vec<Field> {
    let ClientEntry { token_hash, previous, names, domains, tcp_ports, expires, limits } = entry;
    let previous = previous.as_ref().map(|previous| {
        Value::Table(vec![("token_hash", quoted(&previous.token_hash)), ("until", previous.until.to_string())])
    });
    vec![
        Field::new("token_hash", Value::Text(quoted(token_hash))),
        Field::optional("previous", previous),
        Field::list("names", names, &default_names(id)),
        Field::list("domains", domains, &[]),
        Field::list("tcp_ports", tcp_ports, &[]),
        Field::optional("expires", expires.map(|end| Value::Text(end.to_string()))),
        Field::optional("limits", limits_table(limits)),
    ]
}

fn limits_table(limits: &ClientLimits) -> Option<Value> {
    let ClientLimits { requests_per_second, burst, streams } = limits;
    let fields = [
        ("requests_per_second", requests_per_second.map(|number| number.to_string())),
        ("burst", burst.map(|number| number.to_string())),
        ("streams", streams.map(|number| number.to_string())),
    ];
    let fields: Vec<_> = fields.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    (!fields.is_empty()).then_some(Value::Table(fields))
}

/// Returns the keys of an invitation.
fn invite_fields(invite: &InviteEntry) -> Vec<Field> {
    let InviteEntry { code_hash, id, names, expires } = invite;
    let by_default: Vec<Claim> = id.as_ref().map(default_names).unwrap_or_default();
    vec![
        Field::new("code_hash", Value::Text(quoted(&code_hash.to_string()))),
        Field::optional("id", id.as_ref().map(|id| Value::Text(quoted(id.as_str())))),
        Field::list("names", names, &by_default),
        Field::new("expires", Value::Text(expires.to_string())),
    ]
}

/// Returns `text`, the text of `before`, changed to that of `after`. What is removed goes with the comments that belong to
/// it: those on its lines and between them, and those directly above or below without a blank line.
pub(super) fn rewrite(text: &str, before: &ClientsFile, after: &ClientsFile) -> Result<String, NotThere> {
    let mut text = text.to_owned();
    let invites = before.invites.keys().filter(|key| !after.invites.contains_key(*key));
    let clients = before.clients.keys().filter(|id| !after.clients.contains_key(*id));
    let removed = invites.map(|key| ["invites", key]).chain(clients.map(|id| ["clients", id.as_str()]));
    for path in removed {
        text = remove(&text, &path, Comments::Go)?;
    }
    for (id, entry) in &after.clients {
        text = match before.clients.get(id) {
            None => add(&text, "clients", id.as_str(), &client_fields(id, entry))?,
            Some(old) if old != entry => change(text, id, &client_fields(id, old), &client_fields(id, entry))?,
            Some(_) => continue,
        };
    }
    for (key, invite) in after.invites.iter().filter(|(key, _)| !before.invites.contains_key(*key)) {
        text = add(&text, "invites", key, &invite_fields(invite))?;
    }
    Ok(text)
}

fn add(text: &str, section: &str, key: &str, fields: &[Field]) -> Result<String, NotThere> {
    let written = fields.iter().filter(|field| !field.is_default);
    toml_text::add(text, section, key, &written.map(|field| (field.key, field.value.toml())).collect::<Vec<_>>())
}

/// Changes the keys of a client. A list that is replaced loses the comments inside it; one that grows keeps them.
fn change(mut text: String, id: &ClientId, old: &[Field], new: &[Field]) -> Result<String, NotThere> {
    // New keys are written directly after the hash, so the last one comes first.
    for (old, new) in old.iter().zip(new).rev().filter(|(old, new)| old != new) {
        let path = ["clients", id.as_str(), new.key];
        let put = |text: &str| {
            let value = new.value.toml();
            set(text, &path, &value)
                .or_else(|NotThere| insert_after(text, &["clients", id.as_str(), "token_hash"], new.key, &value))
        };
        text = match (&old.value, &new.value) {
            _ if new.is_default => remove(&text, &path, Comments::Stay)?,
            (Value::List(before), Value::List(items)) if items.starts_with(before) => {
                let more: Vec<_> = items[before.len()..].iter().map(|item| quoted(item)).collect();
                append(&text, &path, &more).or_else(|NotThere| put(&text))?
            }
            (Value::Table(_), Value::Table(fields)) if !old.is_default => {
                let set_field =
                    |text: String, (key, value): &(_, String)| set(&text, &[&path[..], &[*key]].concat(), value);
                fields.iter().try_fold(text, set_field)?
            }
            _ => put(&text)?,
        };
    }
    Ok(text)
}
