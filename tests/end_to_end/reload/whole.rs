//! `server.toml`, the clients file and the certificates are one set: all of it counts, or nothing.

use std::path::Path;
use std::sync::Arc;

use adit::schema::Flags;
use adit::server::Server;
use adit::server::lifecycle::reload::{NotReloaded, Reloaded, Reloader};
use adit::tenants::clients::Clients;
use adit::transport::tls;
use adit::transport::tls::LocalTrust;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{TestServer, clients, clients_file, replace_file, server_config, soon};

/// Writes a fresh certificate for these names with its key, and gives what visitors see of it.
fn bring(dir: &Path, file: &str, names: &[&str]) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join(format!("{file}.pem")), cert.pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    cert.der().to_vec()
}

fn certificate(file: &str) -> String {
    format!("[[public.certificates]]\ncert = '{file}.pem'\nkey = '{file}.key'\n")
}

const TEXT: &str = "[tunnel]\nlisten = '127.0.0.1:0'\ntls.dir = '.'\n[admin]\nlisten = 'off'\n\
                    [public]\nhttp = '127.0.0.1:0'\nhttps = '127.0.0.1:0'\ndomain = 'tunnel.test'\n";

/// A server that does not run: nobody watches single files, all there is happens by reloading.
struct House {
    dir: TempDir,
    reloader: Reloader,
    clients: Arc<Clients>,
    _server: Server,
}

impl House {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        bring(dir.path(), "a", &["a.test"]);
        let text = format!("{TEXT}{}", certificate("a"));
        let config = server_config(&dir.path().join("server.toml"), &text, &Flags::new()).unwrap();
        let server = Server::bind(config, Clients::new(clients_file(&clients()))).unwrap();
        let house = Self { reloader: server.reloader(), clients: server.clients(), _server: server, dir };
        house.write("server.toml", &text);
        house.write("clients.toml", &clients());
        house
    }

    fn write(&self, file: &str, text: &str) {
        replace_file(&self.dir.path().join(file), text);
    }

    async fn reload(&self) -> Result<Reloaded, NotReloaded> {
        let file = self.dir.path().join("server.toml");
        let load = move || server_config(&file, &std::fs::read_to_string(&file).unwrap(), &Flags::new());
        soon("a reload", self.reloader.reload(load)).await
    }

    /// What is wrong, by key path; everything must be as it was.
    async fn refused(&self) -> Vec<String> {
        let NotReloaded(problems) = self.reload().await.unwrap_err();
        assert!(self.clients.lists(&clients_file(&clients())), "the clients are others");
        problems.into_iter().flat_map(|errors| errors.problems).map(|problem| problem.key).collect()
    }
}

/// One client less.
fn fewer() -> String {
    clients().split("[clients.carol]").next().unwrap().to_owned()
}

#[tokio::test]
async fn a_good_set_counts_as_a_whole() {
    let house = House::new();
    let nothing = house.reload().await.unwrap();
    assert_eq!(nothing.to_string(), "nothing has changed");
    bring(house.dir.path(), "b", &["b.test"]);
    house.write("server.toml", &format!("{TEXT}{}{}[limits]\nstreams = 5\n", certificate("a"), certificate("b")));
    house.write("clients.toml", &fewer());
    let reloaded = house.reload().await.unwrap();
    assert_eq!(reloaded.to_string(), "changed: public.certificates, limits.streams, the clients file, certificates");
    assert!(house.clients.lists(&clients_file(&fewer())));
}

#[tokio::test]
async fn whatever_is_broken_nothing_of_the_set_counts() {
    let house = House::new();
    let changed = format!("{TEXT}{}[limits]\nstreams = 5\n", certificate("a"));
    // The configuration is broken, the clients file is good.
    house.write("server.toml", &format!("{changed}heda_size = 5\n[timeouts]\nidle = 'soon'\n"));
    house.write("clients.toml", &fewer());
    let mut keys = house.refused().await;
    keys.sort();
    assert_eq!(keys, ["limits.heda_size", "timeouts.idle"]);
    // The other way round.
    house.write("server.toml", &changed);
    house.write("clients.toml", &fewer().replace("[clients.bob]", "[clients.bob]\nnamse = []"));
    assert_eq!(house.refused().await, ["clients.bob.namse"]);
    // A certificate that the new configuration names.
    let further = format!("{TEXT}{}{}[limits]\nstreams = 5\n", certificate("a"), certificate("c"));
    house.write("server.toml", &further);
    house.write("clients.toml", &fewer());
    assert_eq!(house.refused().await, ["public.certificates[1].cert", "public.certificates[1].key"]);
    // A certificate that is there, while its configuration is the same.
    house.write("server.toml", &changed);
    house.write("a.pem", "nonsense");
    assert_eq!(house.refused().await, ["public.certificates[0].cert"]);
    bring(house.dir.path(), "a", &["other.test"]);
    // Nothing of all that has counted in the meantime.
    let reloaded = house.reload().await.unwrap();
    assert_eq!(reloaded.to_string(), "changed: limits.streams, the clients file, certificates");
}

#[tokio::test]
async fn every_problem_of_the_set_is_named_at_once() {
    let house = House::new();
    house.write("server.toml", &format!("{TEXT}{}[limits]\nstreams = 0\n", certificate("a")));
    house.write("clients.toml", &fewer().replace("[clients.bob]", "[clients.bob]\nnamse = []"));
    std::fs::remove_file(house.dir.path().join("a.key")).unwrap();
    let text = house.reload().await.unwrap_err().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("server.toml: limits.streams: is 0"), "{text}");
    assert!(lines[1].contains("clients.toml: clients.bob.namse: unknown key"), "{text}");
    assert!(lines[2].starts_with("public.certificates[0].key: ") && lines[2].contains("a.key"), "{text}");
    assert!(house.clients.lists(&clients_file(&clients())));
}

#[tokio::test]
async fn what_waits_for_a_restart_has_to_be_right_already() {
    let house = House::new();
    let waits = TEXT.replace("tls.dir = '.'", "tls.dir = '.'\ntls.cert = 'own.pem'\ntls.key = 'own.key'");
    let others = format!("clients = 'others.toml'\n{waits}{}", certificate("a"));
    house.write("server.toml", &format!("{others}[log]\nfile = 'nowhere/adit.log'\n"));
    house.write("others.toml", "[clients.bob]\n");
    let mut keys = house.refused().await;
    keys.sort();
    assert_eq!(keys, ["clients.bob.token_hash", "log.file", "tunnel.tls.cert", "tunnel.tls.key"]);
    house.write("server.toml", &others);
    bring(house.dir.path(), "own", &["tunnel.test"]);
    house.write("others.toml", &fewer());
    let reloaded = house.reload().await.unwrap();
    assert_eq!(
        reloaded.to_string(),
        "nothing has changed; waiting for a restart: clients, tunnel.tls.cert, tunnel.tls.key"
    );
    assert!(house.clients.lists(&clients_file(&clients())), "the file that was named at the start counts");
}

#[tokio::test]
async fn a_further_certificate_is_shown_and_its_files_are_watched() {
    let dir = Arc::new(TempDir::new().unwrap());
    let first = bring(dir.path(), "a", &["a.test"]);
    let text = format!("[public]\nhttps = '127.0.0.1:0'\n{}", certificate("a"));
    let server = TestServer::start_with_file(Arc::clone(&dir), &text);
    let seen = async |host: &'static str| {
        let config = tls::local_client(&LocalTrust::Anybody, &[]).unwrap();
        let socket = TcpStream::connect(server.https.unwrap()).await.unwrap();
        let name = ServerName::try_from(host).unwrap();
        let stream = soon("a TLS handshake", TlsConnector::from(config).connect(name, socket)).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert_eq!(seen("b.test").await, first);
    let second = bring(dir.path(), "b", &["b.test"]);
    server.reload_file(&format!("{text}{}", certificate("b"))).await.unwrap();
    assert_eq!((seen("a.test").await, seen("b.test").await), (first, second));
    // The first change may be noticed by way of the reload, the next one may not.
    let mut newest = Vec::new();
    for _ in 0..2 {
        newest = bring(dir.path(), "b", &["b.test"]);
        soon("the new certificate", async { while seen("b.test").await != newest {} }).await;
    }
    server.reload_file(&format!("[public]\nhttps = '127.0.0.1:0'\n{}", certificate("b"))).await.unwrap();
    assert_eq!(seen("a.test").await, newest, "the first one is not named any more");
}
