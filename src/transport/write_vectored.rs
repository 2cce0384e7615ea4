//! Writing what lies in several pieces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Pieces that are no more than this together are copied into one.
const SMALL: usize = 2048;

/// As [`AsyncWrite::poll_write_vectored`]; but little pieces, which are what most heads and answers are, leave as one. It is
/// one system call either way, and the kernel has less to do for a single buffer.
pub fn poll_write_pieces(
    socket: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return socket.poll_write(cx, piece);
    }
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    if length > SMALL {
        return socket.poll_write_vectored(cx, pieces);
    }
    let mut space = [0; SMALL];
    let mut at = 0;
    for piece in pieces {
        space[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    socket.poll_write(cx, &space[..length])
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn pieces_of_every_size_leave_in_order() {
        for sizes in [&[][..], &[5], &[0, 3, 0], &[1000, 1048], &[1000, 1049], &[5000, 1]] {
            let (mut here, mut there) = tokio::io::duplex(10_000);
            let pieces: Vec<Vec<u8>> = sizes.iter().map(|size| (0..*size).map(|byte| byte as u8).collect()).collect();
            let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let written = std::future::poll_fn(|cx| poll_write_pieces(Pin::new(&mut here), cx, &slices)).await.unwrap();
            drop(here);
            let mut got = Vec::new();
            there.read_to_end(&mut got).await.unwrap();
            let sent = pieces.concat();
            assert!(got.len() == written && sent.starts_with(&got), "{sizes:?}");
            // What is not vectored takes the first piece only.
            assert!(written == sent.len() || written == sizes[0], "{sizes:?}: {written}");
        }
    }
}
