//! The PROXY protocol, versions 1 and 2: how a proxy tells, ahead of a connection's own bytes, who it speaks for
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// How a header of version 2 begins.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// How a header of version 1 begins.
const V1_PREFIX: &[u8; 6] = b"PROXY ";

/// The longest header of version 1, its line end included (section 2.1).
const V1_MOST: usize = 107;

/// The longest header of version 2 that is taken: addresses take at most 216 bytes, the rest are extensions.
const V2_MOST: usize = 4096;

/// The longest header of either version, in bytes.
pub const LONGEST: usize = V2_MOST;

/// Bytes of a header of version 2 before its addresses; the last two say how many follow.
const V2_FIXED: usize = 16;

/// Which version to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where the connection comes from and where it went to; `None` if the proxy speaks for itself or cannot tell.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// How many bytes it takes; the connection's own come after.
    pub length: usize,
}

/// The bytes are not a header, or one that cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a PROXY protocol header")]
pub struct Malformed;

/// Reads the header at the front of `input`; `None` means that more is needed. It never needs more than 4 KiB.
///
/// # Errors
/// The input does not begin with a header, or with one that is too long or about something else than TCP.
pub fn parse(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let begins = |with: &[u8]| input.starts_with(with) || with.starts_with(input);
    if begins(V2_SIGNATURE) {
        parse_v2(input)
    } else if begins(V1_PREFIX) {
        parse_v1(input)
    } else {
        Err(Malformed)
    }
}

fn parse_v1(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let line = &input[..input.len().min(V1_MOST)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() >= V1_MOST { Err(Malformed) } else { Ok(None) };
    };
    let length = end + 2;
    let header = v1::Header::try_from(&input[..length]).map_err(|_| Malformed)?;
    let addresses = match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        )),
        v1::Addresses::Tcp6(ip) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        )),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(Header { addresses, length }))
}

fn parse_v2(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(length) = input.get(V2_FIXED - 2..V2_FIXED) else { return Ok(None) };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > V2_MOST {
        return Err(Malformed);
    }
    let Some(whole) = input.get(..length) else { return Ok(None) };
    let header = v2::Header::try_from(whole).map_err(|_| Malformed)?;
    let addresses = match (header.command, header.protocol, header.addresses) {
        // A health check of the proxy's own (section 2.2).
        (v2::Command::Local, ..) => None,
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        )),
        (v2::Command::Proxy, v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => Some((
            SocketAddr::from((ip.source_address, ip.source_port)),
            SocketAddr::from((ip.destination_address, ip.destination_port)),
        )),
        (v2::Command::Proxy, _, v2::Addresses::Unspecified) => None,
        (v2::Command::Proxy, ..) => return Err(Malformed),
    };
    Ok(Some(Header { addresses, length }))
}

/// The header that tells of a connection from `source` to `destination`. Of two families, both are written as IPv6
/// (RFC 4291, section 2.5.5.2).
pub fn header(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
        IpAddr::V6(_) => address,
    };
    let addresses = match (source.is_ipv4(), destination.is_ipv4()) {
        (true, true) | (false, false) => (source, destination),
        _ => (mapped(source), mapped(destination)),
    };
    match version {
        Version::V1 => v1::Addresses::from(addresses).to_string().into_bytes(),
        Version::V2 => {
            let command = v2::Version::Two | v2::Command::Proxy;
            let built = v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses).build();
            // Writing to memory does not fail; nothing at all would be refused by who expects a header.
            built.unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(input: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let header = parse(input).unwrap().unwrap();
        assert_eq!(header.length, input.len());
        header.addresses
    }

    #[test]
    fn what_is_written_is_read_whatever_the_pieces() {
        for (source, destination, read_as) in [
            ("192.0.2.1:5", "198.51.100.1:80", "192.0.2.1:5"),
            ("[2001:db8::1]:5", "[2001:db8::2]:80", "[2001:db8::1]:5"),
            ("192.0.2.1:5", "[2001:db8::2]:80", "[::ffff:192.0.2.1]:5"),
        ] {
            let [source, destination, read_as] = [source, destination, read_as].map(|text| text.parse().unwrap());
            for version in [Version::V1, Version::V2] {
                let written = header(version, source, destination);
                assert_eq!(taken(&written).unwrap().0, read_as);
                for at in 0..written.len() {
                    assert_eq!(parse(&written[..at]), Ok(None), "{version:?} cut at {at}");
                }
                let more = [&*written, b"GET / HTTP/1.1\r\n"].concat();
                assert_eq!(parse(&more).unwrap().unwrap().length, written.len());
            }
        }
    }

    #[test]
    fn a_proxy_may_speak_for_itself_or_not_know() {
        assert_eq!(taken(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(taken(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), None);
        let local = [V2_SIGNATURE.as_slice(), &[0x20, 0x00, 0, 0]].concat();
        assert_eq!(taken(&local), None);
    }

    #[test]
    fn extensions_are_passed_over_up_to_a_limit() {
        let mut with = header(Version::V2, "192.0.2.1:5".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        let extension = [&[0x04, 0x03, 0xe8][..], &[0; 1000]].concat();
        with.extend_from_slice(&extension);
        with[14..16].copy_from_slice(&1015_u16.to_be_bytes());
        assert_eq!(taken(&with).unwrap().0, "192.0.2.1:5".parse().unwrap());
        with[14..16].copy_from_slice(&5000_u16.to_be_bytes());
        assert_eq!(parse(&with), Err(Malformed));
    }

    #[test]
    fn anything_else_is_refused_as_soon_as_it_shows() {
        for bad in [
            &b"G"[..],
            b"PROXI",
            b"PROXY TCP4 nonsense\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\x21",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{:?}", String::from_utf8_lossy(bad));
        }
        assert_eq!(parse(format!("PROXY UNKNOWN {}", "x".repeat(200)).as_bytes()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in any::<bool>()) {
            let front = if version { V2_SIGNATURE.as_slice() } else { V1_PREFIX.as_slice() };
            let _ = parse(&bytes);
            if let Ok(Some(header)) = parse(&[front, &bytes].concat()) {
                prop_assert!(header.length <= front.len() + bytes.len());
            }
        }
    }
}
