//! Graceful shutdown: the server accepts nothing new, and in-flight requests end.

use std::time::Duration;

use tokio::time::timeout;

use crate::protocol::control::Control;
use crate::server::directory::tunnel::RetireReason;
use crate::server::ingress::observe::live_requests::LiveRequest;
use crate::server::lifecycle::Lifecycle;

/// How long connections may take to close after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the export of the last spans may take. The whole shutdown stays within the stop timeout of the systemd unit.
const SPAN_EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of cut requests that the log lists.
const MAX_LOGGED: usize = 20;

/// The result of a graceful shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// How many requests and raw connections were cut when the drain timeout ended.
    pub requests_cut: usize,
}

impl Lifecycle {
    /// Drains the server: waits up to the drain timeout for in-flight requests, then cuts the rest.
    pub(crate) async fn drain(&self) -> Drained {
        let limit = self.settings().config.tunnel.drain_timeout;
        self.runtime.shutdown.stop.cancel();
        self.runtime.tasks.all.close();
        self.runtime.tasks.visitors.close();
        let tunnels = self.directory.registry.all();
        tracing::info!(
            tunnels = tunnels.len(),
            requests = self.runtime.tasks.exchanges.len(),
            "shutting down; open requests may take {limit:?}, a second signal ends them now"
        );
        for lane in tunnels.iter().flat_map(|tunnel| tunnel.lanes()) {
            lane.notify(Control::Draining { deadline_s: limit.as_secs_f64() });
        }
        let in_time = timeout(limit, self.runtime.tasks.visitors.wait()).await.is_ok();
        let requests_cut = if in_time { 0 } else { self.runtime.tasks.exchanges.len() };
        self.log_cut_requests(requests_cut);
        self.runtime.shutdown.drained.cancel();
        // This includes agents whose login was in progress when the drain started.
        for tunnel in self.directory.registry.all() {
            tunnel.retire(RetireReason::Draining);
        }
        if !in_time || timeout(CLOSE_TIMEOUT, self.runtime.tasks.all.wait()).await.is_err() {
            self.runtime.shutdown.cut.cancel();
            // The remaining tasks end now, without waiting for a peer, and record their outcome in the log and the traces.
            let _ = timeout(CLOSE_TIMEOUT, async {
                tokio::join!(self.runtime.tasks.all.wait(), self.runtime.tasks.exchanges.wait())
            })
            .await;
        }
        self.ingress.traces.stop(SPAN_EXPORT_TIMEOUT).await;
        tracing::info!(requests_cut, "shut down");
        Drained { requests_cut }
    }

    /// Logs the requests that are about to be cut; `count` is their number.
    fn log_cut_requests(&self, count: usize) {
        if count == 0 {
            return;
        }
        let open = self.ingress.observers.live.ids(|_| true);
        for request in open.iter().take(MAX_LOGGED).filter_map(|id| self.ingress.observers.live.get(*id)) {
            let LiveRequest { id, client, name, method, path, visitor, started, received, sent, .. } = request;
            tracing::warn!(
                request = %id, %client, %name, method, path, %visitor, %started, received, sent,
                "cut: it was open still when the time to drain was over"
            );
        }
        if count > MAX_LOGGED {
            tracing::warn!("and {} more were cut", count - MAX_LOGGED);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::auth::LaneSecret;
    use crate::link::carriers::mux;
    use crate::link::carriers::mux::{MuxConfig, Side, WINDOW_GROWTH};
    use crate::schema::{Environment, Flags};
    use crate::server::Server;
    use crate::server::directory::authenticated::Authenticated;
    use crate::server::directory::tunnel::{Lane, Tunnel};
    use crate::server::options::ServerOptions;
    use crate::server::runtime::until_cut;
    use crate::tenants::clients::Clients;
    use crate::tenants::entry::ClientsFile;
    use crate::values::{InstanceId, LaneId, TunnelId};

    fn server(dir: &std::path::Path) -> Server {
        let flags = Flags::new()
            .with("tunnel.listen", "127.0.0.1:0")
            .with("public.http", "127.0.0.1:0")
            .with("admin.listen", "127.0.0.1:0")
            .with("tunnel.tls.dir", dir.to_str().unwrap());
        let config = ServerOptions::from_text(&dir.join("server.toml"), "", &Environment::default(), &flags).unwrap();
        let clients = ClientsFile::from_text(&dir.join("clients.toml"), "[clients]\n").unwrap();
        Server::bind(config, Clients::new(clients)).unwrap()
    }

    #[tokio::test]
    async fn a_login_that_ends_during_the_drain_is_drained_too() {
        let dir = tempfile::TempDir::new().unwrap();
        let lifecycle = server(dir.path()).lifecycle;
        let visitor_leaves = Arc::new(Notify::new());
        let left = Arc::clone(&visitor_leaves);
        lifecycle.runtime.tasks.visitors.spawn(async move { left.notified().await });
        let draining = async { lifecycle.drain().await };
        let late_login = async {
            lifecycle.runtime.shutdown.stop.cancelled().await;
            let login = Authenticated::for_tests("alice", InstanceId::random().unwrap(), &["alice"]);
            let (id, secret) = (TunnelId::random().unwrap(), LaneSecret::random().unwrap());
            let registration =
                lifecycle.directory.registry.register(login, |login| Tunnel::new(id, login, secret, 10)).unwrap();
            let (pipe, _far) = tokio::io::duplex(64);
            let config = MuxConfig { max_streams: 10, yield_first: false, window_growth: WINDOW_GROWTH };
            let (session, _driver) = mux::session(Box::new(pipe), Side::Server, config);
            let guard = registration.activate(Lane::new(LaneId::next(), session, 10, 1000).0).unwrap();
            visitor_leaves.notify_one();
            let mut retired = guard.tunnel().retired();
            timeout(Duration::from_secs(10), retired.wait_for(Option::is_some))
                .await
                .expect("nobody drained it")
                .unwrap()
                .clone()
        };
        let (drained, retired) = tokio::join!(draining, late_login);
        assert_eq!((drained, retired), (Drained { requests_cut: 0 }, Some(RetireReason::Draining)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_cut_is_over_before_the_server_is() {
        let dir = tempfile::TempDir::new().unwrap();
        let lifecycle = server(dir.path()).lifecycle;
        let exchange = lifecycle.runtime.tasks.exchanges.token();
        lifecycle.runtime.tasks.visitors.spawn(until_cut(lifecycle.runtime.shutdown.cut.clone(), async move {
            let _exchange = exchange;
            std::future::pending::<()>().await;
        }));
        assert_eq!(lifecycle.drain().await, Drained { requests_cut: 1 });
        assert!(lifecycle.runtime.tasks.exchanges.is_empty(), "nobody has written down how it ended");
    }
}
