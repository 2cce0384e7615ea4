//! The host names and IP addresses of the local CA's server certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustls::pki_types::DnsName;

use crate::certs::CertError;

/// The maximum number of the machine's own addresses in the certificate, which every handshake carries.
pub(super) const MAX_OWN_ADDRESSES: usize = 32;
/// Always in the certificate.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Returns the names that the certificate must have, each in its canonical form.
///
/// # Errors
/// A name is neither a host name nor an IP address.
pub(super) fn wanted_names(names: &[String], addresses: &[IpAddr]) -> Result<BTreeSet<String>, CertError> {
    let mut wanted: BTreeSet<String> = LOOPBACK.map(String::from).into();
    wanted.extend(addresses.iter().take(MAX_OWN_ADDRESSES).map(IpAddr::to_string));
    for name in names {
        if let Ok(ip) = name.parse::<IpAddr>() {
            wanted.insert(ip.to_string());
            continue;
        }
        let host = name.strip_prefix("*.").unwrap_or(name);
        DnsName::try_from(host).map_err(|_| CertError::Name(name.clone()))?;
        wanted.insert(name.to_ascii_lowercase());
    }
    Ok(wanted)
}

/// Returns the non-local addresses of this machine's interfaces; none if the system does not report them.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "this machine's own addresses are unknown and will not be in the certificate");
        Vec::new()
    });
    let reachable = interfaces.iter().filter(|interface| !interface.is_loopback() && !interface.is_link_local());
    let mut addresses: Vec<_> = reachable.map(if_addrs::Interface::ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
