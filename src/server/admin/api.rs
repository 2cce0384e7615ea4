//! The list of pages, and its description.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::components::{ApiDescription, Components};
use super::error::{self, ErrorView};
use super::refusals::Refusals;
use crate::server::admin::{
    Admin, BODY, clients, health, invites, log, on_demand_tls, reload_clients, requests, services, tunnels,
};

/// Where the description is.
pub(crate) const DESCRIPTION: &str = "/api/v1/openapi.json";

/// What is true of all pages.
#[derive(OpenApi)]
#[openapi(
    info(title = "adit admin", description = "Health, and the API for the operator's tools of an adit server."),
    security(("bearer" = [])),
    modifiers(&Bearer),
    components(schemas(ErrorView)),
    tags(
        (name = "watching", description = "For programs that watch, or stand in front. They need no token from the same machine."),
        (name = "clients", description = "Who may log in."),
        (name = "invites", description = "Codes that buy a token, once."),
        (name = "tunnels", description = "Which agents are connected, and what they offer."),
        (name = "requests", description = "What visitors have open at the moment."),
        (name = "log", description = "What is logged."),
    ),
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let http = Http::builder()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The admin token: what is in the file that `admin.token_file` names."))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(http));
    }
}

/// Describes all of it, as OpenAPI
#[utoipa::path(
    get, path = DESCRIPTION, tag = "watching", operation_id = "describe", security((), ("bearer" = [])),
    responses((status = 200, body = Object, content_type = "application/json"), Refusals),
)]
async fn describe(State(ApiDescription(text)): State<ApiDescription>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], text)
}

fn pages() -> OpenApiRouter<Components> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(on_demand_tls::ask))
        .routes(routes!(describe))
        .routes(routes!(clients::list, clients::add))
        .routes(routes!(clients::get, clients::remove))
        .routes(routes!(clients::rotate))
        .routes(routes!(reload_clients::reload_clients))
        .routes(routes!(invites::list, invites::add))
        .routes(routes!(invites::remove))
        .routes(routes!(tunnels::list))
        .routes(routes!(tunnels::get, tunnels::disconnect))
        .routes(routes!(services::list))
        .routes(routes!(requests::list))
        .routes(routes!(requests::cut))
        .routes(routes!(log::get, log::change))
}

/// Every page, ready to answer for `admin`.
pub(crate) fn router(admin: &Arc<Admin>) -> Router {
    let (router, description) = pages().split_for_parts();
    // What is derived from types can always be written; an empty page would say so.
    let text = description.to_json().unwrap_or_default();
    let _: Result<(), Bytes> = admin.description.set(Bytes::from(text));
    router
        .fallback(error::no_such_page)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(Components(Arc::clone(admin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_says_what_it_answers_and_what_it_needs() {
        let (_, description) = pages().split_for_parts();
        let text = serde_json::to_value(&description).unwrap();
        let paths = text["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 17);
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().unwrap() {
                let place = format!("{method} {path}");
                assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{place}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("401") && responses.contains_key("429"), "{place}");
                let is_open = operation["security"][0] == serde_json::json!({});
                assert_eq!(is_open, operation["tags"][0] == "watching", "{place}");
            }
        }
        assert_eq!(text["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    }

    #[test]
    fn every_page_that_the_documents_name_is_there() {
        let (_, description) = pages().split_for_parts();
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let documents = files.filter(|path| path.extension().is_some_and(|end| end == "md"));
        let texts: String = documents.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let ends = |letter: char| !letter.is_ascii_alphanumeric() && !"/{}_.".contains(letter);
        let named: Vec<&str> = texts.split("/api/v1/").skip(1).filter_map(|rest| rest.split(ends).next()).collect();
        assert!(named.len() > 20, "{named:?}");
        let fits = |path: &str, named: &str| {
            let (path, named): (Vec<_>, Vec<_>) = (path.split('/').collect(), named.split('/').collect());
            path.len() == named.len()
                && path.iter().zip(&named).all(|(page, part)| page == part || page.starts_with('{'))
        };
        for name in named.iter().map(|name| name.trim_end_matches('.')).filter(|name| !name.is_empty()) {
            let page = format!("/api/v1/{name}");
            assert!(description.paths.paths.keys().any(|path| fits(path, &page)), "{page} is in the documents alone");
        }
    }
}
