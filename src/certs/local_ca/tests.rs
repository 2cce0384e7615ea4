use std::fs;

use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;

use super::names::MAX_OWN_ADDRESSES;
use super::*;

const NOW: u64 = 1_800_000_000;

fn ca(dir: &Path, names: &[&str]) -> LocalCa {
    LocalCa::new(dir, names.iter().map(|name| (*name).to_owned()).collect())
}

fn ensure(dir: &Path, names: &[&str], now: u64) -> Result<ServerCertificate, CertError> {
    ca(dir, names).issue(Issuance { addresses: &["192.0.2.7".parse().unwrap()], now, force: false })
}

fn authority_error(dir: &Path) -> String {
    match ensure(dir, &[], NOW).unwrap_err() {
        error @ CertError::Authority { .. } => error.to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn the_first_start_makes_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let made = ensure(&dir.path().join("certs"), &["Tunnel.example.com", "*.tunnel.example.com"], NOW).unwrap();
    assert_eq!(made.origin, Origin::Created);
    assert_eq!(made.fingerprint, fingerprint_of(&made.chain[1]).unwrap());
    assert_eq!(authority_fingerprint(&dir.path().join("certs")).unwrap(), Some(made.fingerprint));
    let names =
        ["*.tunnel.example.com", "127.0.0.1", "192.0.2.7", "::1", "localhost", "tunnel.example.com"].map(String::from);
    assert_eq!(made.names, names);
    assert!((396 * DAY..=397 * DAY).contains(&(made.expires_unix - NOW)));
    let server = ParsedCertificate::try_from(&made.chain[0]).unwrap();
    for name in ["localhost", "::1", "192.0.2.7", "tunnel.example.com", "alice.tunnel.example.com"] {
        assert_eq!(verify_server_name(&server, &name.try_into().unwrap()), Ok(()), "{name}");
    }
    assert!(verify_server_name(&server, &"example.com".try_into().unwrap()).is_err());
}

#[test]
fn looking_for_the_authority_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    assert_eq!(authority_fingerprint(&nowhere).unwrap(), None);
    assert!(!nowhere.exists());
    fs::write(dir.path().join("ca.pem"), "rubbish").unwrap();
    assert!(authority_fingerprint(dir.path()).unwrap_err().to_string().contains("ca.pem"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_authority_can_sign_servers_and_nothing_below() {
    let dir = tempfile::tempdir().unwrap();
    let made = ensure(dir.path(), &[], NOW).unwrap();
    let (_, ca) = x509_parser::parse_x509_certificate(&made.chain[1]).unwrap();
    assert_eq!(ca.subject().to_string(), "CN=adit CA");
    assert!(ca.is_ca());
    assert_eq!(ca.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    let (_, server) = x509_parser::parse_x509_certificate(&made.chain[0]).unwrap();
    assert!(!server.is_ca() && server.issuer() == ca.subject());
}

#[cfg(unix)]
#[test]
fn the_keys_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path(), &[], NOW).unwrap();
    for key in ["ca.key", "server.key"] {
        assert_eq!(fs::metadata(dir.path().join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
    }
}

#[test]
fn a_later_start_changes_nothing_until_a_month_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = ensure(dir.path(), &["a.example"], NOW).unwrap();
    let month_left = first.expires_unix - RENEW_DAYS * DAY;
    let same = ensure(dir.path(), &[], month_left).unwrap();
    assert_eq!(same.origin, Origin::Stored);
    assert_eq!(same.chain, first.chain);
    let renewed = ensure(dir.path(), &["a.example"], month_left + 1).unwrap();
    assert_eq!(renewed.origin, Origin::Renewed);
    assert_ne!(renewed.chain[0], first.chain[0]);
    assert_eq!((&renewed.chain[1], renewed.fingerprint), (&first.chain[1], first.fingerprint));
    assert!(renewed.expires_unix > month_left + 300 * DAY);
}

#[test]
fn a_new_name_makes_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let first = ensure(dir.path(), &["a.example"], NOW).unwrap();
    let second = ensure(dir.path(), &["a.example", "b.example"], NOW).unwrap();
    assert!(second.origin == Origin::Renewed && second.names.contains(&"b.example".to_owned()));
    assert_eq!(second.fingerprint, first.fingerprint);
    for bad in ["", "a b", "a.example:8080", "[::1]", "*.*.example", "https://a.example"] {
        assert!(matches!(ensure(dir.path(), &[bad], NOW), Err(CertError::Name(name)) if name == bad), "{bad}");
    }
}

#[test]
fn a_server_certificate_that_does_not_fit_is_made_anew() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ensure(other.path(), &[], NOW).unwrap();
    ensure(dir.path(), &[], NOW).unwrap();
    let path = |file: &str| dir.path().join(file);
    let take_over = |files: &[&str]| {
        for file in files {
            fs::copy(other.path().join(file), path(file)).unwrap();
        }
    };
    take_over(&["server.key"]);
    assert_eq!(ensure(dir.path(), &[], NOW).unwrap().origin, Origin::Renewed, "the key of another certificate");
    take_over(&["server.key", "server.pem"]);
    assert_eq!(ensure(dir.path(), &[], NOW).unwrap().origin, Origin::Renewed, "a pair of another authority");
    fs::write(path("server.pem"), "rubbish").unwrap();
    assert_eq!(ensure(dir.path(), &[], NOW).unwrap().origin, Origin::Renewed);
    fs::remove_file(path("server.key")).unwrap();
    assert_eq!(ensure(dir.path(), &[], NOW).unwrap().origin, Origin::Renewed);
    assert_ne!(ensure(dir.path(), &[], NOW).unwrap().origin, Origin::Renewed);
}

#[test]
fn the_authority_is_never_replaced_unasked() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    ensure(other.path(), &[], NOW).unwrap();
    let first = ensure(dir.path(), &[], NOW).unwrap();
    let (cert, key) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    let (good_cert, good_key) = (fs::read(&cert).unwrap(), fs::read(&key).unwrap());

    fs::remove_file(&key).unwrap();
    assert!(authority_error(dir.path()).contains("ca.key is missing"));
    assert!(!key.exists());
    fs::write(&key, "rubbish").unwrap();
    assert!(authority_error(dir.path()).contains("ca.key holds no usable key"));
    fs::copy(other.path().join("ca.key"), &key).unwrap();
    assert!(authority_error(dir.path()).contains("does not belong to ca.pem"));
    fs::write(&key, &good_key).unwrap();
    fs::write(&cert, "rubbish").unwrap();
    assert!(authority_error(dir.path()).contains("ca.pem does not hold one certificate"));
    fs::write(&cert, &good_cert).unwrap();
    let same = ensure(dir.path(), &[], NOW).unwrap();
    assert_eq!((same.chain, same.origin), (first.chain, Origin::Stored));
    assert!(matches!(ensure(dir.path(), &[], NOW + 3_653 * DAY), Err(CertError::AuthorityExpired(_))));
}

#[test]
fn a_look_names_what_a_start_would_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("certs");
    ca(&below, &[]).dry_run_ensure().unwrap();
    assert!(!below.exists());
    assert!(matches!(ca(&below, &["a b"]).dry_run_ensure(), Err(CertError::Name(_))));
    ca(&below, &[]).ensure().unwrap();
    ca(&below, &[]).dry_run_ensure().unwrap();
    fs::write(below.join("ca.key"), "rubbish").unwrap();
    assert!(matches!(ca(&below, &[]).dry_run_ensure(), Err(CertError::Authority { .. })));
    fs::remove_file(below.join("ca.key")).unwrap();
    assert!(ca(&below, &[]).dry_run_ensure().unwrap_err().to_string().contains("ca.key is missing"));
    assert!(!below.join("ca.key").exists());
}

#[test]
fn without_an_authority_nothing_is_renewed_or_made() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let refused = ca(&certs, &[]).renew().unwrap_err();
    assert!(matches!(&refused, CertError::NothingToRenew(named) if *named == certs), "{refused}");
    assert!(!certs.exists());
    fs::create_dir(&certs).unwrap();
    assert!(matches!(ca(&certs, &[]).renew(), Err(CertError::NothingToRenew(_))));
    assert_eq!(fs::read_dir(&certs).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn what_root_renews_stays_the_servers() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let dir = tempfile::tempdir().unwrap();
    ca(dir.path(), &[]).ensure().unwrap();
    let of_the_server = |path: &Path| chown(path, Some(4711), Some(4712)).is_ok();
    let files = ["ca.key", "ca.pem", "server.key", "server.pem", ".lock"].map(|file| dir.path().join(file));
    // Only root may give files away.
    if !of_the_server(dir.path()) || !files.iter().all(|file| of_the_server(file)) {
        return;
    }
    assert_eq!(ca(dir.path(), &[]).renew().unwrap().origin, Origin::Renewed);
    for file in files {
        let now = fs::metadata(&file).unwrap();
        assert_eq!((now.uid(), now.gid()), (4711, 4712), "{}", file.display());
    }
    // Started by root, it makes what is missing for the owner of the folder.
    fs::remove_file(dir.path().join("server.key")).unwrap();
    assert_eq!(ca(dir.path(), &[]).ensure().unwrap().origin, Origin::Renewed);
    assert_eq!(fs::metadata(dir.path().join("server.key")).unwrap().uid(), 4711);
}

#[test]
fn a_lost_ca_pem_comes_back_for_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = ensure(dir.path(), &[], NOW).unwrap();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    let second = ensure(dir.path(), &[], NOW).unwrap();
    assert_eq!(second.origin, Origin::Renewed);
    assert_eq!(second.fingerprint, first.fingerprint);
}

#[test]
fn close_to_the_authoritys_end_nothing_is_made_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let start = ensure(dir.path(), &[], NOW).unwrap();
    let late = NOW + 3_640 * DAY;
    let last = ensure(dir.path(), &[], late).unwrap();
    assert!(last.origin == Origin::Renewed && last.expires_unix < late + 13 * DAY);
    assert_eq!(last.fingerprint, start.fingerprint);
    assert_ne!(ensure(dir.path(), &[], late + DAY).unwrap().origin, Origin::Renewed);
}

#[test]
fn starts_at_once_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| ensure(dir.path(), &[], NOW).unwrap())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    assert!(made.iter().all(|one| one.chain == made[0].chain && one.key == made[0].key));
    assert_eq!(made.iter().filter(|one| one.origin == Origin::Created).count(), 1);
}

#[test]
fn the_real_clock_and_this_machine_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let made = ca(dir.path(), &[]).ensure().unwrap();
    assert!(own_addresses().iter().take(MAX_OWN_ADDRESSES).all(|ip| made.names.contains(&ip.to_string())));
}

#[test]
fn a_folder_in_which_nothing_has_to_be_written_is_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let made = ensure(dir.path(), &["a.example"], NOW).unwrap();
    // A folder in its place could not be locked, whoever asks: root may write everywhere.
    let lock = dir.path().join(".lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let stored = ensure(dir.path(), &["a.example"], NOW + DAY).unwrap();
    assert_eq!((stored.origin, stored.fingerprint), (Origin::Stored, made.fingerprint));
    assert!(ensure(dir.path(), &["b.example"], NOW).is_err(), "another name has to be written");
    assert!(ensure(dir.path(), &["a.example"], made.expires_unix - DAY).is_err(), "and so has a renewal");
}

#[test]
fn what_a_read_only_folder_holds_is_used_while_it_is_valid_and_has_the_configured_names() {
    let dir = tempfile::tempdir().unwrap();
    let made = ensure(dir.path(), &["tunnel.example.com"], NOW).unwrap();
    let is_usable = |names: &[&str], now| ca(dir.path(), names).usable(now).unwrap().is_some();
    // Neither fewer than 30 days nor another address of the machine keeps a server from its start.
    assert!(is_usable(&["tunnel.example.com"], NOW) && is_usable(&[], made.expires_unix - DAY));
    assert!(!is_usable(&["other.example.com"], NOW), "that was asked for");
    assert!(!is_usable(&[], made.expires_unix + DAY));
    let other = tempfile::tempdir().unwrap();
    assert!(ca(other.path(), &[]).usable(NOW).unwrap().is_none());
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        assert!(is_read_only(&kind.into()));
    }
    assert!(!is_read_only(&io::ErrorKind::StorageFull.into()));
}
