//! Why a visitor does not get what it asked for, and the status, the stable code and the words for that.

use http::StatusCode;

use crate::limits::RetryAfter;
use crate::protocol::frame::{Reset, Status};
use crate::server::directory::tunnel::OpenFailure;
use crate::server::metrics::Limit;
use crate::server::metrics::failure_code::FailureCode;
use crate::values::Name;

/// Why a visitor does not get what it asked for. `docs/errors.md` lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No client has this name.
    UnknownName,
    /// The server has no such page of its own.
    NotFound,
    /// The server's front page, which does not exist: the message says that the server works.
    FrontPage,
    /// The server's own pages can only be read.
    MethodNotAllowed,
    /// The name is served, but not over HTTP.
    WrongKind,
    /// The name is listed, but no agent serves it now.
    TunnelOffline,
    /// As many streams as allowed are open.
    TunnelBusy,
    /// The agent answers nothing any more, though it is connected.
    TunnelStalled,
    /// The tunnel broke off before the answer began.
    TunnelLost,
    /// The agent does not offer the service.
    ServiceGone,
    /// The local application refuses connections.
    LocalUnreachable,
    /// The local application takes no connection in time.
    LocalTimeout,
    /// The local application broke off before its answer began, or speaks no HTTP.
    LocalBroken,
    /// The local application's answer did not begin in time.
    ResponseTimeout,
    /// The visitor stopped sending its request.
    RequestTimeout,
    /// The request cannot be understood, or could be understood in two ways.
    BadRequest,
    /// The head of the request is larger than the limit.
    HeadTooLarge,
    /// Too many requests from this address.
    RateLimited(RetryAfter),
    /// All visitors of this client together ask faster than they may.
    SiteRateLimited(RetryAfter),
    /// As many requests of this address as may be are open.
    AddressBusy,
    /// The memory for large request heads is used up: in all, of this address or of this client.
    HeadsBusy,
    /// The service refuses this visitor: its address is not allowed, or the shared secret is missing.
    Forbidden,
    /// The service of this name asks for a name and a password, and these are not the right ones.
    Unauthorized(Name),
    /// The body does not bear the signature that the service of this name asks for.
    BadSignature(Name),
    /// The body is larger than what is held to look at its signature.
    BodyTooLarge,
    /// Too many passwords or signatures are being looked at.
    AccessBusy,
    /// The operator has ended the request.
    CutByOperator,
}

impl Failure {
    /// What an agent's refusal of a stream means to the visitor.
    pub(crate) fn of_status(status: Status) -> Self {
        match status {
            Status::UnknownService => Self::ServiceGone,
            Status::TooManyStreams => Self::TunnelBusy,
            Status::Draining => Self::TunnelOffline,
            Status::Accepted | Status::Malformed => Self::TunnelLost,
        }
    }

    /// What an agent's reset means to the visitor.
    pub(crate) fn of_reset(reset: Reset) -> Self {
        match reset {
            Reset::LocalUnreachable => Self::LocalUnreachable,
            Reset::LocalTimeout => Self::LocalTimeout,
            Reset::LocalBroken | Reset::TooLarge => Self::LocalBroken,
            Reset::Exhausted => Self::TunnelBusy,
            Reset::Idle => Self::ResponseTimeout,
            Reset::RequestBroken => Self::BadRequest,
            Reset::Cancelled | Reset::Protocol => Self::TunnelLost,
        }
    }

    /// Whether the application cannot have seen anything of a request that ended so.
    pub(crate) fn is_before_the_application(&self) -> bool {
        matches!(
            self,
            Self::ServiceGone
                | Self::TunnelBusy
                | Self::TunnelOffline
                | Self::TunnelStalled
                | Self::LocalUnreachable
                | Self::LocalTimeout
        )
    }

    /// Returns the HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::UnknownName | Self::NotFound | Self::FrontPage => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::WrongKind => StatusCode::MISDIRECTED_REQUEST,
            Self::TunnelOffline
            | Self::TunnelBusy
            | Self::TunnelStalled
            | Self::HeadsBusy
            | Self::AccessBusy
            | Self::CutByOperator => StatusCode::SERVICE_UNAVAILABLE,
            Self::TunnelLost | Self::ServiceGone | Self::LocalUnreachable | Self::LocalBroken => {
                StatusCode::BAD_GATEWAY
            }
            Self::LocalTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited(_) | Self::SiteRateLimited(_) | Self::AddressBusy => StatusCode::TOO_MANY_REQUESTS,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unauthorized(_) | Self::BadSignature(_) => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    fn failure_code(&self) -> FailureCode {
        match self {
            Self::UnknownName => FailureCode::UnknownName,
            Self::NotFound | Self::FrontPage => FailureCode::NotFound,
            Self::MethodNotAllowed => FailureCode::MethodNotAllowed,
            Self::WrongKind => FailureCode::WrongKind,
            Self::TunnelOffline => FailureCode::TunnelOffline,
            Self::TunnelBusy => FailureCode::TunnelBusy,
            Self::TunnelStalled => FailureCode::TunnelStalled,
            Self::TunnelLost => FailureCode::TunnelLost,
            Self::ServiceGone => FailureCode::ServiceGone,
            Self::LocalUnreachable => FailureCode::LocalUnreachable,
            Self::LocalTimeout => FailureCode::LocalTimeout,
            Self::LocalBroken => FailureCode::LocalBroken,
            Self::ResponseTimeout => FailureCode::ResponseTimeout,
            Self::RequestTimeout => FailureCode::RequestTimeout,
            Self::BadRequest => FailureCode::BadRequest,
            Self::HeadTooLarge => FailureCode::HeadTooLarge,
            Self::RateLimited(_) => FailureCode::RateLimited,
            Self::SiteRateLimited(_) => FailureCode::SiteRateLimited,
            Self::AddressBusy => FailureCode::AddressBusy,
            Self::HeadsBusy => FailureCode::HeadsBusy,
            Self::Forbidden => FailureCode::Forbidden,
            Self::Unauthorized(_) => FailureCode::Unauthorized,
            Self::BadSignature(_) => FailureCode::BadSignature,
            Self::BodyTooLarge => FailureCode::BodyTooLarge,
            Self::AccessBusy => FailureCode::AccessBusy,
            Self::CutByOperator => FailureCode::CutByOperator,
        }
    }

    /// Returns the message that the visitor reads.
    pub(crate) fn message(&self) -> &'static str {
        match self {
            Self::UnknownName => "There is nothing at this address.",
            Self::NotFound => "There is no such page here.",
            Self::FrontPage => {
                "This is a tunnel server. There is no page here: the sites are at names below this address."
            }
            Self::MethodNotAllowed => "This page can only be read.",
            Self::WrongKind => "This name is not served over HTTP.",
            Self::TunnelOffline => "This site is not connected at the moment. Try again soon.",
            Self::TunnelBusy => "This site is very busy at the moment. Try again in a second.",
            Self::TunnelStalled => "The connection to this site has stalled. Try again soon.",
            Self::TunnelLost => "The connection to this site broke before it answered. Try again.",
            Self::ServiceGone => "This site is not offered any more.",
            Self::LocalUnreachable => "The way to this site is open, but its application cannot be reached.",
            Self::LocalTimeout => "The application behind this site does not take connections in time.",
            Self::LocalBroken => "The application behind this site broke off before it answered.",
            Self::ResponseTimeout => "The application behind this site did not answer in time.",
            Self::RequestTimeout => "The request did not arrive in time.",
            Self::BadRequest => "The request cannot be understood.",
            Self::HeadTooLarge => "The head of the request is too large.",
            Self::RateLimited(_) => "Too many requests from your address. Wait a moment.",
            Self::SiteRateLimited(_) => "This site gets more requests than it may. Wait a moment.",
            Self::AddressBusy => "Too many requests from your address are open at the moment. Try again in a second.",
            Self::HeadsBusy => "Too many requests with large header fields are waiting. Try again in a second.",
            Self::Forbidden => "This site does not let you in.",
            Self::Unauthorized(_) => "This site asks for a name and a password.",
            Self::BadSignature(_) => "The signature of the request is missing, wrong, too old, or was used before.",
            Self::BodyTooLarge => "The body of the request is too large.",
            Self::AccessBusy => "Too many visitors are being let in at the moment. Try again in a second.",
            Self::CutByOperator => "The operator of this server has ended the request.",
        }
    }

    /// Returns whether a browser should ask again by itself: the site may be back soon. Not after a rate limit, which that
    /// would only extend, and not after a request that the operator has ended.
    pub(crate) fn passes_soon(&self) -> bool {
        let status = self.status();
        (status == StatusCode::BAD_GATEWAY || status == StatusCode::SERVICE_UNAVAILABLE) && *self != Self::CutByOperator
    }

    /// Returns whether the agent's log explains the failure.
    pub(crate) fn is_in_the_agents_log(&self) -> bool {
        matches!(self.status(), StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
    }

    /// The limit that the visitor has come up against, if it is one.
    pub(crate) fn limit(&self) -> Option<Limit> {
        match self {
            Self::RateLimited(_) => Some(Limit::RatePerIp),
            Self::SiteRateLimited(_) => Some(Limit::RatePerClient),
            Self::TunnelBusy => Some(Limit::Streams),
            Self::AccessBusy => Some(Limit::Access),
            Self::AddressBusy => Some(Limit::StreamsPerIp),
            Self::HeadsBusy => Some(Limit::HeldHeads),
            _ => None,
        }
    }

    /// Returns the stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.failure_code().as_str()
    }

    /// Returns the place of the code, by which it is counted.
    pub(crate) fn number(&self) -> usize {
        self.failure_code() as usize
    }
}

impl From<OpenFailure> for Failure {
    fn from(failure: OpenFailure) -> Self {
        match failure {
            OpenFailure::Busy | OpenFailure::ClientBusy => Self::TunnelBusy,
            OpenFailure::Gone => Self::TunnelOffline,
            OpenFailure::Stalled => Self::TunnelStalled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &[&str] = FailureCode::TEXTS;

    fn code_number(code: &str) -> usize {
        CODES.iter().position(|known| *known == code).unwrap_or(0)
    }

    #[test]
    fn an_application_that_is_not_reached_may_be_running() {
        let failure = Failure::of_reset(Reset::LocalUnreachable);
        let words = failure.message();
        assert_eq!(failure.code(), "local_unreachable");
        assert!(words.contains("cannot be reached") && !words.contains("running"), "{words}");
    }

    #[test]
    fn an_agent_without_descriptors_is_busy() {
        let failure = Failure::of_reset(Reset::Exhausted);
        assert_eq!((failure.code(), failure.status()), ("tunnel_busy", StatusCode::SERVICE_UNAVAILABLE));
        assert!(failure.is_before_the_application(), "another agent may take the request");
    }

    #[test]
    fn each_code_of_the_documents_is_counted_by_its_name() {
        let text = include_str!("../../../../docs/errors.md").split("A gRPC client").next().unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let listed: Vec<&str> = rows.map(|(code, _)| code).collect();
        assert!(listed.len() > 20, "{listed:?}");
        for code in &listed {
            assert_ne!(code_number(code), 0, "{code} is not in CODES");
        }
        for code in &CODES[1..] {
            assert!(listed.contains(code), "{code} is not in docs/errors.md");
        }
        assert_eq!(code_number("of a later version"), 0);
    }
}
