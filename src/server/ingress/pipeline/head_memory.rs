//! The memory of large request heads: `limits.held_heads`.

use std::net::IpAddr;

use http::Request;

use crate::limits::{AddressKey, HeldHead, Holder, head_memory, target_length};
use crate::protocol::exchange::MAX_FIELDS;
use crate::server::ingress::Ingress;
use crate::server::ingress::error_page::Failure;
use crate::server::settings::Settings;

/// Charges a large request head for as long as the request waits for its response.
pub(crate) fn hold<B>(
    ingress: &Ingress,
    settings: &Settings,
    request: &Request<B>,
    visitor: IpAddr,
) -> Result<Option<Box<HeldHead>>, Failure> {
    let memory = head_memory(request.headers(), target_length(request.uri()));
    let prefix = settings.config.limits.per_ip.ipv6_prefix;
    let held = ingress.limits.held_heads.hold(memory, || Holder::Address(AddressKey::new(visitor, prefix)));
    // A head that could not be forwarded anyway gets the permanent failure.
    let has_too_many = request.headers().len() > MAX_FIELDS;
    held.map_err(|_| if has_too_many { Failure::HeadTooLarge } else { Failure::HeadsBusy })
}
