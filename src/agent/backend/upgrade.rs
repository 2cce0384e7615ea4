//! Upgraded connections to backends, over either version of HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::agent::backend::body::ResponseBody;
use crate::agent::backend::error::BackendError;
use crate::agent::backend::local::http1::Connection;
use crate::agent::backend::local::http2::Dedicated;

/// An upgrade to which the backend has agreed.
pub(in crate::agent) enum PendingUpgrade {
    /// Over the agent's own HTTP/1.1 client. `None` if the body has ended, and the connection with it.
    Http1(Option<Connection>),
    /// Over hyper: HTTP/2, or a service in this process.
    Hyper(OnUpgrade, Option<Dedicated>),
    /// The backend cannot upgrade.
    Impossible,
}

impl PendingUpgrade {
    /// Takes the upgrade out of a response.
    pub(in crate::agent) fn of(response: Response<ResponseBody>) -> (Response<()>, Self) {
        let (mut head, body) = response.into_parts();
        let upgrade = match body {
            ResponseBody::Http1(body) => Self::Http1(body.into_connection()),
            ResponseBody::Hyper(_) => {
                let mut response = Response::from_parts(head, ());
                let upgrade = hyper::upgrade::on(&mut response);
                head = response.into_parts().0;
                Self::Hyper(upgrade, head.extensions.remove())
            }
            ResponseBody::InProcess(_) => Self::Impossible,
        };
        (Response::from_parts(head, ()), upgrade)
    }

    /// Waits until the connection is upgraded.
    ///
    /// # Errors
    /// The connection broke, or the backend cannot upgrade it.
    pub(in crate::agent) async fn connection(self) -> Result<UpgradedConnection, BackendError> {
        match self {
            Self::Http1(connection) => {
                connection.map(UpgradedConnection::Http1).ok_or_else(|| BackendError::broken("it is gone"))
            }
            Self::Hyper(upgrade, dedicated) => {
                Ok(UpgradedConnection::Hyper(CutUnlessEnded(dedicated), TokioIo::new(upgrade.await?)))
            }
            Self::Impossible => Err(BackendError::broken("it upgrades the connection without a request to do so")),
        }
    }
}

/// A connection after its upgrade.
pub(in crate::agent) enum UpgradedConnection {
    Http1(Connection),
    /// The order of the fields matters: the one dropped first decides how the other one ends.
    Hyper(CutUnlessEnded, TokioIo<Upgraded>),
}

/// Resets a stream that is dropped before it has ended; the library alone would end it normally.
pub(in crate::agent) struct CutUnlessEnded(Option<Dedicated>);

impl Drop for CutUnlessEnded {
    fn drop(&mut self) {
        if let Some(dedicated) = &self.0 {
            dedicated.stream.cut_now();
        }
    }
}

impl UpgradedConnection {
    /// Resets an incomplete stream, so that the application sees the error. Waits up to `limit` for written data to be sent.
    pub(in crate::agent) async fn reset(&mut self, limit: Duration) {
        match self {
            Self::Http1(connection) => connection.reset(limit).await,
            Self::Hyper(CutUnlessEnded(Some(dedicated)), _) => dedicated.stream.cut(limit).await,
            Self::Hyper(CutUnlessEnded(None), _) => {}
        }
    }

    /// Records that both directions have ended, so that dropping the connection ends it normally.
    pub(in crate::agent) fn ended(mut self) {
        if let Self::Hyper(unless, _) = &mut self {
            unless.0 = None;
        }
    }
}

impl AsyncRead for UpgradedConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(connection) => Pin::new(connection).poll_read(cx, buffer),
            Self::Hyper(_, connection) => Pin::new(connection).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for UpgradedConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http1(connection) => Pin::new(connection).poll_write(cx, bytes),
            Self::Hyper(_, connection) => Pin::new(connection).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(connection) => Pin::new(connection).poll_flush(cx),
            Self::Hyper(_, connection) => Pin::new(connection).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(connection) => Pin::new(connection).poll_shutdown(cx),
            Self::Hyper(_, connection) => Pin::new(connection).poll_shutdown(cx),
        }
    }
}
