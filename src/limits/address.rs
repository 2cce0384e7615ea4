//! What counts as one visitor.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that are limited together: one IPv4 address, or one IPv6 network.
///
/// A household or a rented server owns a whole IPv6 /64 (RFC 6177), so a limit per single IPv6 address is no limit.
/// An IPv4 address that arrives mapped into IPv6 (`::ffff:192.0.2.1`, RFC 4291, section 2.5.5.2) is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(IpAddr);

impl AddressKey {
    /// The key of `ip`, where the first `ipv6_prefix` bits of an IPv6 address count (128 at most).
    pub fn new(ip: IpAddr, ipv6_prefix: u8) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(v6) => {
                let ignored = 128_u32.saturating_sub(ipv6_prefix.into());
                let mask = u128::MAX.checked_shl(ignored).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            v4 => v4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ip: &str, prefix: u8) -> AddressKey {
        AddressKey::new(ip.parse().unwrap(), prefix)
    }

    #[test]
    fn every_ipv4_address_is_a_visitor_of_its_own() {
        assert_ne!(key("192.0.2.1", 64), key("192.0.2.2", 64));
        assert_eq!(key("::ffff:192.0.2.1", 64), key("192.0.2.1", 64));
        assert_ne!(key("::ffff:192.0.2.1", 64), key("::ffff:192.0.2.2", 64));
    }

    #[test]
    fn an_ipv6_network_is_one_visitor() {
        assert_eq!(key("2001:db8:0:1::1", 64), key("2001:db8:0:1:ffff::2", 64));
        assert_ne!(key("2001:db8:0:1::1", 64), key("2001:db8:0:2::1", 64));
        assert_eq!(key("2001:db8:0:1::1", 56), key("2001:db8:0:2::1", 56));
    }

    #[test]
    fn the_prefix_may_be_all_or_nothing() {
        assert_ne!(key("2001:db8::1", 128), key("2001:db8::2", 128));
        assert_ne!(key("2001:db8::1", 255), key("2001:db8::2", 255));
        assert_eq!(key("2001:db8::1", 0), key("fe80::2", 0));
    }
}
