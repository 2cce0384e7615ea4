use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::*;
use crate::telemetry::options::Ratio;

/// Long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);

async fn traces() -> (Traces, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    (Traces::start(&TracesOptions { endpoint, sample: Ratio::ALL }).unwrap(), listener)
}

// The tests have one thread: whoever blocked it would wait for what only it can do.

#[tokio::test]
async fn what_waits_is_exported_before_the_end() {
    let (traces, listener) = traces().await;
    let (sender, mut batches) = mpsc::unbounded_channel();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                sender.send(request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
            }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    });
    traces.begin(&HeaderMap::new(), |facts| facts.word("a", "begun here")).end(|facts| facts.word("b", "ended here"));
    // Dropped like a request that nobody waits for any more.
    drop(traces.begin(&HeaderMap::new(), |facts| facts.word("c", "dropped here")));
    traces.stop(PATIENCE).await;
    let batch = batches.try_recv().expect("nothing was exported");
    for word in ["begun here", "ended here", "dropped here"] {
        assert!(batch.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
    }
}

#[tokio::test]
async fn a_collector_that_does_not_answer_has_its_time_and_no_more() {
    let (traces, listener) = traces().await;
    drop(traces.begin(&HeaderMap::new(), |_| {}));
    let stopped = async {
        traces.stop(Duration::from_millis(100)).await;
        drop(traces);
    };
    timeout(PATIENCE / 2, stopped).await.expect("the end waits for the collector");
    drop(listener);
}

#[tokio::test]
async fn without_a_collector_there_is_nothing() {
    let traces = Traces::start(&TracesOptions { endpoint: None, sample: Ratio::ALL }).unwrap();
    let span = traces.begin(&HeaderMap::new(), |_| panic!("described"));
    let mut headers = HeaderMap::new();
    span.pass_on(&mut headers);
    assert!(headers.is_empty());
    span.end(|_| panic!("described"));
    traces.stop(PATIENCE).await;
}
