//! What a service asks of its visitors, before a stream is opened for them.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{EXPECT, UPGRADE};
use http::{Method, Request};
use http_body::Body;

use super::Visit;
use super::answer::Failure;
use super::body::{HoldError, RequestBody};
use crate::access::{Access, Decision, NotLetIn, Signed, Verifier};
use crate::server::login::unix_now;
use crate::server::settings::Settings;
use crate::values::Name;

/// How fast a body that is held has to come, in bytes a second, on top of the time of a head.
const LEAST_RATE: u64 = 256 * 1024;

/// Lets `visitor` through to the service `name`, or not. From a request that is let through, what it was let in with is
/// taken off; if its body had to be read first, it goes on with the same bytes.
pub(super) async fn check(
    (visit, settings): (&Visit, &Settings),
    (name, access): (&Name, &Access),
    request: &mut Request<RequestBody>,
    visitor: IpAddr,
) -> Result<(), Failure> {
    let shared = &visit.shared;
    if !access.allows_address(visitor) {
        return Err(Failure::Forbidden);
    }
    match access.check_head(request.headers()) {
        Decision::Admitted => {}
        Decision::WrongHeader => return Err(Failure::Forbidden),
        Decision::NoCredential => return Err(Failure::Unauthorized(name.clone())),
        Decision::Compare(credential) => {
            let compared = shared.passwords.check(access, &credential, visitor, settings.config.timeouts.head).await;
            compared.map_err(|why| match why {
                NotLetIn::Wrong => Failure::Unauthorized(name.clone()),
                NotLetIn::TooOften(wait) => Failure::RateLimited(wait),
                NotLetIn::Busy => Failure::AccessBusy,
            })?;
        }
    }
    if let Some(signed) = access.signed() {
        check_signature((visit, settings), (name, signed), request).await?;
    }
    access.strip(request.headers_mut());
    Ok(())
}

async fn check_signature(
    (visit, settings): (&Visit, &Settings),
    (name, signed): (&Name, &Signed),
    request: &mut Request<RequestBody>,
) -> Result<(), Failure> {
    let bad_signature = || Failure::BadSignature(name.clone());
    // Nobody signs what an upgraded connection carries. Not upgrading is always allowed (RFC 9110, section 7.8).
    if request.method() == Method::CONNECT {
        return Err(bad_signature());
    }
    request.headers_mut().remove(UPGRADE);
    let mut verifier = signed.verifier(request.headers(), unix_now()).ok_or_else(bad_signature)?;
    if !request.body().is_end_stream() {
        hold((visit, settings), signed, request.body_mut(), &mut verifier).await?;
        // The visitor was asked for its body already.
        request.headers_mut().remove(EXPECT);
    }
    if verifier.finish(unix_now()) { Ok(()) } else { Err(bad_signature()) }
}

/// Reads a body to its end, past its verifier.
async fn hold(
    (visit, settings): (&Visit, &Settings),
    signed: &Signed,
    body: &mut RequestBody,
    verifier: &mut Verifier<'_>,
) -> Result<(), Failure> {
    let (timeouts, most) = (&settings.config.timeouts, signed.max_body());
    let announced = body.size_hint();
    if announced.lower() > most as u64 {
        return Err(Failure::BodyTooLarge);
    }
    let length = announced.upper().unwrap_or(most as u64);
    let limit = timeouts.head + Duration::from_secs(length / LEAST_RATE);
    let shares = [visit.shared.held_bodies.share(), signed.budget().share()];
    let held = body.hold(most, shares, timeouts.idle, |piece| verifier.update(piece));
    let held = tokio::time::timeout(limit, held).await.unwrap_or(Err(HoldError::Idle));
    held.map_err(|why| match why {
        HoldError::TooLarge => Failure::BodyTooLarge,
        HoldError::NoRoom => Failure::AccessBusy,
        HoldError::Idle => Failure::RequestTimeout,
        HoldError::Broken => Failure::BadRequest,
    })
}
