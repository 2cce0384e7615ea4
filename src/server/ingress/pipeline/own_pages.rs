//! The server's own pages: `/health`, and what the bare domain answers.

use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;

use crate::server::directory::Directory;
use crate::server::ingress::error_page::{self, Failure, Health};
use crate::server::ingress::pipeline::request_body::RequestBody;
use crate::transport::delivery::Piece;
use crate::values::{Name, RequestId};

/// The path of the health page.
pub(crate) const HEALTH: &str = "/health";

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
