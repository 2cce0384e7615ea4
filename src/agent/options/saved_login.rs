//! `login.toml`: what `adit login` has kept of a login, so that nobody has to give it each time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, value};

use super::trust;
use crate::files::{self, Readers};
use crate::schema::{ConfigErrors, Environment, FileText, Flags, Key, Report, Table, key, merge};
use crate::transport::tls::Trust;
use crate::values::{ClientId, Secret, ServerAddress};

const FILE: &str = "login.toml";

/// The authorities of the server, beside it.
const CA_FILE: &str = "ca.pem";

const COMMENT: &str = "# Made by `adit login`; `adit logout` removes it. The token is a secret.\n";

/// A login that was good. It is for this server and this client alone.
#[derive(Debug, Clone)]
pub struct SavedLogin {
    /// Where it is good.
    pub server: ServerAddress,
    /// Whose it is.
    pub client_id: ClientId,
    /// What proves it.
    pub token: Secret,
    /// How the server is known.
    pub trust: Trust,
}

impl SavedLogin {
    /// The folder where the user's login is kept: `adit` in `$XDG_CONFIG_HOME` or `~/.config` (`%APPDATA%` on Windows).
    /// `None` if the system names no such place.
    pub fn folder() -> Option<PathBuf> {
        let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = named("XDG_CONFIG_HOME")
            .or_else(|| named("APPDATA").filter(|_| cfg!(windows)))
            .or_else(|| Some(std::env::home_dir().filter(|home| home.is_absolute())?.join(".config")))?;
        Some(config.join("adit"))
    }

    /// Where in `folder` it is kept.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// Reads what is kept in `folder`, if anything is.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn read(folder: &Path) -> Result<Option<Self>, ConfigErrors> {
        let path = Self::file(folder);
        if matches!(path.try_exists(), Ok(false)) {
            return Ok(None);
        }
        let file = FileText::read(&path, "log in again with `adit login`")?;
        let values = merge(Some(&file), &Environment::default(), &Flags::new())?;
        let report = Report::new(Some(&path), folder);
        let login = resolve(report.root(values));
        report.finish(login).map(Some)
    }

    /// Keeps it in `folder`, which is made if need be; only its owner may look inside. The authorities are kept with it,
    /// whatever becomes of the file they came from. Gives the login as it is kept, and the file it is in.
    ///
    /// # Errors
    /// As the file system reports them; the login that was kept before is still there.
    pub fn write(&self, folder: &Path) -> io::Result<(Self, PathBuf)> {
        make_private(folder)?;
        let mut kept = self.clone();
        let ca = folder.join(CA_FILE);
        if let Trust::CaFile(from) = &self.trust {
            let authorities = fs::read(from)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", from.display())))?;
            files::replace(&ca, &authorities, Readers::Owner)?;
            kept.trust = Trust::CaFile(ca.clone());
        }
        let path = Self::file(folder);
        files::replace(&path, kept.text().as_bytes(), Readers::Owner)?;
        if !matches!(kept.trust, Trust::CaFile(_)) {
            remove_if_there(&ca)?;
        }
        Ok((kept, path))
    }

    /// Forgets what is kept in `folder`. Says whether there was anything.
    ///
    /// # Errors
    /// As the file system reports them.
    pub fn remove(folder: &Path) -> io::Result<bool> {
        let was_there = remove_if_there(&Self::file(folder))?;
        remove_if_there(&folder.join(CA_FILE))?;
        Ok(was_there)
    }

    fn text(&self) -> String {
        let mut document = DocumentMut::new();
        document["server"] = value(self.server.to_string());
        document["client_id"] = value(self.client_id.as_str());
        document["token"] = value(self.token.expose());
        match &self.trust {
            Trust::System => {}
            Trust::CaFile(_) => document["ca"] = value(CA_FILE),
            Trust::Fingerprint(fingerprint) => document["fingerprint"] = value(fingerprint.to_string()),
        }
        format!("{COMMENT}{document}")
    }
}

fn resolve(mut root: Table<'_>) -> Option<SavedLogin> {
    const ADVICE: &str = "log in again with `adit login`";
    let server = root.get("server", key::text("", str::parse).required(ADVICE));
    let client_id = root.get("client_id", key::text("", ClientId::new).required(ADVICE));
    let token = root.get("token", Key::new("", |entry| entry.text()).required(ADVICE));
    let trust = trust(&mut root).unwrap_or(Trust::System);
    Some(SavedLogin { server: server?, client_id: client_id?, token: Secret::new(token?), trust })
}

/// Makes `folder`, and lets nobody else in.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        builder.mode(0o700);
        builder.create(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
    }
    #[cfg(not(unix))]
    builder.create(folder)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot remove {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::Fingerprint;

    fn login(trust: Trust) -> SavedLogin {
        let (server, client_id) = ("[::1]:9".parse().unwrap(), ClientId::new("alice").unwrap());
        SavedLogin { server, client_id, token: Secret::new("adit_\"x\\"), trust }
    }

    fn facts(login: &SavedLogin) -> (String, String, String, Trust) {
        let SavedLogin { server, client_id, token, trust } = login;
        (server.to_string(), client_id.to_string(), token.expose().to_owned(), trust.clone())
    }

    #[test]
    fn a_login_is_read_as_it_was_written_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("config/adit");
        assert!(SavedLogin::read(&folder).unwrap().is_none());
        for trust in [Trust::System, Trust::Fingerprint(Fingerprint([7; 32]))] {
            let (kept, path) = login(trust.clone()).write(&folder).unwrap();
            assert_eq!((path, kept.trust.clone()), (folder.join("login.toml"), trust));
            assert_eq!(facts(&SavedLogin::read(&folder).unwrap().unwrap()), facts(&kept));
        }
        assert!(SavedLogin::remove(&folder).unwrap());
        assert!(!SavedLogin::remove(&folder).unwrap());
        assert!(SavedLogin::read(&folder).unwrap().is_none());
    }

    #[test]
    fn authorities_survive_the_file_they_came_from() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, ca) = (dir.path().join("adit"), dir.path().join("theirs.pem"));
        fs::write(&ca, "authorities").unwrap();
        let (kept, _) = login(Trust::CaFile(ca.clone())).write(&folder).unwrap();
        fs::remove_file(&ca).unwrap();
        let read = SavedLogin::read(&folder).unwrap().unwrap();
        assert_eq!(facts(&read), facts(&kept));
        let Trust::CaFile(copy) = read.trust else { panic!("{read:?}") };
        assert_eq!(fs::read_to_string(&copy).unwrap(), "authorities");
        // Once more, from the copy itself; then by something else.
        kept.write(&folder).unwrap();
        assert_eq!(fs::read_to_string(&copy).unwrap(), "authorities");
        login(Trust::System).write(&folder).unwrap();
        assert!(!copy.exists());
        let error = login(Trust::CaFile(ca)).write(&folder).unwrap_err();
        assert!(error.to_string().contains("theirs.pem"), "{error}");
        assert_eq!(SavedLogin::read(&folder).unwrap().unwrap().trust, Trust::System, "what was kept is still there");
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_look() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("adit");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let ca = dir.path().join("theirs.pem");
        fs::write(&ca, "authorities").unwrap();
        let (_, path) = login(Trust::CaFile(ca)).write(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&folder), mode(&path), mode(&folder.join(CA_FILE))], [0o700, 0o600, 0o600]);
    }
}
