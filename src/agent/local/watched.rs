//! A socket that is looked at before it is believed to be silent.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once when looking: the end of a connection, or its last words.
const LOOK: usize = 1024;

/// A socket to a local application.
///
/// The runtime learns only in turns what has come to a socket. An application may have closed a kept connection since the
/// last turn, and a request that is sent then is lost, though nobody has touched it. So whoever finds the socket silent for
/// the second time, with nothing read or written in between, which is what happens before a kept connection is used again,
/// gets what the system itself says: the end is seen before anything is sent, and the request goes on another connection.
#[derive(Debug)]
pub(in crate::agent) struct Watched<S> {
    socket: S,
    /// It was silent at the last look, and nothing was written since.
    silent: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, silent: false }
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }
}

impl<S> Watched<S>
where
    for<'a> SockRef<'a>: From<&'a S>,
{
    /// Asks the system.
    fn look(&self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; LOOK];
        let room = buffer.remaining().min(LOOK);
        match (&*SockRef::from(&self.socket)).read(&mut space[..room]) {
            Ok(read) => {
                buffer.put_slice(&space[..read]);
                Poll::Ready(Ok(()))
            }
            // The runtime wakes whoever waits: it was asked before.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S>
where
    for<'a> SockRef<'a>: From<&'a S>,
{
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        if read.is_pending() && self.silent && buffer.remaining() > 0 {
            return self.look(buffer);
        }
        self.silent = read.is_pending();
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.silent = false;
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.silent = false;
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
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

    fn read(watched: &mut Watched<TcpStream>, cx: &mut Context<'_>) -> Poll<usize> {
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
        let mut watched = Watched::new(socket);
        application.write_all(b"answer").await.unwrap();
        assert_eq!(poll_fn(|cx| read(&mut watched, cx)).await, 6);
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        assert_eq!(read(&mut watched, &mut cx), Poll::Pending);
        drop(application.into_std().unwrap());
        assert_eq!(read(&mut watched, &mut cx), Poll::Ready(0));
    }
}
