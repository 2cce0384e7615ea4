//! The redirect from HTTP to HTTPS.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Request};

use crate::protocol::exchange::Scheme;
use crate::routing::{self, Route};
use crate::server::directory::public_urls::with_port;
use crate::server::ingress::headers;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::own_pages::HEALTH;
use crate::server::ingress::pipeline::request_body::RequestBody;

/// Returns whether a monitor requests the health page by IP address. No certificate covers addresses, so HTTPS would fail.
fn is_health_of_an_address(route: &Route, path: &str, authority: Option<&Bytes>) -> bool {
    let host = || authority.and_then(|text| std::str::from_utf8(text).ok()).map(routing::host_of);
    *route == Route::Own && path == HEALTH && host().is_some_and(|host| host.parse::<IpAddr>().is_ok())
}

/// Returns where a plain HTTP request is redirected to, if `public.redirect_to_https` covers its host.
pub(crate) fn location(
    context: &RequestContext<'_>,
    request: &Request<RequestBody>,
    route: &Route,
    authority: Option<&Bytes>,
) -> Option<HeaderValue> {
    if is_health_of_an_address(route, request.uri().path(), authority) {
        return None;
    }
    let RequestContext { connection, settings, .. } = context;
    let public = &settings.config.public;
    let https_port = connection.ingress.directory.listeners.https?;
    if connection.scheme == Scheme::Https || public.redirect_to_https.is_empty() {
        return None;
    }
    let host = routing::host_of(std::str::from_utf8(authority?).ok()?);
    let is_meant = public.redirect_to_https.iter().any(|pattern| pattern.matches(host));
    // A proxy in front may have terminated TLS.
    if !is_meant || (connection.peer_is_trusted(settings) && headers::came_over_https(request.headers())) {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    // If there is a proxy in front, visitors reach its port.
    let port = match &public.url {
        Some(url) if url.starts_with("https://") => {
            let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
            authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
        }
        _ => https_port,
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // `http://host?query` has an empty path, which is `/` (RFC 9112, section 3.2.1).
    let slash = if target.starts_with('?') { "/" } else { "" };
    HeaderValue::try_from(format!("https://{host}{}{slash}{target}", with_port(port, 443))).ok()
}
