//! The first frame of a service stream: for which service it is, and for whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};

use super::WireError;
use super::frame::{self, Kind};
use super::login::ServiceKind;
use super::wire::{put_short, take, take_short, take_u8, take_u16, take_u64};
use crate::values::{Name, RequestId};

/// For which service a stream is, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// The service's name, as the agent offered it in its login.
    pub service: Name,
    /// Where the visitor comes from (as far as trusted proxies tell).
    pub visitor: SocketAddr,
    /// The server's own end of the visitor's connection.
    pub server: SocketAddr,
    /// What the stream carries, and with it what follows the preface.
    pub kind: ServiceKind,
    /// Under what id both sides log the request.
    pub request_id: RequestId,
}

impl Preface {
    /// Puts the whole frame.
    ///
    /// # Errors
    /// None in practice: a [`Name`] always fits.
    pub fn put(&self, out: &mut BytesMut) -> Result<(), WireError> {
        frame::put_frame(out, Kind::Preface, frame::MAX_SMALL, |out| {
            put_short(out, self.service.as_str().as_bytes(), "service")?;
            put_address(out, self.visitor);
            put_address(out, self.server);
            out.put_u8(self.kind as u8);
            out.put_u64(self.request_id.0);
            Ok(())
        })
    }

    /// Reads the payload of a [`Kind::Preface`] frame. What follows the known fields is left for later versions.
    ///
    /// # Errors
    /// A field that is cut short or has a value it cannot have.
    pub fn parse(mut payload: Bytes) -> Result<Self, WireError> {
        let input = &mut payload;
        let service = take_short(input)?;
        let service = std::str::from_utf8(&service).ok().and_then(|text| Name::new(text).ok());
        Ok(Self {
            service: service.ok_or(WireError::Invalid("service name"))?,
            visitor: take_address(input)?,
            server: take_address(input)?,
            kind: ServiceKind::from_byte(take_u8(input)?)?,
            request_id: RequestId(take_u64(input)?),
        })
    }
}

fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

fn take_address(input: &mut Bytes) -> Result<SocketAddr, WireError> {
    let ip = match take_u8(input)? {
        4 => {
            let octets: [u8; 4] = take(input, 4)?.as_ref().try_into().map_err(|_| WireError::Short)?;
            IpAddr::V4(Ipv4Addr::from(octets))
        }
        6 => {
            let octets: [u8; 16] = take(input, 16)?.as_ref().try_into().map_err(|_| WireError::Short)?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return Err(WireError::Invalid("address family")),
    };
    Ok(SocketAddr::new(ip, take_u16(input)?))
}
