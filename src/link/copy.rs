//! Raw bytes between a connection and a stream: what an upgraded exchange becomes.
//!
//! Each direction is copied to its own end: a connection that has said everything may still be listening.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::Idle;
use super::framed::{FrameReader, FrameWriter};
use crate::protocol::decode::Event;
use crate::protocol::frame::Reset;

/// Read from the connection at once: little while it says little, so that tens of thousands of silent connections take
/// little memory.
pub const LEAST: usize = 1024;

/// The same while it says much.
pub const MOST: usize = 64 * 1024;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the connection into the stream.
    In,
    /// Out of the stream to the connection.
    Out,
}

/// How much to read after `read` bytes have come where `piece` was asked for.
pub fn next_piece(piece: usize, read: usize) -> usize {
    if read >= piece {
        (piece * 4).min(MOST)
    } else if read < piece / 4 {
        (piece / 2).max(LEAST)
    } else {
        piece
    }
}

/// Copies both ways until both have ended, one has broken, or nothing has moved for `idle` in either direction. What has
/// moved is told to `meter`, in bytes.
///
/// # Errors
/// One side broke off; the other side has been told.
pub async fn both_ways<C>(
    connection: C,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    idle: Duration,
    meter: impl Fn(Way, usize),
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
{
    let (mut read, mut write) = tokio::io::split(connection);
    let moved = tokio::sync::Notify::new();
    let out = async {
        let mut buffer = BytesMut::new();
        let mut piece = LEAST;
        loop {
            buffer.reserve(piece);
            let came = read.read_buf(&mut (&mut buffer).limit(piece)).await?;
            if came == 0 {
                return writer.end().await;
            }
            meter(Way::In, came);
            piece = next_piece(piece, came);
            writer.data(buffer.split().freeze()).await?;
            writer.flush().await?;
            moved.notify_one();
        }
    };
    let back = async {
        loop {
            match reader.event().await {
                Ok(Event::Data(data)) => {
                    write.write_all(&data).await?;
                    meter(Way::Out, data.len());
                    // Some connections gather, like TLS; who is at their end waits for these bytes.
                    write.flush().await?;
                }
                Ok(Event::End) => return write.shutdown().await,
                Ok(_) | Err(_) => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            moved.notify_one();
        }
    };
    let quiet = async {
        let mut idle = Idle::new(idle);
        while idle.watch(moved.notified()).await.is_some() {}
    };
    let result = tokio::select! {
        result = async { tokio::try_join!(out, back).map(|_| ()) } => result,
        () = quiet => Err(io::ErrorKind::TimedOut.into()),
    };
    if result.is_err() && !writer.stream().is_complete() {
        // The peer learns that this was no proper end.
        writer.reset(Reset::Cancelled);
    }
    result
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use tokio::io::{BufStream, DuplexStream, ReadBuf};
    use tokio::task::JoinSet;

    use super::super::testing::{Pair, pattern, stays_pending, upgraded, within};
    use super::*;

    const IDLE: Duration = Duration::from_secs(3600);

    #[test]
    fn pieces_grow_with_what_comes_and_shrink_again() {
        let steps = [1024, 4096, 16_384, 65_536, 65_536, 100, 100, 100, 100, 100, 100, 100];
        let pieces: Vec<usize> = steps
            .into_iter()
            .scan(LEAST, |piece, read| {
                *piece = next_piece(*piece, read);
                Some(*piece)
            })
            .collect();
        assert_eq!(pieces, [4096, 16_384, 65_536, 65_536, 65_536, 32_768, 16_384, 8192, 4096, 2048, 1024, 1024]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_metered() {
        let mut pair = Pair::new();
        let [server, agent] = upgraded(&mut pair).await;
        let ((mut visitor, at_server), (mut local, at_agent)) = (tokio::io::duplex(1000), tokio::io::duplex(1000));
        let (ins, outs) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let meter = |way, bytes| {
            let counter = if way == Way::In { &ins } else { &outs };
            counter.fetch_add(bytes, Ordering::Relaxed);
        };
        let both = async {
            let (one, two) = tokio::join!(
                both_ways(at_server, server.0, server.1, IDLE, meter),
                both_ways(at_agent, agent.0, agent.1, IDLE, |_, _| {})
            );
            one.and(two).unwrap();
        };
        let talk = async {
            say(&mut visitor, &mut local, &pattern(5000)).await;
            say(&mut local, &mut visitor, &pattern(70)).await;
            visitor.shutdown().await.unwrap();
            local.shutdown().await.unwrap();
        };
        tokio::join!(both, talk);
        assert_eq!((ins.into_inner(), outs.into_inner()), (5000, 70));
    }

    /// Both sides of an upgraded exchange at work: the visitor's end, the application's end, and the two tasks.
    async fn connected(pair: &mut Pair) -> (DuplexStream, DuplexStream, JoinSet<io::Result<()>>) {
        let [server, agent] = upgraded(pair).await;
        let (visitor, at_server) = tokio::io::duplex(1000);
        let (local, at_agent) = tokio::io::duplex(1000);
        let mut tasks = JoinSet::new();
        tasks.spawn(both_ways(at_server, server.0, server.1, IDLE, |_, _| {}));
        // One that gathers what is written, as TLS does.
        tasks.spawn(both_ways(BufStream::new(at_agent), agent.0, agent.1, IDLE, |_, _| {}));
        (visitor, local, tasks)
    }

    async fn say(from: &mut DuplexStream, to: &mut DuplexStream, text: &[u8]) {
        let mut got = vec![0; text.len()];
        let (said, heard) = within(async { tokio::join!(from.write_all(text), to.read_exact(&mut got)) }).await;
        said.unwrap();
        heard.unwrap();
        assert!(got == text);
    }

    async fn is_over(end: &mut DuplexStream) {
        assert_eq!(within(end.read(&mut [0; 1])).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn each_direction_ends_by_itself() {
        let mut pair = Pair::new();
        for visitor_first in [true, false] {
            let (visitor, local, mut tasks) = connected(&mut pair).await;
            let (mut one, mut two) = if visitor_first { (visitor, local) } else { (local, visitor) };
            say(&mut one, &mut two, b"question").await;
            say(&mut two, &mut one, &pattern(400_000)).await;
            one.shutdown().await.unwrap();
            is_over(&mut two).await;
            stays_pending(tasks.join_next()).await;
            say(&mut two, &mut one, &pattern(400_000)).await;
            two.shutdown().await.unwrap();
            is_over(&mut one).await;
            while let Some(result) = within(tasks.join_next()).await {
                result.unwrap().unwrap();
            }
        }
    }

    /// A connection that breaks when it is read or when it is written.
    struct Breaks {
        read: bool,
    }

    impl AsyncRead for Breaks {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.read { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { Poll::Pending }
        }
    }

    impl AsyncWrite for Breaks {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_breaks_resets_the_stream() {
        let mut pair = Pair::new();
        for (read, kind) in [(true, io::ErrorKind::ConnectionReset), (false, io::ErrorKind::BrokenPipe)] {
            let [server, mut agent] = upgraded(&mut pair).await;
            agent.1.data(bytes::Bytes::from_static(b"x")).await.unwrap();
            agent.1.flush().await.unwrap();
            let error = within(both_ways(Breaks { read }, server.0, server.1, IDLE, |_, _| {})).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert_eq!(within(agent.0.event()).await, Ok(Event::Reset(Reset::Cancelled)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_or_a_cut_breaks_the_connection_off() {
        let mut pair = Pair::new();
        for reset in [true, false] {
            let [server, (reader, mut writer)] = upgraded(&mut pair).await;
            let (mut visitor, at_server) = tokio::io::duplex(1000);
            let mut tasks = JoinSet::new();
            tasks.spawn(both_ways(at_server, server.0, server.1, IDLE, |_, _| {}));
            if reset {
                writer.reset(Reset::LocalBroken);
            }
            drop((reader, writer));
            let result = within(tasks.join_next()).await.unwrap().unwrap();
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            is_over(&mut visitor).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_both_ways_ends_it_and_a_byte_either_way_does_not() {
        let mut pair = Pair::new();
        let (mut visitor, mut local, mut tasks) = connected(&mut pair).await;
        for _ in 0..2 {
            tokio::time::advance(IDLE - Duration::from_secs(1)).await;
            say(&mut visitor, &mut local, b"x").await;
            tokio::time::advance(IDLE - Duration::from_secs(1)).await;
            say(&mut local, &mut visitor, b"y").await;
        }
        stays_pending(tasks.join_next()).await;
        let before = tokio::time::Instant::now();
        let result = tasks.join_next().await.unwrap().unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(before.elapsed() <= IDLE);
        assert!(within(tasks.join_next()).await.unwrap().unwrap().is_err());
        is_over(&mut visitor).await;
        is_over(&mut local).await;
    }
}
