//! The capabilities that a server needs to serve an agent's services.
//!
//! A server ignores fields that it does not know. That is harmless for most of them, but not for a condition of
//! [`AccessPolicy`]: a server that ignores one lets every visitor in. So the agent lists one word for each condition in
//! [`Hello::required`](super::login::Hello::required), and a server refuses a word that it does not know.

use super::access::{AccessPolicy, Webhook, WebhookScheme};
use super::login::ServiceOffer;
use super::standby::STANDBY;

/// Allowed networks of visitors.
pub const ACCESS_ALLOW: &str = "access.allow";
/// Denied networks of visitors.
pub const ACCESS_DENY: &str = "access.deny";
/// Passwords of visitors.
pub const ACCESS_BASIC_AUTH: &str = "access.basic_auth";
/// A field with a shared secret.
pub const ACCESS_HEADER: &str = "access.header";
/// Bodies signed as GitHub signs them.
pub const ACCESS_WEBHOOK_GITHUB: &str = "access.webhook.github";
/// Bodies signed as Stripe signs them.
pub const ACCESS_WEBHOOK_STRIPE: &str = "access.webhook.stripe";
/// Preflights without credentials. Not a condition, but an older server cannot read it.
pub const ACCESS_PREFLIGHT: &str = "access.preflight";

/// Names that stay in paths, or that the application adds to responses.
pub const PATH_PREFIX: &str = "path_prefix";

/// Lower limits of a service for each visitor's address.
pub const LIMITS: &str = "limits";
/// A limit of a service for the requests that are open at once.
pub const LIMITS_STREAMS: &str = "limits.streams";

/// The server accepts [`super::control::Control::Services`] on its control streams.
pub const SERVICES: &str = "services";

/// All capabilities of a server of this version: it lists them in its [`super::login::Welcome`], and an agent may require
/// them.
pub const CAPABILITIES: [&str; 12] = [
    SERVICES,
    STANDBY,
    LIMITS,
    LIMITS_STREAMS,
    PATH_PREFIX,
    ACCESS_ALLOW,
    ACCESS_DENY,
    ACCESS_BASIC_AUTH,
    ACCESS_HEADER,
    ACCESS_WEBHOOK_GITHUB,
    ACCESS_WEBHOOK_STRIPE,
    ACCESS_PREFLIGHT,
];

/// The longest word that a message repeats, in characters: the words come from the peer.
const MAX_WORD: usize = 64;

/// Returns the capabilities that a server needs to enforce the conditions of `services`: one word for each kind of
/// condition, sorted, without duplicates.
pub fn required_by(services: &[ServiceOffer]) -> Vec<String> {
    let mut words: Vec<&str> = services.iter().flat_map(words_of).collect();
    words.sort_unstable();
    words.dedup();
    words.into_iter().map(str::to_owned).collect()
}

/// Returns the words for one service. The pattern names every field, so that adding a field forces a decision: could a
/// server that ignores it admit an unwanted visitor, or make the service useless?
fn words_of(service: &ServiceOffer) -> impl Iterator<Item = &'static str> {
    let ServiceOffer {
        access,
        limits,
        path_prefix,
        name: _,
        kind: _,
        remote_port: _,
        wildcard: _,
        domains: _,
        group: _,
    } = service;
    let AccessPolicy { allow, deny, basic_auth, header, webhook, preflight } = access;
    [
        (!allow.is_empty()).then_some(ACCESS_ALLOW),
        (!deny.is_empty()).then_some(ACCESS_DENY),
        (!basic_auth.is_empty()).then_some(ACCESS_BASIC_AUTH),
        header.is_some().then_some(ACCESS_HEADER),
        webhook.as_ref().map(word_of_webhook),
        limits.is_some().then_some(LIMITS),
        limits.as_ref().is_some_and(|limits| limits.streams.is_some()).then_some(LIMITS_STREAMS),
        (!path_prefix.is_strip()).then_some(PATH_PREFIX),
        preflight.then_some(ACCESS_PREFLIGHT),
    ]
    .into_iter()
    .flatten()
}

fn word_of_webhook(webhook: &Webhook) -> &'static str {
    let Webhook { scheme, secret: _, tolerance_s: _, max_body: _ } = webhook;
    match scheme {
        WebhookScheme::Github => ACCESS_WEBHOOK_GITHUB,
        WebhookScheme::Stripe => ACCESS_WEBHOOK_STRIPE,
    }
}

/// Returns the first word of `required` that is not among `known`.
pub fn first_missing<'r>(required: &'r [String], known: &[impl AsRef<str>]) -> Option<&'r str> {
    required.iter().map(String::as_str).find(|word| !known.iter().any(|other| other.as_ref() == *word))
}

/// Returns the refusal message for a required `word` that the server lacks.
pub fn lacks(word: &str) -> String {
    // The agent chose the word, and it goes to a log and a terminal.
    let shown: String = word.chars().filter(char::is_ascii_graphic).take(MAX_WORD).collect();
    let version = env!("CARGO_PKG_VERSION");
    format!("the server (adit {version}) lacks `{shown}`, which the agent requires; upgrade the server")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::access::{BasicUser, SharedHeader};
    use crate::protocol::login::ServiceKind;
    use crate::values::{Fingerprint, Name, Secret};

    /// The words of access rules.
    const ACCESS: [&str; 7] = [
        ACCESS_ALLOW,
        ACCESS_DENY,
        ACCESS_BASIC_AUTH,
        ACCESS_HEADER,
        ACCESS_WEBHOOK_GITHUB,
        ACCESS_WEBHOOK_STRIPE,
        ACCESS_PREFLIGHT,
    ];

    /// Which of these rules a service has, in their order.
    type Chosen = [bool; ACCESS.len()];

    fn service(chosen: Chosen) -> ServiceOffer {
        let [allow, deny, basic_auth, header, github, stripe, preflight] = chosen;
        let network = |has: bool| has.then(|| "192.0.2.0/24".parse().unwrap()).into_iter().collect();
        let user = BasicUser { user: "ann".to_owned(), hash: "$argon2id$".to_owned() };
        let digest: Fingerprint = format!("sha256:{}", "0f".repeat(32)).parse().unwrap();
        let scheme = if github { WebhookScheme::Github } else { WebhookScheme::Stripe };
        let webhook = Webhook { scheme, secret: Secret::new("s"), tolerance_s: 300, max_body: 1 };
        let access = AccessPolicy {
            allow: network(allow),
            deny: network(deny),
            basic_auth: basic_auth.then_some(user).into_iter().collect(),
            header: header.then(|| SharedHeader { name: "x-key".to_owned(), digest }),
            webhook: (github || stripe).then_some(webhook),
            preflight,
        };
        ServiceOffer { access, ..ServiceOffer::new(Name::new("blog").unwrap(), ServiceKind::Http) }
    }

    fn chosen() -> impl Strategy<Value = Chosen> {
        // A service has one webhook.
        any::<Chosen>().prop_map(|[a, d, b, h, github, stripe, p]| [a, d, b, h, github, stripe && !github, p])
    }

    proptest! {
        #[test]
        fn required_names_exactly_the_conditions(services in proptest::collection::vec(chosen(), 0..5)) {
            let expected: BTreeSet<&str> = services
                .iter()
                .flat_map(|chosen| ACCESS.into_iter().zip(*chosen))
                .filter_map(|(word, has)| has.then_some(word))
                .collect();
            let offers: Vec<ServiceOffer> = services.into_iter().map(service).collect();
            let required = required_by(&offers);
            prop_assert_eq!(required.iter().map(String::as_str).collect::<Vec<_>>(), Vec::from_iter(expected.clone()));
            prop_assert_eq!(offers.iter().all(|offer| offer.access.is_open()), required.is_empty());
            prop_assert_eq!(first_missing(&required, &CAPABILITIES), None);
            // A server that lacks any one of them refuses.
            for lacking in expected {
                let known: Vec<&str> = ACCESS.into_iter().filter(|word| *word != lacking).collect();
                prop_assert_eq!(first_missing(&required, &known), Some(lacking));
            }
        }

        #[test]
        fn a_condition_of_a_later_version_cannot_be_read(field in "[a-z_]{1,12}") {
            let known = ["allow", "deny", "basic_auth", "header", "webhook", "preflight"];
            prop_assume!(!known.contains(&field.as_str()));
            for place in ["", "header", "webhook"] {
                let mut access = serde_json::to_value(service([true, true, true, true, true, false, true]).access).unwrap();
                let at = if place.is_empty() { &mut access } else { &mut access[place] };
                let is_new = at.as_object_mut().unwrap().insert(field.clone(), serde_json::json!("later")).is_none();
                prop_assert!(!is_new || serde_json::from_value::<AccessPolicy>(access).is_err(), "{} in {}", field, place);
            }
        }
    }

    #[test]
    fn a_server_that_does_not_know_lower_limits_refuses_them() {
        let limits = |text: &str| serde_json::from_str(&format!(r#"{{ "requests_per_second": 1{text} }}"#));
        let limited = ServiceOffer { limits: Some(limits("").unwrap()), ..service([false; 7]) };
        assert_eq!(required_by(&[limited, service([false; 7])]), [LIMITS]);
        let streams = serde_json::from_str(r#"{ "streams": 1 }"#).unwrap();
        let limited = ServiceOffer { limits: Some(streams), ..service([false; 7]) };
        assert_eq!(required_by(&[limited]), [LIMITS, LIMITS_STREAMS]);
        assert!(limits(r#", "burst": 0"#).is_err() && limits(r#", "at_night": 1"#).is_err());
    }

    #[test]
    fn a_word_of_the_agent_s_is_shown_short_and_plain() {
        let text = lacks(&format!("\x1b[2J\u{202e}{}", "x".repeat(1000)));
        assert!(!text.contains(char::is_control) && !text.contains('\u{202e}') && text.len() < 200, "{text}");
    }
}
