//! Plain HTTP on a port that expects TLS: detects it, and answers in plain HTTP what is wrong.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long the sender may take to read the answer, and how much of its request is read meanwhile: unread data would make
/// the system reset the connection and discard the answer.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_OF_A_REQUEST: u64 = 64 * 1024;

/// The `X-Adit-Error` of the answer.
pub const TLS_REQUIRED: &str = "tls_required";

/// Returns whether a connection that begins like this carries plain HTTP. A TLS handshake begins with the byte 22.
pub fn is_plain_http(start: &[u8]) -> bool {
    const LONGEST_METHOD: usize = 16;
    let method = start.iter().take(LONGEST_METHOD).take_while(|byte| byte.is_ascii_uppercase()).count();
    method >= 3 && start.get(method) == Some(&b' ')
}

/// Answers plain HTTP with 400 and `advice`, a sentence, and closes the connection.
///
/// # Errors
/// The connection broke.
pub async fn refuse_plain_http(mut socket: TcpStream, advice: &str) -> io::Result<()> {
    let body = format!("400 this is a TLS port: {advice}\n");
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         X-Adit-Error: {TLS_REQUIRED}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let answer = async {
        socket.write_all((head + &body).as_bytes()).await?;
        socket.shutdown().await?;
        tokio::io::copy(&mut socket.take(MOST_OF_A_REQUEST), &mut tokio::io::sink()).await
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answered) => answered.map(drop),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_told_from_tls_and_from_noise() {
        for http in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "PROPFIND /x", "POST "] {
            assert!(is_plain_http(http.as_bytes()), "{http}");
        }
        for other in [&[22, 3, 1, 0, 200][..], b"", b"GET", b"SSH-2.0-x", b" GET /", b"get / HTTP/1.1", &[b'A'; 40]] {
            assert!(!is_plain_http(other), "{other:?}");
        }
    }
}
