//! Listening sockets that a service manager has opened ahead (socket activation, sd_listen_fds(3)): visitors and agents
//! that come while the server restarts wait in them.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use tokio::net::TcpListener;

use super::listen::{self, ListenError};

/// Those that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<std::net::TcpListener>);

impl Inherited {
    /// These sockets.
    pub fn new(listeners: Vec<std::net::TcpListener>) -> Self {
        Self(listeners)
    }

    /// The sockets of this process. They are its only once, and the environment changes: to be called before there are
    /// threads. What is no TCP socket is left alone, with its message.
    pub fn of_process() -> (Self, Vec<String>) {
        let mut handed = ListenFd::from_env();
        let (mut listeners, mut strange) = (Vec::new(), Vec::new());
        for at in 0..handed.len() {
            match handed.take_tcp_listener(at) {
                Ok(listener) => listeners.extend(listener),
                Err(error) => strange.push(format!("socket {at} of the service manager cannot be used: {error}")),
            }
        }
        (Self(listeners), strange)
    }

    /// The socket for `address`, if there is one; otherwise one that is opened now. A socket is for an address if its port
    /// is: which addresses it takes is the service manager's to say.
    ///
    /// # Errors
    /// As [`listen::bind`].
    pub fn take_or_bind(&mut self, address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ListenError> {
        let is_it = |listener: &std::net::TcpListener| {
            address.port() != 0 && listener.local_addr().is_ok_and(|local| local.port() == address.port())
        };
        let Some(at) = self.0.iter().position(is_it) else { return listen::bind(address, purpose) };
        let listener = self.0.swap_remove(at);
        let adopt = |listener: std::net::TcpListener| -> io::Result<TcpListener> {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        adopt(listener).map_err(|source| ListenError { address, purpose, source })
    }

    /// Where those listen that nobody has taken.
    pub fn left(&self) -> Vec<SocketAddr> {
        self.0.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_goes_to_whoever_wants_its_port() {
        let made = [(); 2].map(|()| listen::bind(([127, 0, 0, 1], 0).into(), "test").unwrap());
        let [one, other] = [0, 1].map(|at: usize| made[at].local_addr().unwrap());
        let mut inherited = Inherited(made.into_iter().map(|listener| listener.into_std().unwrap()).collect());
        let taken = inherited.take_or_bind(other, "test").unwrap();
        assert_eq!(taken.local_addr().unwrap(), other);
        // It is the same socket: another one could not have the port.
        let (visitor, accepted) = tokio::join!(tokio::net::TcpStream::connect(other), taken.accept());
        assert!(visitor.is_ok() && accepted.is_ok());
        let free = inherited.take_or_bind(([127, 0, 0, 1], 0).into(), "test").unwrap();
        assert!(![one, other].contains(&free.local_addr().unwrap()));
        assert_eq!(inherited.left(), [one]);
    }
}
