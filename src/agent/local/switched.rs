//! The connection that an exchange has become, over either version of HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1::Connection;
use super::http2::Dedicated;
use super::{AnswerBody, LocalError};

/// A connection to be.
pub(in crate::agent) enum Switch {
    One(Option<Connection>),
    Two(OnUpgrade, Option<Dedicated>),
}

/// Takes it from the answer that has agreed to it.
pub(in crate::agent) fn of(response: Response<AnswerBody>) -> (Response<()>, Switch) {
    let (mut head, body) = response.into_parts();
    let switch = match body {
        AnswerBody::One(body) => Switch::One(body.into_connection()),
        AnswerBody::Two(_) => {
            let mut response = Response::from_parts(head, ());
            let upgrade = hyper::upgrade::on(&mut response);
            head = response.into_parts().0;
            Switch::Two(upgrade, head.extensions.remove())
        }
    };
    (Response::from_parts(head, ()), switch)
}

impl Switch {
    /// Waits until it is one.
    ///
    /// # Errors
    /// It has broken off.
    pub(in crate::agent) async fn connection(self) -> Result<Switched, LocalError> {
        match self {
            Self::One(connection) => connection.map(Switched::One).ok_or_else(|| LocalError::broken("it is gone")),
            Self::Two(upgrade, dedicated) => Ok(Switched::Two(CutUnlessEnded(dedicated), TokioIo::new(upgrade.await?))),
        }
    }
}

/// A connection.
pub(in crate::agent) enum Switched {
    One(Connection),
    /// The order of the fields matters: the one dropped first decides how the other one ends.
    Two(CutUnlessEnded, TokioIo<Upgraded>),
}

/// Resets a stream that is dropped before it has ended; the library alone would end it normally.
pub(in crate::agent) struct CutUnlessEnded(Option<Dedicated>);

impl Drop for CutUnlessEnded {
    fn drop(&mut self) {
        if let Some(dedicated) = &self.0 {
            dedicated.only.cut_now();
        }
    }
}

impl Switched {
    /// Resets an incomplete stream, so that the application sees the error. Waits up to `limit` for written data to be sent.
    pub(in crate::agent) async fn reset(&mut self, limit: Duration) {
        match self {
            Self::One(connection) => connection.reset(limit).await,
            Self::Two(CutUnlessEnded(Some(dedicated)), _) => dedicated.only.cut(limit).await,
            Self::Two(CutUnlessEnded(None), _) => {}
        }
    }

    /// Both directions have ended.
    pub(in crate::agent) fn ended(mut self) {
        if let Self::Two(unless, _) = &mut self {
            unless.0 = None;
        }
    }
}

impl AsyncRead for Switched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One(connection) => Pin::new(connection).poll_read(cx, buffer),
            Self::Two(_, connection) => Pin::new(connection).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Switched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::One(connection) => Pin::new(connection).poll_write(cx, bytes),
            Self::Two(_, connection) => Pin::new(connection).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One(connection) => Pin::new(connection).poll_flush(cx),
            Self::Two(_, connection) => Pin::new(connection).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::One(connection) => Pin::new(connection).poll_shutdown(cx),
            Self::Two(_, connection) => Pin::new(connection).poll_shutdown(cx),
        }
    }
}
