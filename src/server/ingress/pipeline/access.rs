//! Applies a service's access rules before a stream is opened.

use http::header::{EXPECT, UPGRADE};
use http::{Method, Request};
use http_body::Body;

use crate::access::{Decision, NotLetIn, Signed, Verifier};
use crate::limits::{AddressKey, Owner, Portion};
use crate::server::directory::offered::Offered;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::pipeline::context::RequestContext;
use crate::server::ingress::pipeline::min_rate::MinRate;
use crate::server::ingress::pipeline::request_body::{HoldError, RequestBody};
use crate::server::settings::Settings;
use crate::values::unix_now;

/// Applies the access rules of the service that is `offered`. Removes the credentials from an admitted request. If its body
/// had to be read first, the request goes on with the same bytes.
pub(crate) async fn check(
    context: &RequestContext<'_>,
    offered: &Offered,
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    let RequestContext { connection, settings, visitor, .. } = context;
    let (name, access) = (offered.service.name(), offered.service.access());
    if !access.allows_address(*visitor) {
        return Err(Failure::Forbidden);
    }
    match access.check_head(request.headers()) {
        Decision::Admitted => {}
        Decision::WrongHeader => return Err(Failure::Forbidden),
        Decision::NoCredential => return Err(Failure::Unauthorized(name.clone())),
        Decision::Compare(credential) => {
            let (passwords, head) = (&connection.ingress.limits.passwords, settings.config.timeouts.head);
            let compared = passwords.check(offered.tunnel.client(), access, &credential, *visitor, head).await;
            compared.map_err(|why| match why {
                NotLetIn::Wrong => Failure::Unauthorized(name.clone()),
                NotLetIn::TooOften(wait) => Failure::RateLimited(wait),
                NotLetIn::Busy => Failure::AccessBusy,
            })?;
        }
    }
    if let Some(signed) = access.signed() {
        check_signature(context, offered, signed, request).await?;
    }
    access.strip(request.headers_mut());
    Ok(())
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
