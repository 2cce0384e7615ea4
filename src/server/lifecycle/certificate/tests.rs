//! A source that is neither a file nor the local CA serves a listener.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::configured_sources::ConfiguredSource;
use super::*;
use crate::certs::{CertificateSource, SourceError, SourceSetting, fingerprint_of};
use crate::transport::tls::{self, Trust};
use crate::values::Fingerprint;

/// A source that holds its certificate in memory and replaces it on request.
#[derive(Debug)]
struct InMemory {
    current: Mutex<Option<(CertificateDer<'static>, KeyPair)>>,
    rotated: Notify,
}

#[derive(Debug, Clone)]
struct InMemorySource(Arc<InMemory>);

impl InMemorySource {
    fn new() -> Self {
        let source = Self(Arc::new(InMemory { current: Mutex::default(), rotated: Notify::new() }));
        source.rotate();
        source
    }

    /// Replaces the certificate and returns its fingerprint.
    fn rotate(&self) -> Fingerprint {
        let key = KeyPair::generate().unwrap();
        let names = vec!["tunnel.example".to_owned()];
        let cert = CertificateParams::new(names).unwrap().self_signed(&key).unwrap().der().clone();
        let fingerprint = fingerprint_of(&cert).unwrap();
        *self.0.current.lock() = Some((cert, key));
        self.0.rotated.notify_one();
        fingerprint
    }

    /// Makes the source fail until the next rotation.
    fn fail(&self) {
        *self.0.current.lock() = None;
        self.0.rotated.notify_one();
    }
}

impl CertificateSource for InMemorySource {
    fn load(&self) -> Result<ServerCertificate, Vec<SourceError>> {
        let current = self.0.current.lock();
        let Some((cert, key)) = &*current else {
            let error = CertError::Making("the issuer is unreachable".to_owned());
            return Err(vec![SourceError::new(SourceSetting::Dir, error)]);
        };
        Ok(ServerCertificate {
            chain: vec![cert.clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            fingerprint: fingerprint_of(cert).unwrap(),
            names: vec!["tunnel.example".to_owned()],
            expires_unix: 4_000_000_000,
            origin: Origin::Operator,
        })
    }

    fn check(&self) -> Vec<SourceError> {
        self.load().err().unwrap_or_default()
    }

    fn changed(&self) -> futures_util::future::BoxFuture<'_, ()> {
        Box::pin(self.0.rotated.notified())
    }
}

/// Connects to a listener with these certificates and returns the fingerprint that it shows.
async fn handshake(acceptor: &TlsAcceptor, trusted: Fingerprint) -> Result<Fingerprint, String> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = TlsConnector::from(tls::client(&Trust::Fingerprint(trusted)).unwrap());
    let name = "tunnel.example".try_into().unwrap();
    let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let client = client.map_err(|error| error.to_string())?;
    server.map_err(|error| error.to_string())?;
    let shown = client.get_ref().1.peer_certificates().unwrap();
    Ok(fingerprint_of(&shown[0]).unwrap())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_listener_uses_what_its_source_rotates_to_from_the_next_handshake_on() {
    let source = InMemorySource::new();
    let first = source.rotate();
    let sources = Sources { tunnel: ConfiguredSource::new("tunnel.memory", source.clone()), https: None };
    let (certificates, at_start) = Certificates::load(sources).unwrap();
    assert_eq!(at_start.fingerprint, first);
    let acceptor = TlsAcceptor::from(tls::tunnel_server(certificates.tunnel()).unwrap());
    assert_eq!(handshake(&acceptor, first).await, Ok(first));

    let stop = CancellationToken::new();
    let maintained = tokio::task::JoinSet::from_iter([certificates.clone().maintain(stop.clone())]);
    let before = certificates.active();
    let second = source.rotate();
    until("the rotated certificate is used", || certificates.active() != before).await;
    assert_eq!(handshake(&acceptor, second).await, Ok(second));
    assert!(handshake(&acceptor, first).await.is_err(), "the first certificate is still used");

    source.fail();
    until("the failure is reported", || !certificates.problems().is_empty()).await;
    let problem = certificates.problems()[0].to_string();
    assert!(problem.contains("tunnel.memory.dir") && problem.contains("the issuer is unreachable"), "{problem}");
    assert_eq!(handshake(&acceptor, second).await, Ok(second), "a failing source leaves the certificate in use");

    let third = source.rotate();
    until("the source is loaded again", || certificates.problems().is_empty()).await;
    assert_eq!(handshake(&acceptor, third).await, Ok(third));
    stop.cancel();
    timeout(Duration::from_secs(20), maintained.join_all()).await.unwrap();
}
