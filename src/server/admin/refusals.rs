//! What pages answer when they refuse, for their description: each page names what applies to it, once.
//!
//! `answer` makes these answers; here is only which statuses they have.

use utoipa::IntoResponses;

use super::error::ErrorView;

/// Of every page: no token or another one, and too many of either.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum Refusals {
    #[response(status = 401)]
    Unauthorized(ErrorView),
    #[response(status = 429)]
    TooManyRequests(ErrorView),
}

/// Of a page that reads its path or its query.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes an answer")]
pub(crate) enum Misread {
    #[response(status = 400)]
    BadRequest(ErrorView),
}

/// Of a page for something that may not be there.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes an answer")]
pub(crate) enum NotFound {
    #[response(status = 404)]
    NotFound(ErrorView),
}

/// Of a page that reads a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes answers")]
pub(crate) enum BadBody {
    #[response(status = 400)]
    BadRequest(ErrorView),
    #[response(status = 413)]
    TooLarge(ErrorView),
    #[response(status = 415)]
    UnsupportedMediaType(ErrorView),
    #[response(status = 422)]
    Invalid(ErrorView),
}
