//! Serves an axum router through a tunnel, without a local port:
//! `cargo run --example axum -- tunnel.example.com:8080 alice adit_… [fingerprint]`.

use std::convert::Infallible;

use adit::sdk::Tunnel;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::response::Response;
use axum::routing::{get, post};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or(format!("missing argument: {what}"));
    let (server, client, token) = (next("server")?, next("client")?, next("token")?);

    let router = Router::new()
        .route("/", get(|| async { "hello from this process\n" }))
        .route("/greet/{name}", get(|Path(name): Path<String>| async move { format!("hello, {name}\n") }))
        .route("/echo", post(echo));

    let mut tunnel = Tunnel::connect(server, client, token);
    if let Ok(fingerprint) = next("fingerprint") {
        tunnel = tunnel.fingerprint(fingerprint);
    }
    let tunnel = tunnel.serve(router).await?;
    println!("serving {}; Ctrl-C stops it", tunnel.urls().join(" "));
    tokio::signal::ctrl_c().await?;
    tunnel.shutdown().await?;
    Ok(())
}

/// Streams the request's body back while it arrives.
async fn echo(request: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::new(request.into_body())))
}
