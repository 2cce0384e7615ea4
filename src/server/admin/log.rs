//! The endpoints that show and change what is logged.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::error::{ApiError, found};
use super::extract::InBody;
use super::refusals::{BadBody, NotFound, Refusals};
use crate::schema::Problem;
use crate::telemetry::LogLevel;
use crate::telemetry::options::log_level;

/// What is logged.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Log)]
pub(crate) struct LogView {
    /// Of the server's own lines.
    #[schema(pattern = "^(error|warn|info|debug|trace)$")]
    level: String,
    /// Whether each request has a line.
    access: bool,
}

impl LogView {
    fn of(log: &LogLevel) -> Self {
        let (level, access) = log.now();
        Self { level, access }
    }
}

/// What is to be logged from now on; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LogChange)]
pub(crate) struct LogChange {
    /// Of the server's own lines.
    #[serde(default)]
    #[schema(pattern = "^(error|warn|info|debug|trace)$")]
    level: Option<String>,
    /// Whether each request has a line.
    #[serde(default)]
    access: Option<bool>,
}

/// Says what is logged
#[utoipa::path(
    get, path = "/api/v1/log", tag = "log", operation_id = "get_log",
    responses((status = 200, body = LogView), Refusals, NotFound),
)]
pub(crate) async fn get(State(log): State<Option<LogLevel>>) -> Result<Json<LogView>, ApiError> {
    found("log", log).map(|log| Json(LogView::of(&log)))
}

/// Changes what is logged
///
/// From the next line on, until the server ends; the configuration stays as it is.
#[utoipa::path(
    put, path = "/api/v1/log", tag = "log", operation_id = "change_log", request_body = LogChange,
    responses((status = 200, body = LogView), Refusals, NotFound, BadBody),
)]
pub(crate) async fn change(
    State(log): State<Option<LogLevel>>,
    change: Change,
    InBody(wanted): InBody<LogChange>,
) -> Result<Json<LogView>, ApiError> {
    let log = found("log", log)?;
    let target = wanted.in_words();
    let work = async move {
        let (level, access) = log.now();
        let level = wanted
            .level
            .map_or(Ok(level), |level| log_level(&level))
            .map_err(|message| ApiError::invalid(vec![Problem { key: "level".to_owned(), message }]))?;
        if log.change(&level, wanted.access.unwrap_or(access)) {
            Ok(LogView::of(&log))
        } else {
            Err(ApiError::failed(&"the log is gone"))
        }
    };
    change.run("log.change", &target, work).await.map(Json)
}

impl LogChange {
    /// Formats the change for the audit log.
    fn in_words(&self) -> String {
        let level = self.level.iter().map(|level| format!("level={level}"));
        let access = self.access.iter().map(|access| format!("access={access}"));
        level.chain(access).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_says_in_words_what_is_changed() {
        let words = |text: &str| serde_json::from_str::<LogChange>(text).unwrap().in_words();
        assert_eq!(words(r#"{"access":true}"#), "access=true");
        assert_eq!(words(r#"{"level":"debug","access":false}"#), "level=debug access=false");
        assert_eq!(words("{}"), "");
    }
}
