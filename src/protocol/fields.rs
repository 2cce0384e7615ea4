//! The header fields that only the proxy may send, in any spelling.
//!
//! Many backends do not read field names as HTTP does. CGI and WSGI (RFC 3875, section 4.1.18) turn `-` into `_`, PHP
//! turns every byte except letters and digits into `_`, and others drop symbols at the ends. To such a backend
//! `X.Forwarded.For` and `X_Forwarded_For` are `X-Forwarded-For`. This module compares names by one canonical form, which
//! is as coarse as the coarsest backend:
//!
//! - letters in lower case,
//! - each run of other characters, except digits, as one `-`,
//! - no `-` at either end,
//! - without a leading `http-`: some applications look for a field that is called `HTTP_CLIENT_IP`.
//!
//! [`TABLE`] and [`FAMILIES`] list the canonical names that belong to the proxy. A name that is not written in canonical
//! form, but has the canonical form of a listed name, is a look-alike. Look-alikes are never forwarded.

use http::HeaderMap;
use http::header::HeaderName;
use http_body::Frame;

/// The role of a field that belongs to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It describes the connection, or the length of the message.
    Framing,
    /// It describes the request that the proxy received: host, scheme, prefix, route.
    Forwarding,
    /// It holds the address of the client.
    Address,
    /// No client or proxy has a reason to send it.
    Forbidden,
    /// It names the service, for the server itself.
    Routing,
}

/// A field that belongs to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// Its role.
    pub role: Role,
    /// Whether the name is written in canonical form.
    pub is_exact: bool,
}

/// Canonical names that belong to the proxy, by length.
const TABLE: &[(&str, Role)] = &[
    ("te", Role::Framing),
    ("host", Role::Framing),
    ("proxy", Role::Forbidden),
    ("expect", Role::Framing),
    ("x-host", Role::Forwarding),
    ("real-ip", Role::Address),
    ("trailer", Role::Framing),
    ("upgrade", Role::Framing),
    ("x-scheme", Role::Forwarding),
    ("client-ip", Role::Address),
    ("forwarded", Role::Forwarding),
    ("x-real-ip", Role::Address),
    ("cdn-src-ip", Role::Address),
    ("connection", Role::Framing),
    ("keep-alive", Role::Framing),
    ("cdn-real-ip", Role::Address),
    ("remote-addr", Role::Address),
    ("x-client-ip", Role::Address),
    ("x-remote-ip", Role::Address),
    ("x-tunnel-id", Role::Routing),
    ("x-request-id", Role::Forwarding),
    ("x-url-scheme", Role::Forwarding),
    ("fly-client-ip", Role::Address),
    ("forwarded-for", Role::Address),
    ("x-client-addr", Role::Address),
    ("x-coming-from", Role::Address),
    ("x-forward-for", Role::Address),
    ("x-remote-addr", Role::Address),
    ("x-rewrite-uri", Role::Forwarding),
    ("x-rewrite-url", Role::Forwarding),
    ("cf-pseudo-ipv4", Role::Address),
    ("content-length", Role::Framing),
    ("http2-settings", Role::Forbidden),
    ("true-client-ip", Role::Address),
    ("x-forwardedfor", Role::Address),
    ("x-original-for", Role::Address),
    ("x-original-uri", Role::Forwarding),
    ("x-original-url", Role::Forwarding),
    ("x-proxyuser-ip", Role::Address),
    ("front-end-https", Role::Forwarding),
    ("proxy-client-ip", Role::Address),
    ("x-accel-mapping", Role::Forwarding),
    ("x-original-host", Role::Forwarding),
    ("x-sendfile-type", Role::Forwarding),
    ("cf-connecting-ip", Role::Address),
    ("fastly-client-ip", Role::Address),
    ("proxy-connection", Role::Framing),
    ("x-azure-clientip", Role::Address),
    ("x-azure-socketip", Role::Address),
    ("x-original-proto", Role::Forwarding),
    ("x-originating-ip", Role::Address),
    ("x-real-client-ip", Role::Address),
    ("transfer-encoding", Role::Framing),
    ("x-original-method", Role::Forwarding),
    ("x-original-scheme", Role::Forwarding),
    ("x-proxy-client-ip", Role::Address),
    ("cf-connecting-ipv6", Role::Address),
    ("proxy-authenticate", Role::Framing),
    ("wl-proxy-client-ip", Role::Address),
    ("proxy-authorization", Role::Framing),
    ("x-appengine-user-ip", Role::Address),
    ("x-cluster-client-ip", Role::Address),
    ("x-http-host-override", Role::Forwarding),
    ("x-original-remote-addr", Role::Address),
    ("x-envoy-external-address", Role::Address),
    ("x-original-forwarded-for", Role::Address),
    ("x-nf-client-connection-ip", Role::Address),
];

/// Canonical prefixes of whole families that belong to the proxy, whatever follows.
const FAMILIES: &[(&str, Role)] = &[("x-forwarded", Role::Forwarding), ("x-vercel-forwarded", Role::Forwarding)];

/// Canonical names of fields in which gateways tell applications who the user is, see [`names_a_user`].
const IDENTITY: &[&str] = &[
    "client-cert",
    "client-cert-chain",
    "iv-creds",
    "x-client-dn",
    "x-client-ssl",
    "x-client-verify",
    "x-email",
    "x-goog-iap-jwt-assertion",
    "x-groups",
    "x-id-token",
    "x-ldap-user",
    "x-proxy-user",
    "x-roles",
    "x-trusted-user",
    "x-user",
    "x-userinfo",
    "x-username",
];

/// The same for families: canonical prefixes, whatever follows after a `-`.
const IDENTITY_FAMILIES: &[&str] = &[
    "cf-access",
    "iv-groups",
    "iv-user",
    "mellon",
    "oidc",
    "remote",
    "shib",
    "sm-universalid",
    "sm-user",
    "ssl-client",
    "tailscale",
    "x-amzn-mtls",
    "x-amzn-oidc",
    "x-anonymous-consumer",
    "x-arr-clientcert",
    "x-auth-email",
    "x-auth-groups",
    "x-auth-name",
    "x-auth-request",
    "x-auth-roles",
    "x-auth-user",
    "x-auth-userid",
    "x-auth-username",
    "x-authelia",
    "x-authenticated",
    "x-authentik",
    "x-cert",
    "x-client-cert",
    "x-client-certificate",
    "x-consumer",
    "x-credential",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-goog-authenticated-user",
    "x-ms-client-principal",
    "x-oidc",
    "x-pomerium",
    "x-remote",
    "x-saml",
    "x-ssl",
    "x-sso",
    "x-tls",
    "x-token",
    "x-user",
    "x-verified",
    "x-vouch",
    "x-webauth",
];

/// Canonical names of fields that decide how a message is understood, routed or authorised, and must not come in its
/// trailers (RFC 9110, section 6.5.1). They are refused there beside everything else that belongs to the proxy.
const NOT_IN_TRAILERS: &[&str] = &[
    "authentication-info",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "cookie2",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authentication-info",
    "range",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    "x-csrf-token",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Bytes of a canonical name that are compared. All listed names are shorter.
const MOST: usize = 40;

/// A field name in canonical form, or its first [`MOST`] bytes.
struct Canonical {
    bytes: [u8; MOST],
    length: usize,
    /// The name had this form already.
    is_exact: bool,
}

impl Canonical {
    #[inline]
    fn of(name: &str) -> Self {
        let (mut bytes, mut length, mut is_exact) = ([0; MOST], 0, true);
        let mut has_gap = false;
        for byte in name.bytes() {
            if !byte.is_ascii_alphanumeric() {
                is_exact &= byte == b'-' && !has_gap && length > 0;
                has_gap = true;
                continue;
            }
            is_exact &= !byte.is_ascii_uppercase();
            if std::mem::take(&mut has_gap) && length > 0 && length < MOST {
                bytes[length] = b'-';
                length += 1;
            }
            if length < MOST {
                bytes[length] = byte.to_ascii_lowercase();
                length += 1;
            }
        }
        Self { bytes, length, is_exact: is_exact && !has_gap }
    }

    /// The text to compare, and whether the name is written so.
    fn text(&self) -> (&[u8], bool) {
        let text = &self.bytes[..self.length];
        match text.strip_prefix(b"http-") {
            Some(text) => (text, false),
            None => (text, self.is_exact),
        }
    }
}

/// Where the names of each length begin in [`TABLE`].
const BY_LENGTH: [usize; MOST + 1] = {
    let (mut starts, mut length) = ([0; MOST + 1], 0);
    while length <= MOST {
        let mut at = 0;
        while at < TABLE.len() && TABLE[at].0.len() < length {
            at += 1;
        }
        starts[length] = at;
        length += 1;
    }
    starts
};

/// Which first bytes a name that belongs to the proxy can have. Symbols are in it: they may come before any name.
const FIRST_BYTES: [bool; 256] = {
    let mut first = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        first[byte as usize] = !byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < TABLE.len() {
        let byte = TABLE[at].0.as_bytes()[0];
        first[byte as usize] = true;
        first[byte.to_ascii_uppercase() as usize] = true;
        at += 1;
    }
    // The families begin with an `x`, and `http-` with an `h`.
    first[b'x' as usize] = true;
    first[b'X' as usize] = true;
    first[b'h' as usize] = true;
    first[b'H' as usize] = true;
    first
};

/// Whether `name` is `family`, or begins with it and a `-`.
fn is_of(name: &[u8], family: &str) -> bool {
    name.strip_prefix(family.as_bytes()).is_some_and(|rest| rest.first().is_none_or(|next| *next == b'-'))
}

/// The role of `name`, if it belongs to the proxy in any spelling. Does not allocate.
#[inline]
pub fn owned(name: &str) -> Option<Owned> {
    let first = *name.as_bytes().first()?;
    if FIRST_BYTES[usize::from(first)] { look_up(name) } else { None }
}

fn look_up(name: &str) -> Option<Owned> {
    let canonical = Canonical::of(name);
    let (text, is_exact) = canonical.text();
    let (first, end) = (BY_LENGTH[text.len()], BY_LENGTH.get(text.len() + 1).copied().unwrap_or(TABLE.len()));
    let mut same_length = TABLE[first..end].iter();
    let listed = same_length.find(|(listed, _)| listed.as_bytes() == text);
    let listed = listed.or_else(|| FAMILIES.iter().find(|(family, _)| is_of(text, family)));
    listed.map(|(_, role)| Owned { role: *role, is_exact })
}

/// Removes every field that [`names_a_user`].
pub fn remove_identity(fields: &mut HeaderMap) {
    remove_fields(fields, names_a_user);
}

/// Returns whether `name`, in any spelling, is an identity field: a gateway sets it to tell an application who the user is.
pub fn names_a_user(name: &str) -> bool {
    let canonical = Canonical::of(name);
    let (text, _) = canonical.text();
    IDENTITY.iter().any(|listed| listed.as_bytes() == text)
        || IDENTITY_FAMILIES.iter().any(|family| is_of(text, family))
}

/// Returns whether `name` is allowed in request trailers, which are read after the request was routed and authorised.
pub fn may_trail(name: &str) -> bool {
    owned(name).is_none() && !names_a_user(name) && !is_refused_in_trailers(name)
}

fn is_refused_in_trailers(name: &str) -> bool {
    let canonical = Canonical::of(name);
    let (text, _) = canonical.text();
    NOT_IN_TRAILERS.iter().any(|listed| listed.as_bytes() == text)
}

/// Removes the fields that `goes` picks.
pub fn remove_fields(fields: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    // Usually empty: an empty list does not allocate.
    let named: Vec<HeaderName> = fields.keys().filter(|name| goes(name.as_str())).cloned().collect();
    for name in named {
        fields.remove(name);
    }
}

/// Removes the fields that are not allowed in request trailers.
pub fn clean_request_trailers(trailers: &mut HeaderMap) {
    remove_fields(trailers, |name| !may_trail(name));
}

/// Removes the fields that are not allowed in response trailers. Everything else is up to the application.
pub fn clean_answer_trailers(trailers: &mut HeaderMap) {
    remove_fields(trailers, |name| is_refused_in_trailers(name) || frames(name));
}

/// Whether `name`, in any spelling, describes the connection or the length of a message.
fn frames(name: &str) -> bool {
    owned(name).is_some_and(|owned| matches!(owned.role, Role::Framing | Role::Forbidden))
}

/// Forwards a frame of a body; removes disallowed fields if it contains trailers.
pub fn with_clean_trailers<T>(frame: Frame<T>, clean: impl FnOnce(&mut HeaderMap)) -> Frame<T> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

#[cfg(test)]
mod tests;
