use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn span() -> SpanData {
    let now = std::time::SystemTime::now();
    SpanData {
        span_context: SpanContext::NONE,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "GET".into(),
        start_time: now,
        end_time: now,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

/// Exports as the SDK does: from a thread without a runtime.
async fn export(exporter: &Arc<Exporter>, batch: Vec<SpanData>) {
    let (exporter, runtime) = (Arc::clone(exporter), Handle::current());
    tokio::task::spawn_blocking(move || runtime.block_on(exporter.export(batch))).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_collector_that_is_away_is_worth_a_line_and_not_each_time() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let exporter = Arc::new(Exporter::new(&format!("http://{nobody}")).unwrap());
    export(&exporter, vec![span(), span()]).await;
    let said = {
        let trouble = exporter.trouble.lock();
        assert!(trouble.why.contains("refused"), "{}", trouble.why);
        assert_eq!(trouble.lost, 0, "they were told of");
        trouble.said.unwrap()
    };
    export(&exporter, vec![span(), span(), span()]).await;
    {
        let mut trouble = exporter.trouble.lock();
        assert_eq!((trouble.lost, trouble.said), (3, Some(said)));
        trouble.said = Instant::now().checked_sub(SAY_AGAIN);
    }
    export(&exporter, vec![span()]).await;
    assert_eq!(exporter.trouble.lock().lost, 0, "a minute later they were told of, too");
}

/// A collector that counts its connections, and answers with so many bytes.
async fn collector(tls: Option<TlsAcceptor>, length: usize, connections: Arc<AtomicUsize>) -> Uri {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (scheme, port) = (if tls.is_some() { "https" } else { "http" }, listener.local_addr().unwrap().port());
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            let service = service_fn(move |request: Request<Incoming>| async move {
                let is_last = request.uri().path() == "/last";
                let mut answer = Response::new(Full::new(Bytes::from(vec![0; length])));
                if is_last {
                    answer.headers_mut().insert("connection", HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            });
            let http = http1::Builder::new();
            let _ = match &tls {
                None => http.serve_connection(TokioIo::new(socket), service).await,
                Some(tls) => match tls.accept(socket).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => continue,
                },
            };
        }
    });
    format!("{scheme}://localhost:{port}/v1/traces").parse().unwrap()
}

fn batch(uri: &Uri, path: &str) -> Request<Bytes> {
    let uri = uri.to_string().replace("/v1/traces", path);
    Request::post(uri).body(Bytes::from_static(b"spans")).unwrap()
}

#[tokio::test]
async fn a_connection_is_kept_until_the_collector_closes_it() {
    let connections = Arc::new(AtomicUsize::new(0));
    let uri = collector(None, 3, Arc::clone(&connections)).await;
    let (wire, tasks) = (Wire::new(&uri).unwrap(), TaskTracker::new());
    for (path, used) in [("/v1/traces", 1), ("/v1/traces", 1), ("/last", 1), ("/v1/traces", 2)] {
        let answer = wire.exchange(batch(&uri, path), &tasks).await.unwrap();
        assert_eq!((answer.into_body().len(), connections.load(Ordering::Relaxed)), (3, used), "{path}");
        if path == "/last" {
            tasks.close();
            tasks.wait().await;
            tasks.reopen();
        }
    }
}

#[tokio::test]
async fn an_answer_has_its_bound() {
    let uri = collector(None, LONGEST_ANSWER + 1, Arc::default()).await;
    let error = Wire::new(&uri).unwrap().exchange(batch(&uri, "/"), &TaskTracker::new()).await.unwrap_err();
    assert!(error.to_string().contains("length limit"), "{error}");
}

#[tokio::test]
async fn a_collector_behind_tls_has_to_be_who_it_should_be() {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let uri = collector(Some(TlsAcceptor::from(Arc::new(config))), 0, Arc::default()).await;
    let mut wire = Wire::new(&uri).unwrap();
    let tasks = TaskTracker::new();
    let error = wire.exchange(batch(&uri, "/"), &tasks).await.unwrap_err();
    assert!(whole(&*error).contains("certificate"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    let trusting = tls::local_client(&LocalTrust::CaFile(file), &[tls::HTTP1]).unwrap();
    wire.tls = Some((TlsConnector::from(trusting), "localhost".try_into().unwrap()));
    assert!(wire.exchange(batch(&uri, "/"), &tasks).await.unwrap().status().is_success());
}
