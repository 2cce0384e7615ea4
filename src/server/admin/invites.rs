//! The endpoints for invitations.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::IntoResponse;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::client_editor::ClientEditor;
use super::clients::{ClaimText, texts};
use super::components::InvitePin;
use super::error::{ApiError, ErrorView};
use super::extract::{InPath, InQuery, MaybeInBody};
use super::page::{Page, PageQuery};
use super::refusals::{BadBody, Misread, NotFound, Refusals};
use crate::auth::InviteCode;
use crate::tenants::clients::Clients;
use crate::tenants::entry::InviteEntry;
use crate::tenants::entry_request::EntryRequest;
use crate::values::Secret;

/// How long an invitation is valid by default, as with `adit token invite`.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// An invitation, without its code.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Invite)]
pub(crate) struct InviteView {
    /// By what it is known.
    #[schema(pattern = "^[0-9a-f]{8}$")]
    key: String,
    /// Who is invited; `null`: whoever has the code chooses an id.
    id: Option<String>,
    /// The names that the new client may claim; empty: its id.
    names: Vec<String>,
    /// When it holds no more.
    #[schema(format = DateTime)]
    expires: String,
    /// Whether that is over.
    expired: bool,
}

/// An invitation to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddInvite {
    /// Who is invited. Default: whoever has the code chooses an id.
    #[schema(pattern = "^(?!health$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", examples("bob"))]
    id: Option<String>,
    /// Only together with an id, which is the default.
    #[schema(min_items = 1, value_type = Option<Vec<ClaimText>>, examples(json!(["bob", "shop"])))]
    names: Option<Vec<String>>,
    /// Default: in a day.
    #[schema(format = DateTime, examples("2099-01-01T00:00:00Z"))]
    expires: Option<String>,
}

/// An invitation and its code, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InviteWithCode)]
pub(crate) struct InviteWithCode {
    invite: InviteView,
    /// What the invited one gives to `adit login --invite`.
    #[schema(value_type = String, format = Password)]
    code: Secret,
}

fn view(key: String, entry: &InviteEntry) -> InviteView {
    InviteView {
        key,
        id: entry.id.as_ref().map(ToString::to_string),
        names: texts(&entry.names),
        expires: entry.expires.to_string(),
        expired: entry.has_expired(Timestamp::now()),
    }
}

/// Lists the invitations
#[utoipa::path(
    get, path = "/api/v1/invites", tag = "invites", operation_id = "list_invites", params(PageQuery),
    responses((status = 200, body = Page<InviteView>), Refusals, Misread),
)]
pub(crate) async fn list(
    State(clients): State<Arc<Clients>>,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<InviteView>>, ApiError> {
    query.page(clients.invites(), |(key, _)| key.clone(), |(key, entry)| Some(view(key, &entry)))
}

/// Invites somebody
///
/// The code is in the answer, this once. Whoever redeems it becomes a client and gets a token.
#[utoipa::path(
    post, path = "/api/v1/invites", tag = "invites", operation_id = "add_invite", request_body = Option<AddInvite>,
    responses(
        (status = 201, body = InviteWithCode),
        (status = 409, body = ErrorView, description = "Somebody has that id or one of the names, or is invited for them"),
        Refusals, BadBody,
    ),
)]
pub(crate) async fn add(
    change: Change,
    State(clients): State<Arc<Clients>>,
    State(editor): State<ClientEditor>,
    State(InvitePin(pin)): State<InvitePin>,
    MaybeInBody(body): MaybeInBody<AddInvite>,
) -> Result<impl IntoResponse, ApiError> {
    let AddInvite { id, names, expires } = body.unwrap_or_default();
    let target = id.clone().unwrap_or_default();
    let work = async move {
        let now = Timestamp::now();
        let end = now.as_second().saturating_add_unsigned(LIFETIME.as_secs());
        let by_default = Timestamp::from_second(end).unwrap_or(Timestamp::MAX);
        let request = EntryRequest { id, names, expires, ..EntryRequest::default() };
        let invite = request.invite(now, by_default).map_err(ApiError::invalid)?;
        let code = InviteCode::generate(pin, invite.id.as_ref()).map_err(|error| ApiError::failed(&error))?;
        let invite = InviteEntry { code_hash: code.digest(), ..invite };
        let key = editor.edit(move |file| file.add_invite(&invite)).await?;
        let gone =
            || ApiError::conflict("the invitation was removed, or the clients file was broken, at the same time");
        let entry = clients.invites().remove(&key).ok_or_else(gone)?;
        Ok(InviteWithCode { invite: view(key, &entry), code: code.into() })
    };
    let added = change.run("invite.add", &target, work).await?;
    Ok((StatusCode::CREATED, Json(added)))
}

/// Ends an invitation
#[utoipa::path(
    delete, path = "/api/v1/invites/{key}", tag = "invites", operation_id = "remove_invite",
    params(("key" = String, Path, description = "The invitation's key")),
    responses(
        (status = 204),
        (status = 409, body = ErrorView, description = "The clients file cannot be used as it is"),
        Refusals, Misread, NotFound,
    ),
)]
pub(crate) async fn remove(
    change: Change,
    State(editor): State<ClientEditor>,
    InPath(key): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let target = key.clone();
    let work = async move { editor.edit(move |file| file.revoke_invite(&key)).await };
    change.remove("invite.remove", &target, work).await
}
