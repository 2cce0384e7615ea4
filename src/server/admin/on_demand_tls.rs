//! What a proxy in front asks before it gets a certificate for a host.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, found};
use super::extract::InQuery;
use super::refusals::{Misread, NotFound, Refusals};
use crate::server::directory::registry::Registry;
use crate::server::ingress::upstream::lookup;
use crate::server::settings::Settings;
use crate::tenants::clients::Clients;

/// Characters of the longest host name (RFC 1035, section 2.3.4).
const MAX: usize = 253;

/// Which host.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AskQuery {
    /// The host name.
    #[param(
        min_length = 1,
        max_length = 253,
        pattern = r"^([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.?$",
        example = "alice.tunnel.example.com"
    )]
    domain: String,
}

/// A host that visitors may ask for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Served)]
pub(crate) struct ServedView {
    /// The host, in lower case.
    domain: String,
}

/// Whether visitors may ask for a host
///
/// 200: the public domain, a name below it or a client's own domain that somebody offers or may offer. 404: any other
/// host.
#[utoipa::path(
    get, path = "/ask", tag = "watching", operation_id = "ask", security((), ("bearer" = [])), params(AskQuery),
    responses((status = 200, body = ServedView), Refusals, Misread, NotFound),
)]
pub(crate) async fn ask(
    State(registry): State<Arc<Registry>>,
    State(clients): State<Arc<Clients>>,
    State(settings): State<Arc<Settings>>,
    InQuery(query): InQuery<AskQuery>,
) -> Result<Json<ServedView>, ApiError> {
    let nonsense = || ApiError::bad_query("domain: is not a host name; write one like alice.tunnel.example.com");
    let domain = host_name(&query.domain).ok_or_else(nonsense)?;
    // An address is nobody's name, although a bare address leads to the server's own pages.
    let is_name = domain.parse::<IpAddr>().is_err();
    let served = is_name && lookup::is_served(&*registry, &clients, &settings.router, &domain);
    found("host", served.then_some(ServedView { domain })).map(Json)
}

/// In lower case, without a final dot; `None` if it is no host name.
fn host_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    // Some hosts have underscores, although names of hosts may not (RFC 1123, section 2.1).
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
            && bytes.first().copied().is_some_and(is_plain)
            && bytes.last().copied().is_some_and(is_plain)
    };
    (text.len() <= MAX && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_made_of_labels() {
        for (text, name) in
            [("Alice.Example.com.", "alice.example.com"), ("localhost", "localhost"), ("a_b.c", "a_b.c")]
        {
            assert_eq!(host_name(text).as_deref(), Some(name));
        }
        let (long, longest) = (format!("{}.example", "x".repeat(64)), "x.".repeat(126) + "x");
        assert_eq!(host_name(&longest).map(|name| name.len()), Some(253));
        for bad in
            ["", ".", "a..b", "a.b:80", "-a.b", "a-.b", "é.b", "a b", "https://a.b", "*.a.b", &long, &(longest + ".x")]
        {
            assert_eq!(host_name(bad), None, "{bad}");
        }
    }
}
