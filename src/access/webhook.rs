//! Signatures of webhooks: HMAC-SHA256 (RFC 2104) over a body, under a secret that sender and receiver share.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use sha2::Sha256;

use super::AccessError;
use super::seen::Seen;
use crate::protocol::access::{Webhook, WebhookScheme};
use crate::values::digest_in;

/// The largest body that can be held until its signature is known: what GitHub sends at most, in bytes.
pub const MAX_BODY: usize = 25 * 1024 * 1024;

/// The longest time for which an old signature can count, in seconds.
pub const MAX_TOLERANCE_S: u64 = 24 * 60 * 60;

/// Signatures that one field may have. A sender has two while its secret is being changed.
const MAX_SIGNATURES: usize = 16;

const GITHUB: HeaderName = HeaderName::from_static("x-hub-signature-256");
const STRIPE: HeaderName = HeaderName::from_static("stripe-signature");

/// The signature that the bodies of a service must bear.
pub struct Signed {
    scheme: WebhookScheme,
    key: Hmac<Sha256>,
    tolerance_s: u64,
    max_body: usize,
    seen: Mutex<Seen>,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, tolerance_s, max_body, .. } = self;
        let mut shown = f.debug_struct("Signed");
        shown.field("scheme", scheme).field("tolerance_s", tolerance_s).field("max_body", max_body);
        shown.finish_non_exhaustive()
    }
}

impl Signed {
    pub(super) fn new(webhook: &Webhook) -> Result<Self, AccessError> {
        let Webhook { scheme, secret, tolerance_s, max_body } = webhook;
        if secret.expose().is_empty() {
            return Err(AccessError::NoSecret);
        }
        // Of no meaning without a time.
        if *scheme == WebhookScheme::Stripe && !(1..=MAX_TOLERANCE_S).contains(tolerance_s) {
            return Err(AccessError::Tolerance(*tolerance_s));
        }
        if !(1..=MAX_BODY).contains(max_body) {
            return Err(AccessError::Body(*max_body));
        }
        Ok(Self {
            scheme: *scheme,
            // HMAC takes keys of any length (RFC 2104, section 3).
            key: Hmac::new_from_slice(secret.expose().as_bytes()).map_err(|_| AccessError::NoSecret)?,
            tolerance_s: *tolerance_s,
            max_body: *max_body,
            seen: Mutex::default(),
        })
    }

    /// The field with the signature.
    pub(super) fn field(&self) -> HeaderName {
        match self.scheme {
            WebhookScheme::Github => GITHUB,
            WebhookScheme::Stripe => STRIPE,
        }
    }

    /// The largest body that is looked at, in bytes.
    pub fn max_body(&self) -> usize {
        self.max_body
    }

    /// Begins to check the body of a request with this head, at the second `now` since 1970; `None` if the head alone
    /// shows that it is in vain: no signature, more than one field, unreadable, or of another time.
    pub fn verifier(&self, headers: &HeaderMap, now: u64) -> Option<Verifier<'_>> {
        let mut fields = headers.get_all(self.field()).iter();
        let (field, None) = (fields.next()?, fields.next()) else { return None };
        let text = field.to_str().ok()?;
        match self.scheme {
            WebhookScheme::Github => {
                let signatures = vec![digest_in(text.strip_prefix("sha256=")?.as_bytes())?];
                Some(Verifier { signed: self, mac: self.key.clone(), signatures, time: None })
            }
            WebhookScheme::Stripe => {
                let Stamped { text, time, signatures } = Stamped::parse(text)?;
                let mac = self.key.clone().chain_update(text).chain_update(b".");
                self.is_fresh(time, now).then_some(Verifier { signed: self, mac, signatures, time: Some(time) })
            }
        }
    }

    fn is_fresh(&self, time: u64, now: u64) -> bool {
        time.abs_diff(now) <= self.tolerance_s
    }
}

/// `t=…,v1=…[,v1=…]`; what other schemes say is passed over.
struct Stamped<'a> {
    /// The time as it was written: so it was signed.
    text: &'a str,
    time: u64,
    signatures: Vec<[u8; 32]>,
}

impl<'a> Stamped<'a> {
    fn parse(field: &'a str) -> Option<Self> {
        let (mut stamp, mut signatures) = (None, Vec::new());
        for element in field.split(',') {
            match element.trim().split_once('=')? {
                ("t", text) if stamp.is_none() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                    stamp = Some((text, text.parse().ok()?));
                }
                ("t", _) => return None,
                ("v1", text) if signatures.len() < MAX_SIGNATURES => signatures.push(digest_in(text.as_bytes())?),
                ("v1", _) => return None,
                _ => {}
            }
        }
        let (text, time) = stamp?;
        (!signatures.is_empty()).then_some(Self { text, time, signatures })
    }
}

/// Checks one body, piece by piece.
#[must_use = "a body counts only once its verifier has finished"]
pub struct Verifier<'a> {
    signed: &'a Signed,
    mac: Hmac<Sha256>,
    signatures: Vec<[u8; 32]>,
    /// When it was signed, if that is known.
    time: Option<u64>,
}

impl fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("signed", self.signed).finish_non_exhaustive()
    }
}

impl Verifier<'_> {
    /// The next piece of the body, as it was sent.
    pub fn update(&mut self, piece: &[u8]) {
        self.mac.update(piece);
    }

    /// Whether the whole body bears its signature, at the second `now` since 1970. With a time in it, a signature counts
    /// for one request only.
    #[must_use]
    pub fn finish(self, now: u64) -> bool {
        let Self { signed, mac, signatures, time } = self;
        // Each of them, in constant time: how long it takes tells nothing.
        let is_right = |right: bool, shown: &[u8; 32]| right | mac.clone().verify_slice(shown).is_ok();
        if !signatures.iter().fold(false, is_right) {
            return false;
        }
        let Some(time) = time else { return true };
        // A body may have taken long to come.
        let until = time.saturating_add(signed.tolerance_s);
        signed.is_fresh(time, now) && signed.seen.lock().insert(mac.finalize().into_bytes().into(), until, now)
    }
}

#[cfg(test)]
mod tests;
