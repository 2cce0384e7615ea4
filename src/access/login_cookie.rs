//! A cookie that stands for a password that the visitor has given: it leaves `Authorization` to the application.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE};
use http::{HeaderMap, HeaderValue, Method};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Access;
use super::password::Credential;
use super::visit::Visit;
use crate::protocol::exchange::Scheme;
use crate::values::{ClientId, Name};

/// How long a login lasts, in seconds. Only the password begins another.
const LIFETIME_S: u64 = 24 * 60 * 60;

/// The cookie over HTTPS. Browsers accept the prefix only from the host itself, over HTTPS (RFC 6265bis, section 4.1.3.2).
const SECURE_NAME: &str = "__Host-adit-login";
/// The cookie over plain HTTP.
const PLAIN_NAME: &str = "adit-login";

/// Bytes of the expiry, of what tells the user, and of the MAC.
const EXPIRY: usize = 8;
const USER: usize = 8;
const MAC: usize = 32;

/// The service that a login is for.
#[derive(Debug, Clone, Copy)]
pub struct LoginScope<'a> {
    /// The client that offers it.
    pub client: &'a ClientId,
    /// Its name.
    pub service: &'a Name,
    /// Its conditions.
    pub access: &'a Access,
}

/// Issues and verifies login cookies. The server keeps nothing of them: a cookie holds its expiry and a MAC over client,
/// service, user and password hash. A changed or removed password ends the logins with it at once.
pub struct LoginCookies(Hmac<Sha256>);

impl fmt::Debug for LoginCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginCookies(***)")
    }
}

impl LoginCookies {
    /// Signs with `key`. Servers with the same key accept each other's cookies.
    ///
    /// # Errors
    /// Never: HMAC takes keys of any length (RFC 2104, section 3).
    pub fn new(key: &Zeroizing<[u8; 32]>) -> Result<Self, hmac::digest::InvalidLength> {
        Hmac::new_from_slice(&key[..]).map(Self)
    }

    /// Returns whether the visitor has logged in to `scope` before and the request may use that login at `now` (seconds
    /// since 1970). See [`Visit::may_use_a_login`] for the latter.
    pub fn is_logged_in(&self, scope: &LoginScope<'_>, visit: &Visit<'_>, now: u64) -> bool {
        self.remaining(scope, visit, now).is_some() && visit.may_use_a_login()
    }

    /// Returns the `Set-Cookie` for a visitor whose `credential` was right, unless a cookie of the request is valid for
    /// more than half of its lifetime.
    pub fn issue(
        &self,
        scope: &LoginScope<'_>,
        visit: &Visit<'_>,
        credential: &Credential,
        now: u64,
    ) -> Option<HeaderValue> {
        if !visit.has_own_origin || self.remaining(scope, visit, now).is_some_and(|left| left > LIFETIME_S / 2) {
            return None;
        }
        let user = scope.access.users()?.digest_of(credential.user())?;
        let expires = now.saturating_add(LIFETIME_S);
        let mut bytes = Vec::with_capacity(EXPIRY + USER + MAC);
        bytes.extend_from_slice(&expires.to_be_bytes());
        bytes.extend_from_slice(&user[..USER]);
        bytes.extend_from_slice(&self.mac(scope, user, expires).finalize().into_bytes());
        let (name, secure) = match visit.scheme {
            Scheme::Https => (SECURE_NAME, "; Secure"),
            Scheme::Http => (PLAIN_NAME, ""),
        };
        let value = URL_SAFE_NO_PAD.encode(bytes);
        let text = format!("{name}={value}; Path=/; Max-Age={LIFETIME_S}; HttpOnly; SameSite=Lax{secure}");
        let mut cookie = HeaderValue::try_from(text).ok()?;
        cookie.set_sensitive(true);
        Some(cookie)
    }

    /// Returns how many seconds the login of the request's cookie still lasts; `None` without a valid cookie.
    fn remaining(&self, scope: &LoginScope<'_>, visit: &Visit<'_>, now: u64) -> Option<u64> {
        if !visit.has_own_origin {
            return None;
        }
        let name = if visit.scheme == Scheme::Https { SECURE_NAME } else { PLAIN_NAME };
        let bytes = URL_SAFE_NO_PAD.decode(only_cookie(visit.headers, name)?).ok()?;
        let (expires, rest) = bytes.split_first_chunk::<EXPIRY>()?;
        let (user, mac) = rest.split_first_chunk::<USER>()?;
        let expires = u64::from_be_bytes(*expires);
        let user = scope.access.users()?.digest_that_begins(user)?;
        // In constant time, as `hmac` compares.
        self.mac(scope, user, expires).verify_slice(mac).ok()?;
        // A cookie from the future comes from a clock that was wrong.
        expires.checked_sub(now).filter(|left| (1..=LIFETIME_S).contains(left))
    }

    fn mac(&self, scope: &LoginScope<'_>, user: &[u8; 32], expires: u64) -> Hmac<Sha256> {
        let mac = self.0.clone().chain_update(expires.to_be_bytes()).chain_update(user);
        let texts = [scope.client.as_str(), scope.service.as_str()];
        texts
            .into_iter()
            .fold(mac, |mac, text| mac.chain_update((text.len() as u64).to_be_bytes()).chain_update(text.as_bytes()))
    }
}

/// Returns the value of the only cookie of this name. With several, one may come from a sibling of the host, so none counts.
fn only_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let crumbs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let mut values = crumbs.filter_map(|crumb| value_of(crumb, name));
    let (value, None) = (values.next()?, values.next()) else { return None };
    Some(value)
}

fn value_of<'c>(crumb: &'c [u8], name: &str) -> Option<&'c [u8]> {
    let equals = crumb.iter().position(|byte| *byte == b'=')?;
    (crumb[..equals].trim_ascii() == name.as_bytes()).then(|| crumb[equals + 1..].trim_ascii())
}

/// Removes login cookies: the application has no use for them. Other cookies stay as they are.
pub(super) fn remove_cookies(headers: &mut HeaderMap) {
    let is_ours = |crumb: &[u8]| [SECURE_NAME, PLAIN_NAME].iter().any(|name| value_of(crumb, name).is_some());
    let has_ours = |line: &HeaderValue| line.as_bytes().split(|byte| *byte == b';').any(is_ours);
    if !headers.get_all(COOKIE).iter().any(has_ours) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let kept: Vec<&[u8]> = line.as_bytes().split(|byte| *byte == b';').filter(|crumb| !is_ours(crumb)).collect();
        let kept = kept.join(&b';');
        if let Ok(value) = HeaderValue::from_bytes(kept.trim_ascii())
            && !value.is_empty()
        {
            headers.append(COOKIE, value);
        }
    }
}

/// Removes every `Authorization` that may hold a password of the service. One of another scheme is the application's own.
pub(super) fn remove_password(headers: &mut HeaderMap) {
    if own_authorization(headers).is_none() {
        headers.remove(AUTHORIZATION);
    }
}

/// Returns the scheme of the request's only `Authorization`, if it is not `Basic`.
pub(super) fn own_authorization(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let scheme = field.as_bytes().split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-').next()?;
    (!scheme.is_empty() && !scheme.eq_ignore_ascii_case(b"basic")).then_some(scheme)
}

/// Returns whether a cache that serves several visitors may store a response although its request has `Authorization`
/// (RFC 9111, section 3.5): a login cookie must not be added to it.
pub fn is_shared(response: &HeaderMap) -> bool {
    let directives =
        response.get_all(CACHE_CONTROL).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut names = directives.map(|directive| directive.split(|byte| *byte == b'=').next().unwrap_or_default());
    names.any(|name| {
        let name = name.trim_ascii();
        [&b"public"[..], b"s-maxage", b"must-revalidate"].iter().any(|shared| name.eq_ignore_ascii_case(shared))
    })
}

/// Returns whether a request is a CORS preflight (Fetch, "CORS-preflight fetch"), which browsers send without credentials
/// and without a body. Fields that make some applications read another method do not belong into one.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    const NOT_IN_A_PREFLIGHT: [&str; 6] = [
        "content-length",
        "transfer-encoding",
        "upgrade",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
    ];
    *method == Method::OPTIONS
        && headers.contains_key("access-control-request-method")
        && !NOT_IN_A_PREFLIGHT
            .iter()
            .any(|name| headers.get(*name).is_some_and(|value| *name != "content-length" || value != "0"))
}

#[cfg(test)]
mod tests;
