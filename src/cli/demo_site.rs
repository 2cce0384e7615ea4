//! The demo's local application: a page that says how it was reached.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::transport::listen::accept_loop;

/// Serves the page until `stop`.
pub(super) async fn serve(listener: TcpListener, port: u16, tasks: TaskTracker, stop: CancellationToken) {
    let until = stop.clone();
    let connections = move |socket, _| {
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, port)) });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
        let until = until.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                // A connection that breaks off is the agent's to report.
                _ = connection => {}
            }
        });
    };
    accept_loop(listener, stop, connections).await;
}

fn answer(request: &Request<Incoming>, port: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page(request, port))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn page(request: &Request<Incoming>, port: u16) -> String {
    let rows: String = sorted(request.headers())
        .iter()
        .map(|(name, value)| format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)))
        .collect();
    let (method, target) = (request.method(), escape(&request.uri().to_string()));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>It works: adit</title><style>{STYLE}</style></head>\n<body><main>\n\
         <h1>It works.</h1>\n\
         <p>You asked the <b>server</b> on its public port. It opened a stream in the TLS tunnel to the <b>agent</b>, \
         which asked this <b>local application</b>. Nothing but the agent can reach it from outside.</p>\n\
         <p class=\"way\"><span>you</span> &rarr; <span>server :{port}</span> &rarr; <span>agent</span> &rarr; \
         <span>this page</span></p>\n\
         <p>What arrived here: <code>{method} {target}</code></p>\n<table>\n{rows}</table>\n\
         </main></body></html>\n"
    )
}

fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut fields: Vec<_> = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    fields.sort();
    fields
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;font:1rem/1.6 system-ui,sans-serif;background:Canvas;color:CanvasText}\
main{max-width:44rem;margin:0 auto;padding:3rem 1.5rem}\
h1{font-size:2.5rem;margin:0 0 1rem}\
.way{margin:2rem 0}\
.way span{border:1px solid color-mix(in srgb,CanvasText 30%,transparent);border-radius:.5rem;padding:.35rem .75rem}\
code,td{font-family:ui-monospace,monospace;font-size:.9rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .75rem .3rem 0;border-bottom:1px solid color-mix(in srgb,CanvasText 12%,transparent);\
overflow-wrap:anywhere}\
th{font-weight:500;opacity:.7;white-space:nowrap}";
