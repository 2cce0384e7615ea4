//! The errors of the API: the one place that turns a failure into a status and a JSON body with a stable code.

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use crate::schema::{ConfigErrors, Problem};
use crate::tenants::edit_error::EditError;

/// Why a request of the operator's was not done. `docs/admin.md` lists them.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    problems: Vec<ProblemView>,
    hint: Option<Hint>,
}

/// What a refusal says in its head.
#[derive(Debug, Clone, Copy)]
enum Hint {
    /// How to show a token (RFC 6750, section 3).
    Challenge(&'static str),
    /// After how many seconds another try is worth it.
    RetryAfter(u64),
}

/// A refusal, as it is sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorView {
    /// A stable word, for programs.
    #[schema(examples("not_found"))]
    error: &'static str,
    /// For people.
    message: String,
    /// What is wrong with each value, if several were looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<ProblemView>,
}

/// What is wrong with one value.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemView {
    /// Where: `names[0]`, or a key path of the clients file. Empty: all of it.
    key: String,
    /// What is wrong, and what to do.
    message: String,
}

impl From<Problem> for ProblemView {
    fn from(Problem { key, message }: Problem) -> Self {
        Self { key, message }
    }
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), problems: Vec::new(), hint: None }
    }

    fn with(self, hint: Hint) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// There is no `what` with this id.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// What is asked for stands against what is there.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// Values that break rules.
    pub(crate) fn invalid(problems: Vec<Problem>) -> Self {
        let problems = problems.into_iter().map(ProblemView::from).collect();
        let refused = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "some values cannot be taken");
        Self { problems, ..refused }
    }

    /// A query that cannot be understood.
    pub(crate) fn bad_query(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_query", message)
    }

    /// No token, where one is needed.
    pub(crate) fn token_needed() -> Self {
        let message = "this needs the admin token: `Authorization: Bearer adit_admin_…`";
        let refused = Self::new(StatusCode::UNAUTHORIZED, "token_needed", message);
        refused.with(Hint::Challenge("Bearer realm=\"adit admin\""))
    }

    /// Another token than the right one (RFC 6750, section 3.1).
    pub(crate) fn bad_token() -> Self {
        let refused = Self::new(StatusCode::UNAUTHORIZED, "bad_token", "this is not the admin token of this server");
        refused.with(Hint::Challenge("Bearer realm=\"adit admin\", error=\"invalid_token\""))
    }

    /// So many wrong tokens that nobody looks at the next one for some seconds.
    pub(crate) fn too_many_failures(seconds: u64) -> Self {
        let message = "too many wrong tokens from this address; try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", message).with(Hint::RetryAfter(seconds))
    }

    /// As many changes as there may be are under way.
    pub(crate) fn busy() -> Self {
        let message = "too many changes are under way; try again in a second";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).with(Hint::RetryAfter(1))
    }

    /// The clients file is not valid; the server keeps the previous version.
    pub(crate) fn unusable_file(errors: ConfigErrors) -> Self {
        let problems = errors.problems.into_iter().map(ProblemView::from).collect();
        Self { problems, ..Self::conflict("the clients file is not valid; the server keeps the previous version") }
    }

    /// It took too long.
    pub(crate) fn timeout() -> Self {
        let message = "this took too long; a change that was begun is still made";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// The server could not do it. The log has more.
    pub(crate) fn failed(why: &dyn std::fmt::Display) -> Self {
        tracing::error!("a request to the admin API failed: {why}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the server could not do this; its log says why")
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, code, message, problems, hint } = self;
        let headers = HeaderMap::from_iter(hint.map(|hint| match hint {
            Hint::Challenge(how) => (WWW_AUTHENTICATE, HeaderValue::from_static(how)),
            Hint::RetryAfter(seconds) => (RETRY_AFTER, HeaderValue::from(seconds)),
        }));
        (status, headers, Json(ErrorView { error: code, message, problems })).into_response()
    }
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::NoClient(_) => Self::not_found("client"),
            EditError::NoInvite(_) => Self::not_found("invitation"),
            EditError::ClientExists(id) => Self::conflict(format!("the client `{id}` exists already")),
            EditError::Invited { id, key } => {
                Self::conflict(format!("`{id}` is invited already, by the invitation {key}"))
            }
            EditError::InviteExists(_) => Self::conflict("there is such an invitation already; try again"),
            // What was asked for has passed by itself: it is what the file says beside it.
            EditError::Invalid(errors) | EditError::Refused(errors) => {
                let problems = errors.problems.into_iter().map(ProblemView::from).collect();
                let message = "the clients file as it is does not allow this; nothing was changed";
                Self { problems, ..Self::conflict(message) }
            }
            EditError::Io(error) => Self::failed(&error),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection {
            JsonRejection::JsonDataError(error) => {
                // What comes before the cause is of no use to who has sent it.
                let text = error.body_text();
                let message = text.split_once("target type: ").map_or(text.as_str(), |(_, cause)| cause).to_owned();
                Self::invalid(vec![Problem { key: String::new(), message }])
            }
            JsonRejection::MissingJsonContentType(_) => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body has to be JSON: `Content-Type: application/json`",
            ),
            JsonRejection::BytesRejection(rejection) => rejection.into(),
            other => Self::new(StatusCode::BAD_REQUEST, "bad_json", other.body_text()),
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the body is larger than {} bytes", super::BODY);
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            }
            _ => Self::new(StatusCode::BAD_REQUEST, "bad_body", "the body broke off"),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_query(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(_: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_path", "the path is not UTF-8")
    }
}

/// The `what` that was looked for, unless there is no such one.
pub(crate) fn found<T>(what: &str, looked_for: Option<T>) -> Result<T, ApiError> {
    looked_for.ok_or_else(|| ApiError::not_found(what))
}

/// For whatever is no page.
pub(crate) async fn no_such_page(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_such_page", format!("there is no page `{}`", uri.path()))
}

/// For a page that is asked in a way it does not know. The router says in `Allow` which ones it knows.
pub(crate) async fn wrong_method(method: Method) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this page does not know {method}"))
}
