//! `[services.access]`: which visitors get to a service. Resolved into what the server is told.

use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::rules::visible_field;
use crate::agent::options::secret_file;
use crate::protocol::access::{AccessPolicy, BasicUser, SharedHeader, Webhook, WebhookScheme};
use crate::protocol::login::ServiceKind;
use crate::schema::{Entry, Key, Table, key};
use crate::values::{Fingerprint, NETWORKS, Secret, network, unquoted};

/// How old the signature of a webhook may be. Stripe's own libraries take the same.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The largest body of a webhook that is checked, and the largest that may be asked for: the server holds it meanwhile.
const BODY: usize = 1024 * 1024;
const LARGEST_BODY: usize = 25 * 1024 * 1024;

/// The longest hash of a password, in characters. Those that `adit password` makes have 97.
const MAX_HASH: usize = 256;

pub(super) fn resolve(service: &mut Table<'_>, kind: ServiceKind) -> AccessPolicy {
    let access = key::any("see below").of_section().without("everybody").doc("Which visitors may use the service.");
    let Some(mut table) = service.take("access", &access).and_then(Entry::table) else {
        return AccessPolicy::default();
    };
    let allow = key::list(NETWORKS, network).without("everybody");
    let allow = table.get("allow", allow.doc("Visitors who are allowed, and no others."));
    let deny = table.get("deny", key::list(NETWORKS, network).doc("Visitors who are refused, whatever else is set."));
    let basic_auth = key::any("users and argon2id hashes")
        .doc("Users with a password: `{ ann = \"$argon2id$…\" }`. `adit password` makes the hash.");
    let mut section = |name, key: Key<_>| table.take(name, &key.of_section()).and_then(Entry::table);
    let basic_auth = section("basic_auth", basic_auth).map(users).unwrap_or_default();
    let header = section("header", key::any("")).and_then(header);
    let webhook = section("webhook", key::any("")).and_then(webhook);
    let preflight = key::boolean(false).doc(
        "`true`: a CORS preflight (`OPTIONS` with `Access-Control-Request-Method`) needs neither password nor header: browsers \
         send it without them. The application answers it.",
    );
    let preflight = table.get("preflight", preflight);
    let given = [("basic_auth", !basic_auth.is_empty()), ("header", header.is_some()), ("webhook", webhook.is_some())];
    for (key, _) in given.into_iter().filter(|(_, given)| *given && kind != ServiceKind::Http) {
        table.problem(key, "is only for services of the kind http; remove it");
    }
    if !basic_auth.is_empty() && header.as_ref().is_some_and(|header| header.name == AUTHORIZATION.as_str()) {
        let message = "is the field in which passwords come, too; keep one of header and basic_auth";
        table.problem("header", message);
    }
    if preflight && basic_auth.is_empty() && header.is_none() {
        table.problem("preflight", "has no effect without basic_auth or header; remove it");
    }
    AccessPolicy { allow, deny, basic_auth, header, webhook, preflight }
}

fn users(mut table: Table<'_>) -> Vec<BasicUser> {
    let mut users = Vec::new();
    for user in table.keys() {
        let key = table.key(&user);
        let hash = table.get(
            &user,
            key::text("", |text| {
                let advice = "make one with `adit password`; the password itself does not belong here";
                if is_argon2id(text) { Ok(text.to_owned()) } else { Err(format!("is not an argon2id hash; {advice}")) }
            }),
        );
        // A colon ends the name (RFC 7617, section 2).
        if user.is_empty() || user.contains(':') || user.contains(char::is_control) {
            table.report().problem(key, "is not the name of a user: it has at least one character, and no colon");
        }
        users.extend(hash.map(|hash| BasicUser { user, hash }));
    }
    users
}

/// Whether this has the form of an argon2id hash: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`. The server looks closer.
fn is_argon2id(text: &str) -> bool {
    let Some([version, cost, salt, hash]) = text
        .strip_prefix("$argon2id$")
        .and_then(|rest| <[&str; 4]>::try_from(rest.split('$').collect::<Vec<_>>()).ok())
    else {
        return false;
    };
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let numbers: Vec<_> = cost.split(',').map(|part| part.split_once('=')).collect();
    let has_cost = matches!(numbers[..], [Some(("m", m)), Some(("t", t)), Some(("p", p))]
        if [m, t, p].into_iter().all(is_number));
    let is_base64 = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    };
    version == "v=19" && has_cost && is_base64(salt) && is_base64(hash) && text.len() <= MAX_HASH
}

/// The server is told a digest of the value: that is enough to compare.
fn header(mut table: Table<'_>) -> Option<SharedHeader> {
    let name = key::text("the name of a field", visible_field)
        .required("name a field like X-Key")
        .doc("A field with a secret in it: `{ name = \"X-Key\", value = \"…\" }`.");
    let value = key::text("a text", |text| match HeaderValue::from_str(text) {
        Ok(value) if !value.is_empty() => Ok(Fingerprint(Sha256::digest(value).into())),
        Ok(_) => Err("is empty; everybody could know that"),
        Err(_) => Err("has characters that a field cannot have"),
    });
    let value =
        value.required("make one up that nobody can guess").doc("The secret. The server is told its SHA-256 only.");
    let (name, digest) = (table.get("name", name), table.get("value", value));
    Some(SharedHeader { name: name?.as_str().to_owned(), digest: digest? })
}

fn webhook(mut table: Table<'_>) -> Option<Webhook> {
    let schemes = |text: &str| match text {
        "github" => Ok(WebhookScheme::Github),
        "stripe" => Ok(WebhookScheme::Stripe),
        _ => Err(format!("`{text}` is not known; use \"github\" or \"stripe\"")),
    };
    let scheme = key::text("`github`, `stripe`", schemes)
        .required("say who signs: \"github\" or \"stripe\"")
        .doc("How senders sign what they send.");
    let scheme = table.get("scheme", scheme);
    let secret = secret(&mut table);
    let has_tolerance = table.has("tolerance");
    let tolerance = key::duration(TOLERANCE, Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60));
    let tolerance = table.get("tolerance", tolerance.doc("`stripe` only: how old a signature may be."));
    if has_tolerance && scheme == Some(WebhookScheme::Github) {
        table.problem("tolerance", "is only for stripe: GitHub's signatures have no time; remove it");
    }
    let max_body =
        key::text_or_number("1 B to 25 MiB: a number of bytes, or one with its unit", size).or("`1MiB`", BODY);
    let max_body =
        table.get("max_body", max_body.doc("The largest body that is checked, like `65536`, `64KiB` or `1MiB`."));
    Some(Webhook { scheme: scheme?, secret: secret?, tolerance_s: tolerance.as_secs(), max_body })
}

/// Reads `secret` or `secret_file`.
fn secret(table: &mut Table<'_>) -> Option<Secret> {
    let text = key::any("a text").without("required, or `secret_file`");
    let text = table.take("secret", &text.doc("The secret that they sign with. The server has to know it."));
    let file = table.take(
        "secret_file",
        &key::any("a path").doc("A file that contains it; white space and a byte order mark around it are ignored."),
    );
    let (key, text) = match (text, file) {
        (Some(entry), None) => ("secret", entry.text()?),
        (None, Some(entry)) => ("secret_file", secret_file::read_file(entry)?.1),
        (None, None) => {
            let advice = "give the secret that the sender signs with, or a secret_file that holds it";
            table.problem("secret", format!("is missing; {advice}"));
            return None;
        }
        (Some(_), Some(_)) => {
            table.problem("secret_file", "is given together with secret; keep one of the two");
            return None;
        }
    };
    if text.is_empty() {
        table.problem(key, "holds no secret; with an empty one anybody could sign");
        return None;
    }
    if key == "secret_file" && unquoted(&text).is_some() {
        let advice = "remove them, or give it as `secret` if they belong to it";
        table.problem(key, format!("has quotes around the secret; {advice}"));
        return None;
    }
    Some(Secret::new(text))
}

/// A number of bytes: `65536`, `64KiB` or `1MiB`.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(1024 * 1024),
        _ => None,
    };
    let (Ok(number), Some(unit)) = (number.parse::<usize>(), unit) else {
        return Err(format!("`{text}` is not a size; write a number of bytes, or one with its unit, like \"1MiB\""));
    };
    match number.saturating_mul(unit) {
        size @ 1..=LARGEST_BODY => Ok(size),
        _ => Err(format!("is {text}, but must be between 1 B and 25 MiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_told_from_a_password() {
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g";
        assert!(is_argon2id(hash));
        let long = format!("{hash}{}", "a".repeat(MAX_HASH));
        for bad in [
            "hunter2",
            "",
            "$argon2id$",
            "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=16$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=19$m=19456,t=2$c29tZXNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=19$m=x,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFz aGhhc2g",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g$more",
            &long,
        ] {
            assert!(!is_argon2id(bad), "{bad}");
        }
    }

    #[test]
    fn a_size_is_a_number_perhaps_with_a_unit() {
        for (text, bytes) in [("1", 1), ("65536", 65_536), ("64KiB", 65_536), ("25 MiB", LARGEST_BODY), ("7B", 7)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "0", "26MiB", "1MB", "1.5MiB", "-1", "MiB", "99999999999999999999", "18446744073709551615MiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
