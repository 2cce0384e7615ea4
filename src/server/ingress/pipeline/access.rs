//! Applies a service's access rules before a stream is opened.

use http::header::{EXPECT, SET_COOKIE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body;

use crate::access::{Credential, Decision, LoginScope, NotLetIn, Signed, Verifier, Visit, is_shared};
use crate::limits::{AddressKey, Owner, Portion};
use crate::protocol::exchange::Scheme;
use crate::routing::RoutingMode;
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::Target;
use crate::server::ingress::headers;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::min_rate::MinRate;
use crate::server::ingress::pipeline::request_body::{HoldError, RequestBody};
use crate::server::settings::Settings;
use crate::values::unix_now;

/// Applies the access rules of the service that is `offered`. Removes the credentials from an admitted request. If its body
/// had to be read first, the request goes on with the same bytes. Returns the cookie for a visitor that has just logged in:
/// see [`set_cookie`].
pub(crate) async fn check(
    context: &RequestContext<'_>,
    target: &Target,
    request: &mut Request<RequestBody>,
) -> Result<Option<HeaderValue>, Failure> {
    let offered = &*target.offered;
    let (name, access) = (offered.service.name(), offered.service.access());
    if !access.allows_address(context.visitor) {
        return Err(Failure::Forbidden);
    }
    let mut cookie = None;
    match access.check_head(request.method(), request.headers()) {
        Decision::Admitted => {}
        Decision::WrongHeader => return Err(Failure::Forbidden),
        Decision::NoCredential => {
            let (scope, visit) = (scope(offered), visit(context, target, request));
            if !context.connection.ingress.limits.login_cookies.is_logged_in(&scope, &visit, unix_now()) {
                return Err(Failure::Unauthorized(name.clone()));
            }
        }
        Decision::Compare(credential) => {
            compare(context, offered, &credential).await?;
            let (scope, visit) = (scope(offered), visit(context, target, request));
            let cookies = &context.connection.ingress.limits.login_cookies;
            cookie = cookies.issue(&scope, &visit, &credential, unix_now());
        }
    }
    if let Some(signed) = access.signed() {
        check_signature(context, offered, signed, request).await?;
    }
    access.strip(request.headers_mut());
    Ok(cookie)
}

async fn compare(context: &RequestContext<'_>, offered: &Offered, credential: &Credential) -> Result<(), Failure> {
    let RequestContext { connection, settings, visitor, .. } = context;
    let (passwords, head) = (&connection.ingress.limits.passwords, settings.config.timeouts.head);
    let access = offered.service.access();
    let compared = passwords.check(offered.tunnel.client(), access, credential, *visitor, head).await;
    compared.map_err(|why| match why {
        NotLetIn::Wrong => Failure::Unauthorized(offered.service.name().clone()),
        NotLetIn::TooOften(wait) => Failure::RateLimited(wait),
        NotLetIn::Busy => Failure::AccessBusy,
    })
}

fn scope(offered: &Offered) -> LoginScope<'_> {
    let (client, service) = (offered.tunnel.client(), offered.service.name());
    LoginScope { client, service, access: offered.service.access() }
}

fn visit<'r>(context: &RequestContext<'_>, target: &'r Target, request: &'r Request<RequestBody>) -> Visit<'r> {
    let RequestContext { connection, settings, .. } = context;
    // A proxy in front may have terminated TLS.
    let is_https = connection.peer_is_trusted(settings) && headers::came_over_https(request.headers());
    Visit {
        method: request.method(),
        headers: request.headers(),
        scheme: if is_https { Scheme::Https } else { connection.scheme },
        authority: target.authority.as_deref(),
        // On the common host, all tenants share an origin.
        has_own_origin: target.mode == RoutingMode::Subdomain,
    }
}

/// Adds a login cookie to a response, unless a cache could give it to other visitors: then the next response has it.
pub(crate) fn set_cookie(response: &mut HeaderMap, cookie: HeaderValue) {
    if !is_shared(response) {
        response.append(SET_COOKIE, cookie);
    }
}

async fn check_signature(
    context: &RequestContext<'_>,
    offered: &Offered,
    signed: &Signed,
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    let settings = context.settings;
    let bad_signature = || Failure::BadSignature(offered.service.name().clone());
    // No signature covers what an upgraded connection carries. Not upgrading is always allowed (RFC 9110, section 7.8).
    if request.method() == Method::CONNECT {
        return Err(bad_signature());
    }
    request.headers_mut().remove(UPGRADE);
    let mut verifier = signed.verifier(request.headers(), unix_now()).ok_or_else(bad_signature)?;
    if !request.body().is_end_stream() {
        let holder = Owner {
            client: offered.tunnel.client().clone(),
            service: offered.service.name().clone(),
            address: AddressKey::new(context.visitor, settings.config.limits.per_ip.ipv6_prefix),
        };
        let portion = context.connection.ingress.limits.held_bodies.portion(holder);
        hold(settings, portion, request.body_mut(), signed.max_body(), &mut verifier).await?;
        // The visitor was asked for its body already.
        request.headers_mut().remove(EXPECT);
    }
    if verifier.finish(unix_now()) { Ok(()) } else { Err(bad_signature()) }
}

/// Buffers a body of at most `most` bytes and passes it through the verifier.
async fn hold(
    settings: &Settings,
    portion: Portion,
    body: &mut RequestBody,
    most: usize,
    verifier: &mut Verifier<'_>,
) -> Result<(), Failure> {
    let announced = body.size_hint();
    if announced.lower() > most as u64 {
        return Err(Failure::BodyTooLarge);
    }
    let timeouts = &settings.config.timeouts;
    let min_rate = MinRate::new(announced.upper().unwrap_or(most as u64), timeouts.head, timeouts.idle);
    let held = body.hold(most, portion, min_rate, |piece| verifier.update(piece)).await;
    held.map_err(|why| match why {
        HoldError::TooLarge => Failure::BodyTooLarge,
        HoldError::NoRoom => Failure::AccessBusy,
        HoldError::Slow => Failure::RequestTimeout,
        HoldError::Broken => Failure::BadRequest,
    })
}
