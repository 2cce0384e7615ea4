//! A server that answers logins as the test says, and tells what it was asked.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use adit::link::handshake::{receive, send};
use adit::protocol::login::{Answer, Hello, Known, Proof, Refusal, Refused};
use adit::transport::tls;
use adit::values::Name;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use crate::processes::DEADLINE;

/// A running stand-in. It ends with the test program.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: String,
    /// Its certificate, which signs itself.
    pub(crate) pem: String,
    hellos: Receiver<Hello>,
}

impl StandIn {
    /// One that knows this token. Whoever only asks is told so; whoever wants a tunnel gets none.
    pub(crate) fn knowing(token: &str) -> Self {
        let token = token.to_owned();
        Self::start(move |hello| match &hello.proof {
            Some(Proof::Token(shown)) if shown.expose() == token && hello.services.is_empty() => Answer::Known(Known {
                client_id: hello.client_id.clone(),
                token: None,
                names: vec![hello.client_id.clone().into(), Name::new("blog").unwrap()],
            }),
            Some(Proof::Token(shown)) if shown.expose() == token => {
                Answer::Refused(Refused::new(Refusal::NotAllowed, "this is a stand-in"))
            }
            _ => Answer::Refused(Refused::new(Refusal::BadToken, "the token is wrong")),
        })
    }

    fn start(answer: impl Fn(&Hello) -> Answer + Send + 'static) -> Self {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let fingerprint = adit::certs::fingerprint_of(cert.der()).unwrap().to_string();
        let (pem, der) = (cert.pem(), cert.der().clone());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let acceptor = TlsAcceptor::from(tls::server(vec![der], key).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, hellos) = channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    // Whoever does not trust it leaves.
                    let Ok(mut pipe) = acceptor.accept(socket).await else { continue };
                    let Ok(hello) = receive::<Hello>(&mut pipe).await else { continue };
                    let _ = send(&mut pipe, &answer(&hello)).await;
                    if heard.send(hello).is_err() {
                        return;
                    }
                }
            });
        });
        Self { address, fingerprint, pem, hellos }
    }

    /// The next login.
    pub(crate) fn hello(&self) -> Hello {
        self.hellos.recv_timeout(DEADLINE).expect("nobody has logged in")
    }

    /// The next login's id and token.
    pub(crate) fn asked(&self) -> (String, String) {
        let hello = self.hello();
        match hello.proof {
            Some(Proof::Token(token)) => (hello.client_id.to_string(), token.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn nobody_has_asked(&self) -> bool {
        self.hellos.try_recv().is_err()
    }
}
