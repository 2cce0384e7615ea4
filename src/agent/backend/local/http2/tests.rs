//! Tests that connections to a host that is named do not last. Time is paused: it advances only where a test advances it, or
//! where all tasks wait.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::advance;

use super::*;
use crate::agent::options::LocalUrl;

/// An application that answers each request with the number of its connection. The answer to `/wait` has to be released.
async fn app(port: TcpListener, release: oneshot::Receiver<()>) {
    let (tasks, release) = (TaskTracker::new(), Arc::new(Mutex::new(Some(release))));
    for number in 1.. {
        let (socket, _) = port.accept().await.unwrap();
        // What it writes leaves at once: paused time would not acknowledge it.
        socket.set_nodelay(true).unwrap();
        let release = Arc::clone(&release);
        let answer = service_fn(move |request: Request<Incoming>| {
            let waits = if request.uri().path() == "/wait" { release.lock().take() } else { None };
            async move {
                if let Some(waits) = waits {
                    waits.await.unwrap();
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(number.to_string()))))
            }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tasks.spawn(server.serve_connection(TokioIo::new(socket), answer));
    }
}

async fn get(agent: &Http2, path: &str) -> String {
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(HOST, "app".parse().unwrap());
    let visitor: SocketAddr = ([192, 0, 2, 1], 1).into();
    let sent = agent.send(request, (visitor, visitor), None).await;
    let (response, _slot) = sent.map_err(|_| "no answer").unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// An agent of an application at `host`, and what releases the answer to `/wait`.
async fn agent_at(host: &str) -> (Http2, oneshot::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: LocalUrl = format!("h2c://{host}:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let (release, waits) = oneshot::channel();
    let tasks = TaskTracker::new();
    tasks.spawn(app(listener, waits));
    let dialler = Dialler::new(&url, None, Duration::from_secs(5)).unwrap();
    (Http2::new(dialler, None, tasks), release)
}

#[tokio::test(start_paused = true)]
async fn requests_that_go_on_resolve_a_name_again() {
    let (agent, release) = agent_at("localhost").await;
    assert_eq!(get(&agent, "/").await, "1");
    advance(Duration::from_secs(59)).await;
    let go_on = async {
        assert_eq!(get(&agent, "/").await, "1");
        advance(Duration::from_secs(1)).await;
        assert_eq!(get(&agent, "/").await, "2");
        release.send(()).unwrap();
    };
    // A request that is under way is not cut.
    let (waited, ()) = tokio::join!(get(&agent, "/wait"), go_on);
    assert_eq!((waited.as_str(), get(&agent, "/").await.as_str()), ("1", "2"));
}

#[tokio::test(start_paused = true)]
async fn an_address_does_not_change() {
    let (agent, _release) = agent_at("127.0.0.1").await;
    for _ in 0..5 {
        assert_eq!(get(&agent, "/").await, "1");
        advance(Duration::from_secs(60)).await;
    }
}
