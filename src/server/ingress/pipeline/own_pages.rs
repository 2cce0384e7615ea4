//! The server's own pages: `/health`, and what the bare domain answers.

use http::header::UPGRADE;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;

use crate::protocol::login::PathPrefix;
use crate::routing::{Route, RoutingMode};
use crate::server::directory::Directory;
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::{self, Failure, Health};
use crate::server::ingress::headers;
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::transport::delivery::Piece;
use crate::values::{Name, RequestId};

/// The path of the health page.
pub(crate) const HEALTH: &str = "/health";

/// Returns whether a page was requested at `/alice`: only `/alice/` makes its relative links work. Other methods and upgrades
/// are served as they are, because few clients follow a redirect then.
pub(crate) fn needs_slash(route: &Route, offered: &Offered, request: &Request<RequestBody>) -> bool {
    matches!(route, Route::Service { mode: RoutingMode::Path, .. })
        && !request.uri().path().trim_start_matches('/').contains('/')
        && offered.service.path_prefix() != PathPrefix::Keep
        && matches!(*request.method(), Method::GET | Method::HEAD)
        && request.headers().get(UPGRADE).is_none_or(headers::carries_requests)
}

/// Redirects to the same path with a slash at its end.
pub(crate) fn add_slash(
    request: &Request<RequestBody>,
    request_id: RequestId,
) -> Result<Response<Full<Piece>>, Failure> {
    let uri = request.uri();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path())).map_err(|_| Failure::BadRequest)?;
    Ok(error_page::redirect(location, request_id))
}

/// Returns the server's own page at the request's path.
pub(crate) fn own_page(
    directory: &Directory,
    request: &Request<RequestBody>,
    request_id: RequestId,
) -> Result<Response<Full<Piece>>, Failure> {
    match request.uri().path() {
        HEALTH => {}
        "/" => return Err(Failure::FrontPage),
        _ => return Err(Failure::NotFound),
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Failure::MethodNotAllowed);
    }
    let registry = &directory.registry;
    let parameters = request.uri().query().unwrap_or_default().split('&');
    let health = match parameters.filter_map(|parameter| parameter.strip_prefix("tunnel=")).next().map(Name::new) {
        Some(Ok(name)) if registry.by_name(&name).is_some() => Health::Connected,
        Some(Ok(name)) if directory.clients.owner_of_name(&name).is_some() => Health::Disconnected,
        // A monitor that watches a misspelt name must notice.
        Some(_) => Health::Unknown,
        None if registry.serves_any() => Health::Connected,
        None => Health::Disconnected,
    };
    Ok(error_page::health(health, request_id))
}
