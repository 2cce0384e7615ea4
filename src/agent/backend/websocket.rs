//! WebSockets between the versions of HTTP: an upgrade in HTTP/1.1 (RFC 6455), an extended CONNECT in HTTP/2 (RFC 8441).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue};
use sha1::{Digest as _, Sha1};

/// The protocol's name, in `Upgrade` and in `:protocol`.
pub(in crate::agent) const WEBSOCKET: &str = "websocket";

/// What an answer's `Sec-WebSocket-Accept` is made with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket.
pub(in crate::agent) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// What answers `key` (RFC 6455, section 4.2.2).
fn accept(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// A WebSocket that is asked for in the words of HTTP/1.1, on behalf of somebody who has asked in those of HTTP/2.
#[derive(Debug)]
pub(in crate::agent) struct Handshake {
    expected: String,
}

impl Handshake {
    /// Puts what HTTP/1.1 wants beside what the visitor has said.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(in crate::agent) fn ask(headers: &mut HeaderMap) -> Result<Self, getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let key = STANDARD.encode(nonce);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
        let expected = accept(key.as_bytes());
        // Base64 is plain text.
        if let Ok(key) = HeaderValue::try_from(key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        Ok(Self { expected })
    }

    /// Takes what only HTTP/1.1 says off an answer; `false` if the application has not agreed.
    pub(in crate::agent) fn is_agreed(&self, headers: &mut HeaderMap) -> bool {
        let accepted = headers.remove(SEC_WEBSOCKET_ACCEPT);
        let agreed = is_asked_for(headers) && accepted.is_some_and(|accepted| accepted == self.expected.as_str());
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        agreed
    }
}

/// Takes what only HTTP/1.1 says off a request, and gives back what its answer will need.
pub(in crate::agent) fn take_key(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    headers.remove(SEC_WEBSOCKET_KEY)
}

/// Puts what HTTP/1.1 wants on the answer to a request with this key.
pub(in crate::agent) fn agree(headers: &mut HeaderMap, key: Option<&HeaderValue>) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    if let Some(accept) = key.and_then(|key| HeaderValue::try_from(accept(key.as_bytes())).ok()) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455, section 1.3.
    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_answer_must_be_to_what_was_asked() {
        let mut asked = HeaderMap::new();
        let handshake = Handshake::ask(&mut asked).unwrap();
        assert!(is_asked_for(&asked));
        let mut answer = HeaderMap::new();
        agree(&mut answer, asked.get(SEC_WEBSOCKET_KEY));
        let mut wrong = answer.clone();
        wrong.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        let mut other = answer.clone();
        other.insert(UPGRADE, HeaderValue::from_static("echo/1"));
        assert!(handshake.is_agreed(&mut answer) && answer.is_empty());
        assert!(!handshake.is_agreed(&mut wrong) && !handshake.is_agreed(&mut other));
        assert!(!handshake.is_agreed(&mut HeaderMap::new()));
    }
}
