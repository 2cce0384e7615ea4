//! Root sets up what another user is to run: nothing may be left behind which that user cannot use, and nothing that is
//! that user's may lead root astray.
//!
//! Only root may give files away, so whoever else runs these tests sees nothing of it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::processes::{Ended, run, tool};
use crate::setup::Folder;

const USER: u32 = 4711;
const GROUP: u32 = 4712;

/// A folder of that user's, and beside it the program where that user may start it; `None` if we are not root.
struct Site(Folder);

impl Site {
    fn new() -> Option<Self> {
        let folder = Folder::new();
        fs::create_dir(folder.path("site")).unwrap();
        chown(folder.path("site"), Some(USER), Some(GROUP)).ok()?;
        // Nobody else need get at where the program is built.
        fs::copy(env!("CARGO_BIN_EXE_adit"), folder.path("adit")).unwrap();
        fs::set_permissions(folder.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(folder))
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.write(&format!("site/{name}"), text);
        chown(path, Some(USER), Some(GROUP)).unwrap();
    }

    fn root(&self, arguments: &[&str]) -> Ended {
        run("adit of root's", self.command(arguments))
    }

    fn user(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        command.uid(USER).gid(GROUP);
        run("adit of the user's", command)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tool(&self.0.text("adit"));
        command.args(arguments).current_dir(self.0.path("site")).env("NO_COLOR", "1");
        command
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let facts = fs::symlink_metadata(path).unwrap();
    (facts.uid(), facts.gid())
}

#[test]
fn the_first_client_that_root_adds_is_for_the_owner_of_the_place() {
    let Some(site) = Site::new() else { return };
    let ended = site.root(&["token", "new", "alice", "--init"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for made in ["site/config", "site/config/clients.toml", "site/config/.lock"] {
        assert_eq!(owner(&site.0.path(made)), (USER, GROUP), "{made}");
    }
    let listed = site.user(&["token", "list"]);
    assert!(listed.code == Some(0) && listed.stdout.starts_with("alice\t"), "{listed:?}");
}

#[test]
fn root_makes_no_authority_for_a_server_of_somebody_elses() {
    let Some(site) = Site::new() else { return };
    let certs = site.0.path("var/certs");
    site.write("server.toml", &format!("tunnel.tls.dir = '{}'\n", certs.display()));
    let ended = site.root(&["token", "invite", "--config", "server.toml"]);
    assert!(ended.code == Some(0) && ended.stderr.contains("the server is another user's"), "{ended:?}");
    assert!(!certs.exists());
    assert_eq!(owner(&site.0.path("site/clients.toml")), (USER, GROUP));
}

#[test]
fn nobody_leads_root_astray() {
    let Some(site) = Site::new() else { return };
    let roots = site.0.write("environment", "# root's\n");
    let link = site.0.path("site/clients.toml");
    symlink(&roots, &link).unwrap();
    lchown(&link, Some(USER), Some(GROUP)).unwrap();
    let new = || site.root(&["token", "new", "alice", "--clients", "clients.toml"]);
    let ended = new();
    assert!(ended.code == Some(1) && ended.stderr.contains("clients.toml is a link whose owner"), "{ended:?}");
    assert_eq!(fs::read_to_string(&roots).unwrap(), "# root's\n");
    lchown(&link, Some(0), Some(0)).unwrap();
    assert_eq!(new().code, Some(0), "root's own link");

    fs::remove_file(&link).unwrap();
    let lock = site.0.path("site/.lock");
    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    let ended = new();
    assert!(ended.code == Some(1) && ended.stderr.contains(".lock: it is no file"), "{ended:?}");
}

#[test]
fn check_finds_what_may_not_be_made() {
    let Some(site) = Site::new() else { return };
    let look = |settings: &str| {
        site.write("server.toml", &format!("clients = 'clients.toml'\ntunnel.tls.dir = {settings}\n"));
        let ended = site.user(&["check", "server.toml"]);
        let problems = ended.stderr.lines().filter_map(|line| line.strip_prefix("server.toml: "));
        let keys = problems.clone().map(|line| line.split(": ").next().unwrap_or_default().to_owned());
        let all_say_why = problems.clone().all(|line| line.contains("the user who runs this check may not"));
        assert!(all_say_why && (ended.code == Some(0)) == (problems.count() == 0), "{ended:?}");
        keys.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(look("'certs'"), "", "all may be made");
    for (name, owner) in [("roots", 0), ("users", USER)] {
        fs::create_dir(site.0.path(name)).unwrap();
        chown(site.0.path(name), Some(owner), None).unwrap();
    }
    assert_eq!(look("'../users/certs'"), "");
    assert_eq!(look("'/nonexistent/certs'"), "tunnel.tls.dir");
    assert_eq!(look("'../roots'"), "tunnel.tls.dir");
    assert_eq!(look("'certs'\nadmin.token_file = '../roots/admin-token'"), "admin.token_file");
    assert_eq!(look("'certs'\nadmin.token_file = '../roots/more/admin-token'"), "admin.token_file");
    // At the first start the clients file is begun.
    chown(site.0.path("site"), Some(0), Some(0)).unwrap();
    assert_eq!(look("'../users/certs'"), "clients");
    assert_eq!(fs::read_dir(site.0.path("roots")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(site.0.path("site")).unwrap().count(), 1, "server.toml");
}
