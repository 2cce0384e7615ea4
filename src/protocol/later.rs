//! Parses messages of later versions far enough to refuse them with a reason.
//!
//! A newer agent may offer something that the server does not know: another kind of service, another access condition. The
//! server cannot guess the meaning, so it refuses the message. It says so instead of closing the connection, so that the
//! agent's owner learns which side to upgrade.

use serde::Deserialize;

use super::VERSION;
use super::control::Control;
use super::json::{self, JsonError};
use super::login::{Hello, Refusal, Refused};
use super::requirements::{CAPABILITIES, first_missing, lacks};

/// The longest part of a parser error that a refusal repeats, in characters.
const MAX_COMPLAINT: usize = 200;

/// The fields of every [`Hello`], in any version.
#[derive(Deserialize)]
struct Opening {
    protocol: u32,
    #[serde(default)]
    required: Vec<String>,
}

/// The fields of every change of services, in any version.
#[derive(Deserialize)]
struct ChangeOfServices {
    #[serde(rename = "type")]
    kind: ChangeKind,
    change: u64,
    #[serde(default)]
    required: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeKind {
    Services,
}

/// Parses a [`Hello`]. For a hello that this version cannot parse, returns the refusal to send.
///
/// # Errors
/// [`JsonError::Malformed`] if it is no hello of any version.
pub fn read_hello(message: &[u8]) -> Result<Result<Hello, Refused>, JsonError> {
    let error = match json::parse::<Hello>(message) {
        Ok(hello) => return Ok(Ok(hello)),
        Err(error) => error,
    };
    let Ok(Opening { protocol, required }) = json::parse(message) else { return Err(error) };
    let refused = check_version(protocol).and_then(|()| check_required(&required));
    Ok(Err(refused.err().unwrap_or_else(|| unreadable("login", &error))))
}

/// Parses a message of an agent's control stream. A change of services that this version cannot parse becomes
/// [`Control::Unreadable`].
///
/// # Errors
/// [`JsonError::Malformed`] if it is no message of any version.
pub fn read_control(message: &[u8]) -> Result<Control, JsonError> {
    let error = match json::parse::<Control>(message) {
        Ok(message) => return Ok(message),
        Err(error) => error,
    };
    match json::parse(message) {
        Ok(ChangeOfServices { kind: ChangeKind::Services, change, required }) => {
            let refused = check_required(&required).err();
            Ok(Control::Unreadable {
                change,
                refused: refused.unwrap_or_else(|| unreadable("change of services", &error)),
            })
        }
        Err(_) => Err(error),
    }
}

/// Checks that the agent speaks this version of the protocol.
///
/// # Errors
/// The refusal, which says which side to upgrade.
pub fn check_version(protocol: u32) -> Result<(), Refused> {
    let side = match protocol.cmp(&VERSION) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => "agent",
        std::cmp::Ordering::Greater => "server",
    };
    let message =
        format!("the server speaks version {VERSION} of the protocol, the agent {protocol}; upgrade the {side}");
    Err(Refused::new(Refusal::Version, message))
}

/// Checks that everything the agent requires is among [`CAPABILITIES`].
///
/// # Errors
/// The refusal, which says which side to upgrade.
pub fn check_required(required: &[String]) -> Result<(), Refused> {
    match first_missing(required, &CAPABILITIES) {
        Some(word) => Err(Refused::new(Refusal::Version, lacks(word))),
        None => Ok(()),
    }
}

fn unreadable(what: &str, error: &JsonError) -> Refused {
    // The parser error may repeat the agent's text.
    let complaint = error.to_string();
    let complaint: String = crate::values::harmless_line(&complaint).chars().take(MAX_COMPLAINT).collect();
    let version = env!("CARGO_PKG_VERSION");
    let message = format!(
        "the server (adit {version}) does not understand this {what}: {complaint}; if the agent is newer than the server, \
         upgrade the server"
    );
    Refused::new(Refusal::Version, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hello(more: &Value) -> Vec<u8> {
        let mut hello = json!({
            "protocol": 1,
            "client_id": "alice",
            "instance_id": "000102030405060708090a0b0c0d0e0f",
            "timestamp": 1_800_000_000_u64,
            "agent": { "name": "adit", "version": "9.0.0", "os": "linux" },
            "services": [{ "name": "blog", "kind": "http" }],
        });
        hello.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::to_vec(&hello).unwrap()
    }

    fn refusal(more: &Value) -> String {
        let refused = read_hello(&hello(more)).unwrap().unwrap_err();
        assert_eq!(refused.code, Refusal::Version);
        refused.message
    }

    fn with_access(access: Value) -> Value {
        json!({ "services": [{ "name": "blog", "kind": "http", "access": access }] })
    }

    #[test]
    fn what_is_not_known_is_refused_and_never_passed_over() {
        assert!(read_hello(&hello(&json!({}))).unwrap().is_ok());
        for later in [
            with_access(json!({ "moon_phase": "full" })),
            with_access(json!({ "allow": ["192.0.2.0/24"], "and_at": "night" })),
            with_access(json!({ "header": { "name": "x", "digest": "sha256:00", "once": true } })),
            with_access(json!({ "basic_auth": [{ "user": "a", "hash": "b", "second_factor": true }] })),
            with_access(json!({ "webhook": { "scheme": "slack", "secret": "s", "tolerance_s": 1, "max_body": 1 } })),
            with_access(json!({
                "webhook": { "scheme": "github", "secret": "s", "tolerance_s": 1, "max_body": 1, "from": ["::1"] }
            })),
            json!({ "services": [{ "name": "blog", "kind": "udp" }] }),
        ] {
            let message = refusal(&later);
            assert!(message.contains("does not understand") && message.ends_with("upgrade the server"), "{message}");
        }
    }

    #[test]
    fn what_is_required_and_the_version_say_more_than_the_field_that_cannot_be_read() {
        let mut later = with_access(json!({ "moon_phase": "full" }));
        later["required"] = json!(["access.allow", "access.moon_phase"]);
        let message = refusal(&later);
        assert!(message.contains("lacks `access.moon_phase`") && message.ends_with("upgrade the server"), "{message}");
        for (protocol, side) in [(2, "upgrade the server"), (0, "upgrade the agent")] {
            let message = refusal(&json!({ "protocol": protocol, "services": 7 }));
            assert!(message.contains(&format!("the agent {protocol};")) && message.ends_with(side), "{message}");
        }
    }

    #[test]
    fn what_is_no_hello_stays_unreadable() {
        for message in ["", "{}", "GET / HTTP/1.1", r#"{"protocol":"1"}"#, r#"{"client_id":"alice"}"#] {
            assert!(read_hello(message.as_bytes()).is_err(), "{message}");
        }
    }

    #[test]
    fn a_change_that_cannot_be_read_is_answered_and_ends_no_lane() {
        let read = |message: &Value| read_control(&serde_json::to_vec(message).unwrap());
        let later = json!({
            "type": "services", "change": 7,
            "services": [{ "name": "blog", "kind": "http", "access": { "moon_phase": "full" } }],
        });
        let Control::Unreadable { change: 7, refused } = read(&later).unwrap() else { panic!("it was read") };
        assert!(refused.code == Refusal::Version && refused.message.contains("moon_phase"), "{}", refused.message);
        let with_required =
            json!({ "type": "services", "change": 8, "services": 0, "required": ["access.moon_phase"] });
        let Control::Unreadable { change: 8, refused } = read(&with_required).unwrap() else { panic!("it was read") };
        assert!(refused.message.contains("lacks `access.moon_phase`"), "{}", refused.message);
        let known = json!({ "type": "services", "change": 9, "services": [] });
        assert!(matches!(read(&known).unwrap(), Control::Services { change: 9, .. }));
        for broken in [json!({ "type": "services" }), json!({ "type": "draining", "change": 1 }), json!([])] {
            assert!(read(&broken).is_err(), "{broken}");
        }
    }
}
