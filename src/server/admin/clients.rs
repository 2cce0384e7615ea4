//! The endpoints for clients.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, FromRequestParts, State};
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::LOCATION;
use http::request::Parts;
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::change::Change;
use super::client_editor::ClientEditor;
use super::error::{ApiError, ErrorView, found};
use super::extract::{InBody, InPath, InQuery, MaybeInBody};
use super::page::{Page, PageQuery};
use super::refusals::{BadBody, Misread, NotFound, Refusals};
use crate::auth::Token;
use crate::limits::Allowance;
use crate::schema::Problem;
use crate::server::directory::client_usage::allowance_of;
use crate::server::directory::registry::Registry;
use crate::server::settings::Settings;
use crate::tenants::clients::Clients;
use crate::tenants::entry::ClientEntry;
use crate::tenants::entry_request::EntryRequest;
use crate::tenants::list_change::ListItem;
use crate::values::{ClientId, Secret};

/// How long the previous token stays valid by default, as with `adit token rotate`.
const OVERLAP_S: u64 = 24 * 60 * 60;
const MOST_OVERLAP_S: u64 = 365 * 24 * 60 * 60;

/// A client, without anything secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Client)]
pub(crate) struct ClientView {
    #[schema(examples("alice"))]
    id: String,
    /// The names it may claim; `*.alice`: and every host below that name.
    names: Vec<String>,
    /// The domains its services may have.
    domains: Vec<String>,
    /// The public ports its services may have: `20000-20010`, or one.
    tcp_ports: Vec<String>,
    /// When it may no longer log in.
    #[schema(format = DateTime)]
    expires: Option<String>,
    /// Whether that is over.
    expired: bool,
    /// Until when its previous token holds, if it was rotated.
    #[schema(format = DateTime)]
    previous_until: Option<String>,
    limits: LimitsView,
    /// The ids of its tunnels.
    tunnels: Vec<String>,
}

/// What a client may use, over all its tunnels: its own limits, or the server's defaults. `null`: no limit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limits)]
pub(crate) struct LimitsView {
    /// Requests a second, in the long run.
    requests_per_second: Option<u32>,
    /// Requests at once before that rate counts; `null`: a second's worth.
    burst: Option<u32>,
    /// Requests being served at once.
    streams: Option<u64>,
}

/// A client to add. What is left out gets the default of the clients file.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddClient {
    /// 1 to 63 of `a-z`, `0-9` and `-`, not at either end; `health` is reserved.
    #[schema(pattern = "^(?!health$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", examples("alice"))]
    id: String,
    /// Default: its id.
    #[schema(min_items = 1, value_type = Option<Vec<ClaimText>>, examples(json!(["alice", "blog", "*.blog"])))]
    names: Option<Vec<String>>,
    #[schema(value_type = Option<Vec<DomainText>>, examples(json!(["blog.alice.example"])))]
    domains: Option<Vec<String>>,
    #[schema(value_type = Option<Vec<PortsText>>, examples(json!(["20000-20010", "25565"])))]
    tcp_ports: Option<Vec<String>>,
    /// Default: never.
    #[schema(format = DateTime, examples("2099-01-01T00:00:00Z"))]
    expires: Option<String>,
}

/// A name, or all hosts below one.
#[derive(ToSchema)]
#[schema(as = Claim, value_type = String, pattern = r"^(\*\.)?(?!health$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
#[expect(dead_code, reason = "describes a text")]
pub(crate) struct ClaimText(String);

/// A host name of at least two labels, or `*.` and one.
#[derive(ToSchema)]
#[schema(
    as = Domain,
    value_type = String,
    max_length = 253,
    pattern = r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
)]
#[expect(dead_code, reason = "describes a text")]
pub(crate) struct DomainText(String);

/// A range of ports, or one: 1 to 65535.
#[derive(ToSchema)]
#[schema(as = Ports, value_type = String, pattern = r"^[1-9][0-9]{0,3}(-[1-5][0-9]{4})?$")]
#[expect(dead_code, reason = "describes a text")]
pub(crate) struct PortsText(String);

/// A client and its token, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ClientWithToken)]
pub(crate) struct ClientWithToken {
    client: ClientView,
    /// What its agents log in with. The server keeps a hash of it alone.
    #[schema(value_type = String, format = Password)]
    token: Secret,
}

/// How to rotate a token.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateToken {
    /// Seconds for which the token from before holds on; 0 ends it at once. Default: a day.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    overlap_s: Option<u64>,
}

/// A whole number, however it is written: to JSON, 17.0 is one (JSON Schema, section 6.3.1 of its validation).
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let written_as_fraction = || {
        let value = number.as_f64().filter(|value| value.fract() == 0.0 && (0.0..1e15).contains(value))?;
        Some(value as u64)
    };
    let whole = number.as_u64().or_else(written_as_fraction);
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a whole number of seconds")))
}

/// What a client's entry and its tunnels look like to the API.
#[derive(Debug)]
pub(crate) struct ClientViews {
    clients: Arc<Clients>,
    registry: Arc<Registry>,
    settings: Arc<Settings>,
}

impl<S: Send + Sync> FromRequestParts<S> for ClientViews
where
    Arc<Clients>: FromRef<S>,
    Arc<Registry>: FromRef<S>,
    Arc<Settings>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let (clients, registry, settings) =
            (FromRef::from_ref(state), FromRef::from_ref(state), FromRef::from_ref(state));
        Ok(Self { clients, registry, settings })
    }
}

impl ClientViews {
    fn of_entry(&self, id: ClientId, entry: &ClientEntry) -> ClientView {
        let now = Timestamp::now();
        let Allowance { requests_per_second, burst, streams, is_strict: _ } =
            allowance_of(entry.limits, self.settings.config.limits.per_client);
        ClientView {
            names: texts(&entry.names),
            domains: texts(&entry.domains),
            tcp_ports: texts(&entry.tcp_ports),
            expires: entry.expires.map(|end| end.to_string()),
            expired: entry.has_expired(now),
            previous_until: entry.overlapping(now).map(|previous| previous.until.to_string()),
            limits: LimitsView {
                requests_per_second: requests_per_second.map(u32::from),
                burst: burst.map(u32::from),
                streams: streams.map(|streams| streams as u64),
            },
            tunnels: self.registry.tunnels_of(&id).iter().map(|tunnel| tunnel.id().to_string()).collect(),
            id: id.to_string(),
        }
    }

    fn of(&self, id: ClientId) -> Option<ClientView> {
        let entry = self.clients.entry(&id)?;
        Some(self.of_entry(id, &entry))
    }

    /// Returns the response to a change: the client as it is now.
    fn with_token(&self, id: ClientId, token: Token) -> Result<ClientWithToken, ApiError> {
        let gone = || ApiError::conflict("the client was removed, or the clients file was broken, at the same time");
        Ok(ClientWithToken { client: self.of(id).ok_or_else(gone)?, token: token.into() })
    }
}

/// Returns the items of a list as they are written in the clients file.
pub(crate) fn texts<T: ListItem>(items: &[T]) -> Vec<String> {
    items.iter().map(T::text).collect()
}

/// Parses an id from a path. A text that cannot be an id is not found.
fn parse_id(id: &str) -> Result<ClientId, ApiError> {
    found("client", ClientId::new(id).ok())
}

/// Lists the clients
#[utoipa::path(
    get, path = "/api/v1/clients", tag = "clients", operation_id = "list_clients", params(PageQuery),
    responses((status = 200, body = Page<ClientView>), Refusals, Misread),
)]
pub(crate) async fn list(
    views: ClientViews,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<ClientView>>, ApiError> {
    query.page(views.clients.ids(), ClientId::to_string, |id| views.of(id))
}

/// Shows a client
#[utoipa::path(
    get, path = "/api/v1/clients/{id}", tag = "clients", operation_id = "get_client",
    params(("id" = String, Path, description = "The client's id")),
    responses((status = 200, body = ClientView), Refusals, Misread, NotFound),
)]
pub(crate) async fn get(views: ClientViews, InPath(id): InPath<String>) -> Result<Json<ClientView>, ApiError> {
    found("client", views.of(parse_id(&id)?)).map(Json)
}

/// Adds a client
///
/// The rules are those of the clients file, into which it is written. Its token is in the answer, this once.
#[utoipa::path(
    post, path = "/api/v1/clients", tag = "clients", operation_id = "add_client", request_body = AddClient,
    responses(
        (status = 201, body = ClientWithToken, headers(("location" = String, description = "The client"))),
        (status = 409, body = ErrorView, description = "Somebody has that id, or one of the names, domains or ports"),
        Refusals, BadBody,
    ),
)]
pub(crate) async fn add(
    change: Change,
    views: ClientViews,
    State(editor): State<ClientEditor>,
    InBody(body): InBody<AddClient>,
) -> Result<impl IntoResponse, ApiError> {
    let id = body.id.clone();
    let work = async move {
        let AddClient { id, names, domains, tcp_ports, expires } = body;
        let request = EntryRequest { id: Some(id), names, domains, tcp_ports, expires };
        let (id, entry) = request.client(Timestamp::now()).map_err(ApiError::invalid)?;
        // Checked first, because hashing is expensive.
        if views.clients.entry(&id).is_some() {
            return Err(ApiError::conflict(format!("the client `{id}` exists already")));
        }
        let (token, token_hash) = editor.fresh_token(&id).await?;
        let (added, entry) = (id.clone(), ClientEntry { token_hash: token_hash.into(), ..entry });
        editor.edit(move |file| file.add_client(&added, &entry)).await?;
        views.with_token(id, token)
    };
    let added = change.run("client.add", &id, work).await?;
    let location = format!("/api/v1/clients/{}", added.client.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(added)))
}

/// Removes a client
///
/// Its token holds no more, and its tunnels are cut.
#[utoipa::path(
    delete, path = "/api/v1/clients/{id}", tag = "clients", operation_id = "remove_client",
    params(("id" = String, Path, description = "The client's id")),
    responses(
        (status = 204),
        (status = 409, body = ErrorView, description = "The clients file cannot be used as it is"),
        Refusals, Misread, NotFound,
    ),
)]
pub(crate) async fn remove(
    change: Change,
    State(editor): State<ClientEditor>,
    InPath(id): InPath<String>,
) -> Result<StatusCode, ApiError> {
    let target = id.clone();
    let work = async move {
        let id = parse_id(&id)?;
        editor.edit(move |file| file.revoke_client(&id)).await
    };
    change.remove("client.remove", &target, work).await
}

/// Gives a client another token
///
/// It is in the answer, this once. The one from before holds on for `overlap_s`.
#[utoipa::path(
    post, path = "/api/v1/clients/{id}/rotate", tag = "clients", operation_id = "rotate_token",
    params(("id" = String, Path, description = "The client's id")),
    request_body = Option<RotateToken>,
    responses(
        (status = 200, body = ClientWithToken),
        (status = 409, body = ErrorView, description = "The clients file cannot be used as it is"),
        Refusals, NotFound, BadBody,
    ),
)]
pub(crate) async fn rotate(
    change: Change,
    views: ClientViews,
    State(editor): State<ClientEditor>,
    InPath(id): InPath<String>,
    MaybeInBody(body): MaybeInBody<RotateToken>,
) -> Result<Json<ClientWithToken>, ApiError> {
    let target = id.clone();
    let work = async move {
        let overlap_s = body.unwrap_or_default().overlap_s.unwrap_or(OVERLAP_S);
        if overlap_s > MOST_OVERLAP_S {
            let message = format!("is {overlap_s}, but must be between 0 and {MOST_OVERLAP_S}");
            return Err(ApiError::invalid(vec![Problem { key: "overlap_s".to_owned(), message }]));
        }
        let id = parse_id(&id)?;
        found("client", views.clients.entry(&id))?;
        let (token, token_hash) = editor.fresh_token(&id).await?;
        let (client, overlap) = (id.clone(), std::time::Duration::from_secs(overlap_s));
        editor.edit(move |file| file.rotate_token(&client, &token_hash, Some(overlap))).await?;
        views.with_token(id, token)
    };
    change.run("token.rotate", &target, work).await.map(Json)
}
