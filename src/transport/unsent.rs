//! Bounds the data that the kernel accepts beyond what it has sent.

use std::io;

use tokio::net::TcpStream;

/// Lets the kernel hold up to `bytes` of unsent data of `socket`. The kernel calls the socket writable when less than half
/// of that is unsent. Does nothing on other systems than Linux, which have their own bounds.
///
/// # Errors
/// The system refuses the option.
pub fn bound_unsent(socket: &TcpStream, bytes: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes)?;
    #[cfg(not(target_os = "linux"))]
    let _ = (socket, bytes);
    Ok(())
}
