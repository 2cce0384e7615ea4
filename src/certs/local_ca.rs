//! Certificates of the server's own making, so that the first start needs nothing but names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use zeroize::Zeroizing;

use super::authority::{Authority, DAY, authority_fingerprint};
use super::facts::{self, Facts};
use super::{CertError, fingerprint_of};
use crate::files::{self, Lock, Readers};
use crate::values::Fingerprint;

const CERT_FILE: &str = "server.pem";
const KEY_FILE: &str = "server.key";

/// A server certificate is made anew when fewer days than this are left.
const RENEW_DAYS: u64 = 30;
/// At most so many of the machine's own addresses go into the certificate, which every handshake carries.
const MAX_OWN_ADDRESSES: usize = 32;
/// Always in the certificate.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A server certificate signed by a small authority, both made and kept in one directory.
///
/// The authority (`ca.pem`, `ca.key`) is good for ten years and is what agents trust; the server certificate
/// (`server.pem`, `server.key`) for 397 days, and is made anew whenever that is called for.
#[derive(Debug)]
pub struct SelfMade {
    /// The certificates as they are sent: the server's, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the server's.
    pub key: PrivateKeyDer<'static>,
    /// The fingerprint of the authority's key: what an agent pins.
    pub fingerprint: Fingerprint,
    /// The host names and IP addresses the server's is for.
    pub names: Vec<String>,
    /// The last second at which the server's is good, counted from 1970, UTC.
    pub expires_unix: u64,
    /// Whether the authority, and with it everything, was made just now.
    pub created: bool,
    /// Whether the server certificate was made anew just now, by the authority that was there.
    pub renewed: bool,
}

impl SelfMade {
    /// Loads the certificates in `dir`, and makes what is missing. `names` are host names (wildcards too) and IP
    /// addresses; `localhost`, the loopback addresses and the machine's own addresses are always added.
    ///
    /// The server certificate is made anew when fewer than 30 days are left, when a wanted name is not in it, or when
    /// it does not fit its key or the authority. The authority is never replaced. Blocks; two processes that start at
    /// once take turns, and get the same. Call it again from time to time to renew in a running server.
    ///
    /// # Errors
    /// A name cannot be in a certificate, a file cannot be read or written, or the authority's files are incomplete,
    /// broken or expired.
    pub fn ensure(dir: &Path, names: &[String]) -> Result<Self, CertError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self::ensure_at(dir, names, &own_addresses(), now)
    }

    /// The same, but the server certificate is made anew in any case, and no authority is made.
    ///
    /// # Errors
    /// As [`SelfMade::ensure`], and there is no authority.
    pub fn renew(dir: &Path, names: &[String]) -> Result<Self, CertError> {
        if !Authority::is_there(dir) {
            return Err(CertError::NothingToRenew(dir.to_owned()));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self::make_at(dir, names, &own_addresses(), (now, true))
    }

    /// What [`SelfMade::ensure`] would stumble over in what is there already, or where there is nothing yet; nothing of it
    /// is made or renewed. Blocks.
    ///
    /// # Errors
    /// As [`SelfMade::ensure`].
    pub fn check(dir: &Path, names: &[String]) -> Result<(), CertError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        wanted_names(names, &[])?;
        Lock::look(dir)?;
        Authority::look(dir, now)?;
        if authority_fingerprint(dir)?.is_none() || Pair::load(dir)?.is_none() {
            files::look_at_place(dir)?;
        }
        Ok(())
    }

    /// What is in `dir`, without making anything; `None` if nothing that could be used is there. Blocks.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn look(dir: &Path) -> Result<Option<Self>, CertError> {
        let Some(Pair { chain, key, facts: Facts { names, expires_unix } }) = Pair::load(dir)? else { return Ok(None) };
        let Some(authority) = chain.last() else { return Ok(None) };
        let (fingerprint, names) = (fingerprint_of(authority)?, names.into_iter().collect());
        Ok(Some(Self { chain, key, fingerprint, names, expires_unix, created: false, renewed: false }))
    }

    /// The file of the server certificate: it changes with every renewal.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(CERT_FILE)
    }

    fn ensure_at(dir: &Path, names: &[String], addresses: &[IpAddr], now: u64) -> Result<Self, CertError> {
        Self::make_at(dir, names, addresses, (now, false))
    }

    fn make_at(
        dir: &Path,
        names: &[String],
        addresses: &[IpAddr],
        (now, anew): (u64, bool),
    ) -> Result<Self, CertError> {
        let wanted = wanted_names(names, addresses)?;
        let _lock = Lock::wait(dir)?;
        let authority = Authority::load_or_make(dir, now)?;
        if let Some(pair) = Pair::load(dir)?.filter(|pair| !anew && pair.is_good(&authority, &wanted, now)) {
            return pair.finish(&authority, false);
        }
        let signed = authority.sign(&wanted.iter().cloned().collect::<Vec<_>>(), now)?;
        // The key first: stopped in between, the next start finds two that do not fit and makes both again.
        files::replace(&dir.join(KEY_FILE), signed.key.as_bytes(), Readers::Owner)?;
        files::replace(&dir.join(CERT_FILE), signed.chain.as_bytes(), Readers::Everyone)?;
        match Pair::load(dir)?.filter(|pair| pair.is_good(&authority, &wanted, now)) {
            Some(pair) => pair.finish(&authority, true),
            None => Err(CertError::Making(format!("what was written to {} is not what was meant", dir.display()))),
        }
    }
}

/// The server's certificate and key as they lie in the directory.
struct Pair {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    facts: Facts,
}

impl Pair {
    /// `None` if either is missing, or they cannot be used: they are ours to make again.
    fn load(dir: &Path) -> Result<Option<Self>, CertError> {
        let (cert_path, key_path) = (dir.join(CERT_FILE), dir.join(KEY_FILE));
        let cert_text = files::read_if_there(&cert_path)?;
        let key_text = files::read_if_there(&key_path)?.map(Zeroizing::new);
        let (Some(cert_text), Some(key_text)) = (cert_text, key_text) else { return Ok(None) };
        let parse = || {
            let chain = facts::chain_in(&cert_text, &cert_path)?;
            let key = facts::key_in(&key_text, &key_path)?;
            let first = chain.first().ok_or_else(|| CertError::NoCertificate(cert_path.clone()))?;
            let facts = Facts::of(first, &cert_path)?;
            let fits = facts::is_pair((first, &cert_path), (&key, &key_path))?;
            Ok::<_, CertError>(fits.then_some(Self { chain, key, facts }))
        };
        Ok(parse().unwrap_or(None))
    }

    fn is_good(&self, authority: &Authority, wanted: &BTreeSet<String>, now: u64) -> bool {
        let ahead = (now + RENEW_DAYS * DAY).min(authority.expires_unix);
        matches!(&*self.chain, [server, ca] if *ca == authority.cert
            && authority.vouches_for(server, now)
            && authority.vouches_for(server, ahead))
            && wanted.is_subset(&self.facts.names)
    }

    fn finish(self, authority: &Authority, made: bool) -> Result<SelfMade, CertError> {
        Ok(SelfMade {
            fingerprint: fingerprint_of(&authority.cert)?,
            chain: self.chain,
            key: self.key,
            names: self.facts.names.into_iter().collect(),
            expires_unix: self.facts.expires_unix,
            created: authority.created,
            renewed: made && !authority.created,
        })
    }
}

/// The names to have in the certificate, each in the one way it is written there.
fn wanted_names(names: &[String], addresses: &[IpAddr]) -> Result<BTreeSet<String>, CertError> {
    let mut wanted: BTreeSet<String> = LOOPBACK.map(String::from).into();
    wanted.extend(addresses.iter().take(MAX_OWN_ADDRESSES).map(IpAddr::to_string));
    for name in names {
        if let Ok(ip) = name.parse::<IpAddr>() {
            wanted.insert(ip.to_string());
            continue;
        }
        let host = name.strip_prefix("*.").unwrap_or(name);
        DnsName::try_from(host).map_err(|_| CertError::Name(name.clone()))?;
        wanted.insert(name.to_ascii_lowercase());
    }
    Ok(wanted)
}

/// The addresses others may reach this machine by. Where the system does not tell, there are none: `names` says the
/// rest.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "this machine's own addresses are unknown and will not be in the certificate");
        Vec::new()
    });
    let reachable = interfaces.iter().filter(|interface| !interface.is_loopback() && !interface.is_link_local());
    let mut addresses: Vec<_> = reachable.map(if_addrs::Interface::ip).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls::client::verify_server_name;
    use rustls::server::ParsedCertificate;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn ensure(dir: &Path, names: &[&str], now: u64) -> Result<SelfMade, CertError> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        SelfMade::ensure_at(dir, &names, &["192.0.2.7".parse().unwrap()], now)
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
        assert!(made.created && !made.renewed);
        assert_eq!(made.fingerprint, fingerprint_of(&made.chain[1]).unwrap());
        assert_eq!(authority_fingerprint(&dir.path().join("certs")).unwrap(), Some(made.fingerprint));
        let names = ["*.tunnel.example.com", "127.0.0.1", "192.0.2.7", "::1", "localhost", "tunnel.example.com"]
            .map(String::from);
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
        assert!(!same.created && !same.renewed);
        assert_eq!(same.chain, first.chain);
        let renewed = ensure(dir.path(), &["a.example"], month_left + 1).unwrap();
        assert!(!renewed.created && renewed.renewed);
        assert_ne!(renewed.chain[0], first.chain[0]);
        assert_eq!((&renewed.chain[1], renewed.fingerprint), (&first.chain[1], first.fingerprint));
        assert!(renewed.expires_unix > month_left + 300 * DAY);
    }

    #[test]
    fn a_new_name_makes_a_new_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), &["a.example"], NOW).unwrap();
        let second = ensure(dir.path(), &["a.example", "b.example"], NOW).unwrap();
        assert!(second.renewed && second.names.contains(&"b.example".to_owned()));
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
        assert!(ensure(dir.path(), &[], NOW).unwrap().renewed, "the key of another certificate");
        take_over(&["server.key", "server.pem"]);
        assert!(ensure(dir.path(), &[], NOW).unwrap().renewed, "a pair of another authority");
        fs::write(path("server.pem"), "rubbish").unwrap();
        assert!(ensure(dir.path(), &[], NOW).unwrap().renewed);
        fs::remove_file(path("server.key")).unwrap();
        assert!(ensure(dir.path(), &[], NOW).unwrap().renewed);
        assert!(!ensure(dir.path(), &[], NOW).unwrap().renewed);
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
        assert_eq!((same.chain, same.renewed), (first.chain, false));
        assert!(matches!(ensure(dir.path(), &[], NOW + 3_653 * DAY), Err(CertError::AuthorityExpired(_))));
    }

    #[test]
    fn a_look_names_what_a_start_would_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("certs");
        SelfMade::check(&below, &[]).unwrap();
        assert!(!below.exists());
        assert!(matches!(SelfMade::check(&below, &["a b".to_owned()]), Err(CertError::Name(_))));
        SelfMade::ensure(&below, &[]).unwrap();
        SelfMade::check(&below, &[]).unwrap();
        fs::write(below.join("ca.key"), "rubbish").unwrap();
        assert!(matches!(SelfMade::check(&below, &[]), Err(CertError::Authority { .. })));
        fs::remove_file(below.join("ca.key")).unwrap();
        assert!(SelfMade::check(&below, &[]).unwrap_err().to_string().contains("ca.key is missing"));
        assert!(!below.join("ca.key").exists());
    }

    #[test]
    fn without_an_authority_nothing_is_renewed_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        let refused = SelfMade::renew(&certs, &[]).unwrap_err();
        assert!(matches!(&refused, CertError::NothingToRenew(named) if *named == certs), "{refused}");
        assert!(!certs.exists());
        fs::create_dir(&certs).unwrap();
        assert!(matches!(SelfMade::renew(&certs, &[]), Err(CertError::NothingToRenew(_))));
        assert_eq!(fs::read_dir(&certs).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn what_root_renews_stays_the_servers() {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let dir = tempfile::tempdir().unwrap();
        SelfMade::ensure(dir.path(), &[]).unwrap();
        let of_the_server = |path: &Path| chown(path, Some(4711), Some(4712)).is_ok();
        let files = ["ca.key", "ca.pem", "server.key", "server.pem", ".lock"].map(|file| dir.path().join(file));
        // Only root may give files away.
        if !of_the_server(dir.path()) || !files.iter().all(|file| of_the_server(file)) {
            return;
        }
        assert!(SelfMade::renew(dir.path(), &[]).unwrap().renewed);
        for file in files {
            let now = fs::metadata(&file).unwrap();
            assert_eq!((now.uid(), now.gid()), (4711, 4712), "{}", file.display());
        }
        // Started by root, it makes what is missing for the owner of the folder.
        fs::remove_file(dir.path().join("server.key")).unwrap();
        assert!(SelfMade::ensure(dir.path(), &[]).unwrap().renewed);
        assert_eq!(fs::metadata(dir.path().join("server.key")).unwrap().uid(), 4711);
    }

    #[test]
    fn a_lost_ca_pem_comes_back_for_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), &[], NOW).unwrap();
        fs::remove_file(dir.path().join("ca.pem")).unwrap();
        let second = ensure(dir.path(), &[], NOW).unwrap();
        assert!(!second.created && second.renewed);
        assert_eq!(second.fingerprint, first.fingerprint);
    }

    #[test]
    fn close_to_the_authoritys_end_nothing_is_made_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let start = ensure(dir.path(), &[], NOW).unwrap();
        let late = NOW + 3_640 * DAY;
        let last = ensure(dir.path(), &[], late).unwrap();
        assert!(last.renewed && last.expires_unix < late + 13 * DAY);
        assert_eq!(last.fingerprint, start.fingerprint);
        assert!(!ensure(dir.path(), &[], late + DAY).unwrap().renewed);
    }

    #[test]
    fn starts_at_once_get_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| ensure(dir.path(), &[], NOW).unwrap())).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(made.iter().all(|one| one.chain == made[0].chain && one.key == made[0].key));
        assert_eq!(made.iter().filter(|one| one.created).count(), 1);
    }

    #[test]
    fn the_real_clock_and_this_machine_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let made = SelfMade::ensure(dir.path(), &[]).unwrap();
        assert!(own_addresses().iter().take(MAX_OWN_ADDRESSES).all(|ip| made.names.contains(&ip.to_string())));
    }
}
