//! The TCP settings of a lane, the same at both ends.

use tokio::net::TcpStream;

use crate::transport::unsent;

/// Bytes that the kernel accepts beyond what it has sent. No later request overtakes them. Below half of it the kernel asks
/// for more, which is soon enough for a fast link.
const UNSENT: u32 = 64 * 1024;

/// Bounds what the kernel queues for a lane beyond what the network takes. Without the bound a small request waits longer
/// beside bulk transfers, and nothing else is wrong, so a system that refuses it is only logged.
pub fn bound_unsent(socket: &TcpStream) {
    if let Err(error) = unsent::bound_unsent(socket, UNSENT) {
        tracing::debug!(%error, "cannot bound the unsent bytes of a lane");
    }
}
