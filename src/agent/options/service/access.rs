//! `[services.access]`: which visitors get to a service. Resolved into what the server is told.

use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use super::rules::visible_field;
use crate::agent::options::secret_file;
use crate::protocol::access::{AccessPolicy, BasicUser, SharedHeader, Webhook, WebhookScheme};
use crate::protocol::login::ServiceKind;
use crate::schema::{Entry, Table};
use crate::values::{Fingerprint, NETWORKS, Secret, network};

/// How old the signature of a webhook may be. Stripe's own libraries take the same.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The largest body of a webhook that is checked, and the largest that may be asked for: the server holds it meanwhile.
const BODY: usize = 1024 * 1024;
const LARGEST_BODY: usize = 25 * 1024 * 1024;

/// The longest hash of a password, in characters. Those that `adit password` makes have 97.
const MAX_HASH: usize = 256;

pub(crate) fn resolve(mut table: Table<'_>, kind: ServiceKind) -> AccessPolicy {
    let allow = table.by_default("everybody").within(NETWORKS).list("allow", network).unwrap_or_default();
    let deny = table.within(NETWORKS).list("deny", network).unwrap_or_default();
    let basic_auth = users(table.within("users and argon2id hashes").section("basic_auth"));
    let header = table.take("header").and_then(Entry::table).and_then(header);
    let webhook = table.take("webhook").and_then(Entry::table).and_then(webhook);
    let given = [("basic_auth", !basic_auth.is_empty()), ("header", header.is_some()), ("webhook", webhook.is_some())];
    for (key, _) in given.into_iter().filter(|(_, given)| *given && kind != ServiceKind::Http) {
        table.report().problem(table.key(key), "is only for services of the kind http; remove it");
    }
    if !basic_auth.is_empty() && header.as_ref().is_some_and(|header| header.name == AUTHORIZATION.as_str()) {
        let message = "is the field in which passwords come, too; keep one of header and basic_auth";
        table.report().problem(table.key("header"), message);
    }
    AccessPolicy { allow, deny, basic_auth, header, webhook }
}

fn users(mut table: Table<'_>) -> Vec<BasicUser> {
    let mut users = Vec::new();
    for user in table.keys() {
        let key = table.key(&user);
        let hash = table.parse(&user, |text| {
            let advice = "make one with `adit password`; the password itself does not belong here";
            if is_argon2id(text) { Ok(text.to_owned()) } else { Err(format!("is not an argon2id hash; {advice}")) }
        });
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
    let (name_key, value_key) = (table.key("name"), table.key("value"));
    let name = table.by_default("required").within("the name of a field").take("name");
    if name.is_none() {
        table.report().problem(name_key, "is missing; name a field like X-Key");
    }
    let value = table.by_default("required").within("a text").take("value");
    if value.is_none() {
        table.report().problem(value_key, "is missing; make one up that nobody can guess");
    }
    let name = name.and_then(|entry| entry.parse(visible_field));
    let digest = value.and_then(|entry| {
        entry.parse(|text| match HeaderValue::from_str(text) {
            Ok(value) if !value.is_empty() => Ok(Fingerprint(Sha256::digest(value).into())),
            Ok(_) => Err("is empty; everybody could know that"),
            Err(_) => Err("has characters that a field cannot have"),
        })
    });
    Some(SharedHeader { name: name?.as_str().to_owned(), digest: digest? })
}

fn webhook(mut table: Table<'_>) -> Option<Webhook> {
    let report = table.report();
    let scheme = match table.by_default("required").within("`github`, `stripe`").take("scheme") {
        Some(entry) => entry.parse(|text| match text {
            "github" => Ok(WebhookScheme::Github),
            "stripe" => Ok(WebhookScheme::Stripe),
            _ => Err(format!("`{text}` is not known; use \"github\" or \"stripe\"")),
        }),
        None => {
            report.problem(table.key("scheme"), "is missing; say who signs: \"github\" or \"stripe\"");
            None
        }
    };
    let (key, file_key, tolerance_key) = (table.key("secret"), table.key("secret_file"), table.key("tolerance"));
    let secret = table.by_default("required, or `secret_file`").within("a text").take("secret");
    let secret = match (secret, table.within("a path").take("secret_file")) {
        (Some(entry), None) => entry.text().map(|text| (key, text)),
        (None, Some(entry)) => secret_file::read_file(entry).map(|(_, text)| (file_key, text)),
        (None, None) => {
            report
                .problem(key, "is missing; give the secret that the sender signs with, or a secret_file that holds it");
            None
        }
        (Some(_), Some(_)) => {
            report.problem(file_key, "is given together with secret; keep one of the two");
            None
        }
    };
    let secret = secret.and_then(|(key, text)| match text.is_empty() {
        true => {
            report.problem(key, "holds no secret; with an empty one anybody could sign");
            None
        }
        false => Some(Secret::new(text)),
    });
    let says_when = table.keys().iter().any(|key| key == "tolerance");
    let tolerance = table.duration("tolerance", TOLERANCE, Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60));
    if says_when && scheme == Some(WebhookScheme::Github) {
        report.problem(tolerance_key, "is only for stripe: GitHub's signatures have no time; remove it");
    }
    table.by_default("`1MiB`").within("1 B to 25 MiB: a number of bytes, or one with its unit");
    let max_body = table.take("max_body").and_then(|entry| entry.parse_or_number(size)).unwrap_or(BODY);
    Some(Webhook { scheme: scheme?, secret: secret?, tolerance_s: tolerance.as_secs(), max_body })
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
