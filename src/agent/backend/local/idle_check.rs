//! Checks whether an idle connection is still open and silent, before it is used again.
//!
//! The runtime learns of socket events only at intervals. An application may have closed an idle connection since the last
//! one, and a request sent then would be lost.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::agent::backend::local::dedicated_stream::DedicatedStream;
use crate::transport::streams::ResetCodes;

/// Returns whether the kernel has neither data nor the end of the connection for a socket.
pub(super) fn is_silent(socket: &impl AsFd) -> bool {
    look(socket).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Messages of TLS that an idle connection may bring: tickets, another key.
const RECORDS: usize = 16;

/// Like [`is_silent`], for TLS: processes TLS messages, and reports only application data and the end of the connection.
pub(super) fn is_silent_below_tls(socket: &impl AsFd, session: &mut ClientConnection) -> bool {
    let said_nothing = |session: &mut ClientConnection| {
        session
            .process_new_packets()
            .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
    };
    let socket = SockRef::from(socket);
    for _ in 0..RECORDS {
        if !said_nothing(session) {
            return false;
        }
        match session.read_tls(&mut &*socket) {
            Ok(1..) => {}
            Ok(0) => return false,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Returns whether a byte can be read (1), or the connection has ended (0).
fn look(socket: &impl AsFd) -> io::Result<usize> {
    SockRef::from(socket).peek(&mut [MaybeUninit::uninit()])
}

/// The socket of an HTTP/2 connection, whose end is seen before anything is sent on it.
///
/// Whoever finds it silent for the second time, with nothing read or written in between, which is what happens before a
/// kept connection is used again, is told of its end if the system knows of one: then the request goes on another
/// connection.
#[derive(Debug)]
pub(super) struct IdleCheckedSocket<S> {
    socket: S,
    /// It was silent at the last check, and nothing was written since.
    silent: bool,
    /// Observes the bytes that are read.
    codes: ResetCodes,
    /// The task that waits until the socket accepts more.
    dedicated: Option<Arc<DedicatedStream>>,
}

impl<S> IdleCheckedSocket<S> {
    /// A connection with a single stream is watched for that one.
    pub(super) fn new(socket: S, dedicated: Option<Arc<DedicatedStream>>) -> Self {
        let codes = if dedicated.is_some() { ResetCodes::of_server_with_one_stream() } else { ResetCodes::of_server() };
        Self { socket, silent: false, codes, dedicated }
    }

    fn tell<T>(&self, written: Poll<T>) -> Poll<T> {
        if let Some(dedicated) = &self.dedicated {
            dedicated.set_full(written.is_pending());
        }
        written
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for IdleCheckedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.codes.pass(&mut buffer.filled_mut()[before..]);
        if read.is_pending() && self.silent && buffer.remaining() > 0 {
            return match look(&self.socket) {
                Ok(0) => Poll::Ready(Ok(())),
                // The runtime wakes whoever waits: it was asked before.
                _ => Poll::Pending,
            };
        }
        self.silent = read.is_pending();
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleCheckedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.silent = false;
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.tell(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.silent = false;
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bytes);
        self.tell(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.tell(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn read(watched: &mut IdleCheckedSocket<TcpStream>, cx: &mut Context<'_>) -> Poll<usize> {
        let mut space = [0; 10];
        let mut buffer = ReadBuf::new(&mut space);
        Pin::new(watched).poll_read(cx, &mut buffer).map(|read| {
            read.unwrap();
            buffer.filled().len()
        })
    }

    /// The runtime has no turn here between the end and the look: this task does not wait in the meantime.
    #[tokio::test]
    async fn the_end_is_seen_before_the_runtime_tells_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut application, _) = listener.accept().await.unwrap();
        let mut watched = IdleCheckedSocket::new(socket, None);
        application.write_all(b"answer").await.unwrap();
        assert_eq!(poll_fn(|cx| read(&mut watched, cx)).await, 6);
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        assert_eq!(read(&mut watched, &mut cx), Poll::Pending);
        drop(application.into_std().unwrap());
        assert_eq!(read(&mut watched, &mut cx), Poll::Ready(0));
    }
}
