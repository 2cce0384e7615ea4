//! The server's certificates, as the operator sees and renews them.

use crate::processes::{Ended, adit, run};
use crate::setup::{Folder, HELLO, Scene, Server};
use crate::visitor::visit;

fn cert(folder: &Folder, command: &[&str]) -> Ended {
    let mut adit = adit();
    adit.arg("cert").args(command).arg("--config").arg(folder.path("server.toml"));
    run("adit cert", adit)
}

fn field(ended: &Ended, name: &str) -> String {
    let line = ended.stdout.lines().find(|line| line.trim_start().starts_with(name));
    line.unwrap_or_else(|| panic!("no {name}: {ended:?}")).trim_start().strip_prefix(name).unwrap().trim().to_owned()
}

#[test]
fn a_certificate_is_shown_and_renewed_while_the_server_runs_and_agents_stay() {
    let scene = Scene::with("");
    let shown = cert(&scene.folder, &[]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert_eq!(field(&shown, "fingerprint"), scene.server.fingerprint);
    assert!(field(&shown, "names").contains("localhost") && field(&shown, "good until").contains("days from now"));
    let before = std::fs::read(scene.folder.path("certs/server.pem")).unwrap();
    let renewed = cert(&scene.folder, &["renew"]);
    assert!(field(&renewed, "certificate").starts_with("renewed just now"), "{renewed:?}");
    assert_eq!(field(&renewed, "fingerprint"), scene.server.fingerprint, "agents need nothing new");
    assert_ne!(std::fs::read(scene.folder.path("certs/server.pem")).unwrap(), before);
    scene.server.program.line("a certificate has changed and is shown from now on");
    assert_eq!(visit(&scene.server.url("alice", "/hello.txt"), &[]).body, HELLO);
    // Another agent pins the same key.
    let mut command = scene.server.http_command("alice", scene.site.port);
    command.env("ADIT_TOKEN", &scene.token);
    crate::setup::start_agent(command);
}

#[test]
fn a_certificate_of_ones_own_is_not_renewed_and_none_is_made_by_looking() {
    let folder = Folder::new();
    folder.write("server.toml", "tunnel.tls.dir = 'certs'\n");
    let shown = cert(&folder, &["show"]);
    assert!(shown.code == Some(0) && shown.stdout.contains("there is no certificate"), "{shown:?}");
    assert!(!folder.path("certs").exists());
    folder.write("server.toml", "tunnel.tls.cert = 'c.pem'\ntunnel.tls.key = 'k.pem'\n");
    let refused = cert(&folder, &["renew"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("your own"), "{refused:?}");
    assert_eq!(cert(&folder, &[]).code, Some(78));
}

#[test]
fn without_a_server_nothing_is_renewed_shown_or_made() {
    let folder = Folder::new();
    for command in [&[][..], &["show"], &["renew"]] {
        let mut adit = adit();
        adit.arg("cert").args(command).current_dir(folder.path("."));
        let ended = run("adit cert", adit);
        let refused = command == ["renew"];
        assert_eq!(ended.code, Some(i32::from(refused)), "{ended:?}");
        let said = if refused { &ended.stderr } else { &ended.stdout };
        assert!(said.contains(" in certs ") && said.contains("--config"), "{ended:?}");
        assert!(!refused || said.contains("start `adit server` once"), "{ended:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path(".")).unwrap().count(), 0, "nothing was made");
}

#[test]
fn a_certificate_that_has_ended_is_named_in_the_log() {
    let folder = Folder::new();
    folder.add_client("alice");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["tunnel.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2001, 9, 9);
    folder.write("c.pem", &params.self_signed(&key).unwrap().pem());
    folder.write("k.pem", &key.serialize_pem());
    let server = Server::start(&folder, "tunnel.tls.cert = 'c.pem'\ntunnel.tls.key = 'k.pem'\n");
    let line = server.program.line("a certificate has ended: renew it");
    assert!(line.contains("tunnel.example") && line.contains("2001-09-09"), "{line}");
    assert!(field(&cert(&folder, &["show"]), "good until").ends_with("it has ended"));
}
