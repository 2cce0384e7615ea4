//! Which visitors get to a service: what the server decides before it opens a stream.
//!
//! - [`Access`]: one service's conditions, compiled when it is offered. Addresses and heads are decided without waiting
//! - `password`: names and passwords as browsers send them (RFC 7617)
//! - `gate`: [`PasswordGate`], which compares them without letting strangers spend the server's memory and time
//! - `login_cookie`: [`LoginCookies`], which stand for a password that was right
//! - `visit`: [`Visit`], which tells whether the visitor's own page has caused a request
//! - `remembered`: what was found right a moment ago, and need not be compared again
//! - `webhook`: [`Signed`], a signature that the body must bear, and its [`Verifier`]
//! - `seen`: signatures that were used already
//!
//! Nothing here opens a socket or reads a body; the clock is the caller's. This module imports only `values`,
//! `protocol`, `limits` and `auth`.

mod error;
mod gate;
mod login_cookie;
mod password;
mod remembered;
mod seen;
mod visit;
mod webhook;

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::protocol::access::{AccessPolicy, SharedHeader};
use crate::protocol::login::{ServiceKind, ServiceOffer};
use crate::values::Fingerprint;
pub use error::AccessError;
pub use gate::{NotLetIn, PasswordGate};
pub use login_cookie::{LoginCookies, LoginScope, is_shared};
pub use password::Credential;
use password::Users;
pub use visit::Visit;
pub use webhook::{MAX_BODY, MAX_TOLERANCE_S, Signed, Verifier};

/// The most networks that a policy allows, and that it denies; and the most users it names.
pub const MAX_ENTRIES: usize = 64;

/// Fields that say where a request goes, how long it is, or what the connection does: they cannot hold a secret, because
/// that is taken off before the request goes on.
const NOT_SHARED: [HeaderName; 12] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("x-tunnel-id"),
];

/// The conditions of one service, ready to be asked about each visitor. All that are set must hold.
#[derive(Debug)]
pub struct Access {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    users: Option<Users>,
    header: Option<(HeaderName, Fingerprint)>,
    signed: Option<Signed>,
    /// Whether a CORS preflight needs neither password nor shared header.
    preflight: bool,
}

/// What the head of a request decides.
#[derive(Debug)]
#[must_use = "whoever is not admitted must not get to the service"]
pub enum Decision {
    /// Nothing more is asked of the head.
    Admitted,
    /// Name and password are still to be compared: [`PasswordGate::check`].
    Compare(Credential),
    /// The field with the shared secret is missing, there twice, or wrong.
    WrongHeader,
    /// Name and password are missing, there twice, or cannot be read. The visitor may have logged in before:
    /// [`LoginCookies::is_logged_in`].
    NoCredential,
}

impl Access {
    /// Compiles the conditions of `policy`.
    ///
    /// # Errors
    /// It cannot be used as it is; the text is for the owner of the agent.
    pub fn new(policy: &AccessPolicy) -> Result<Self, AccessError> {
        for (what, networks) in [("allow", &policy.allow), ("deny", &policy.deny)] {
            if networks.len() > MAX_ENTRIES {
                return Err(AccessError::TooMany { what, number: networks.len() });
            }
        }
        let users = if policy.basic_auth.is_empty() { None } else { Some(Users::new(&policy.basic_auth)?) };
        let signed = policy.webhook.as_ref().map(Signed::new).transpose()?;
        let header = policy.header.as_ref().map(shared_field).transpose()?;
        if let Some((name, _)) = &header {
            let is_taken = (users.is_some() && *name == AUTHORIZATION)
                || signed.as_ref().is_some_and(|signed| signed.field() == *name);
            if is_taken {
                return Err(AccessError::HeaderInUse(name.to_string()));
            }
        }
        let canonical = |networks: &[IpNet]| networks.iter().map(canonical).collect();
        Ok(Self {
            allow: canonical(&policy.allow),
            deny: canonical(&policy.deny),
            users,
            header,
            signed,
            preflight: policy.preflight,
        })
    }

    /// Compiles the conditions of an offered service. One that is not HTTP can ask for addresses only.
    ///
    /// # Errors
    /// As [`Access::new`].
    pub fn of(offer: &ServiceOffer) -> Result<Self, AccessError> {
        if offer.kind != ServiceKind::Http && !offer.access.is_for_addresses() {
            return Err(AccessError::AddressesOnly(offer.kind));
        }
        Self::new(&offer.access)
    }

    /// Whether visitors from `ip` may come. What is denied is denied, whatever is allowed; an IPv4 address that arrives
    /// mapped into IPv6 is the IPv4 address.
    pub fn allows_address(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let is_in = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }

    /// Decides on the head of a request. Cheap; the time it takes tells nothing about a secret.
    pub fn check_head(&self, method: &Method, headers: &HeaderMap) -> Decision {
        if self.preflight && login_cookie::is_preflight(method, headers) {
            return Decision::Admitted;
        }
        if let Some((name, digest)) = &self.header
            && !bears(headers, name, digest)
        {
            return Decision::WrongHeader;
        }
        match &self.users {
            None => Decision::Admitted,
            Some(_) => Credential::of(headers).map_or(Decision::NoCredential, Decision::Compare),
        }
    }

    /// The signature that the body must bear, if it must.
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// Takes off what the visitor was let in with: the application has no use for it, and might log it. A signature
    /// stays, and an `Authorization` that is no password: it is the application's own.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if self.users.is_some() {
            login_cookie::remove_password(headers);
            login_cookie::remove_cookies(headers);
        }
        if let Some((name, _)) = &self.header {
            headers.remove(name);
        }
    }

    fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }
}

/// A network of IPv4 addresses that is written as one of IPv6 (`::ffff:192.0.2.0/120`) is the one of IPv4: addresses are
/// looked at in that form.
fn canonical(network: &IpNet) -> IpNet {
    let mapped = |network: &ipnet::Ipv6Net| {
        let address = network.network().to_ipv4_mapped()?;
        ipnet::Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
    };
    match network {
        IpNet::V6(v6) => mapped(v6).map_or(*network, IpNet::V4),
        IpNet::V4(_) => *network,
    }
}

fn shared_field(header: &SharedHeader) -> Result<(HeaderName, Fingerprint), AccessError> {
    let name = HeaderName::from_bytes(header.name.as_bytes())
        .map_err(|_| AccessError::HeaderName(header.name.chars().take(80).collect()))?;
    if NOT_SHARED.contains(&name) {
        return Err(AccessError::HeaderInUse(name.to_string()));
    }
    Ok((name, header.digest))
}

/// Whether the field is there, once, with the value that `digest` was made of.
fn bears(headers: &HeaderMap, name: &HeaderName, digest: &Fingerprint) -> bool {
    let mut fields = headers.get_all(name).iter();
    let shown = fields.next().map(HeaderValue::as_bytes).unwrap_or_default();
    // Whoever shows a value cannot steer its digest towards the one it is compared with.
    let is_right = Sha256::digest(shown).as_slice() == digest.0;
    is_right & fields.next().is_none() & headers.contains_key(name)
}

#[cfg(test)]
mod tests;
