//! Changes to `clients.toml` that leave every comment and line of the operator where it was.

use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, Value};

use crate::files::{self, Lock, Readers};
use crate::values::ClientId;

use super::clients::ClientsFile;
use super::error::ConfigErrors;
use super::raw::{FileText, check_syntax};

/// Why a client could not be added. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AddClientError {
    /// There is a client with this id already.
    #[error("{}: the client `{id}` exists already; choose another id, or remove this one from the file first", .file.display())]
    Exists {
        /// The clients file.
        file: PathBuf,
        /// The id.
        id: ClientId,
    },
    /// The file has problems of its own, or the new client would give it one.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The file, its directory or its lock cannot be read or written.
    #[error("{0}; check that the directory exists and who may write there")]
    Io(#[from] io::Error),
}

/// Adds `[clients.ID]` with `token_hash` to the clients file at `path`, and makes the file (0600) if there is none.
///
/// The change is atomic: a reader sees the old file or the new one, and two writers take turns by a lock file beside
/// it. It blocks while another one writes. Owner and mode of the file stay: an operator who is root must not lock the
/// server out of its own file.
///
/// # Errors
/// An [`AddClientError`]; the file is then as it was.
pub fn add_client(path: &Path, id: &ClientId, token_hash: &str) -> Result<(), AddClientError> {
    // The file behind a link is the one to change, and its directory the one to write in.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let _lock = lock_beside(&target)?;
    let mut file = match FileText::read(&target, "") {
        Ok(file) => file,
        Err(_) if !target.exists() => FileText { path: target, text: String::new() },
        Err(errors) => return Err(errors.into()),
    };
    if ClientsFile::from_file(&file)?.clients.contains_key(id) {
        return Err(AddClientError::Exists { file: path.to_owned(), id: id.clone() });
    }
    let mut document = check_syntax(&file)?.into_mut();
    insert(&mut document, id, token_hash);
    file.text = document.to_string();
    ClientsFile::from_file(&file)?;
    Ok(files::replace(&file.path, file.text.as_bytes(), Readers::AsBefore)?)
}

/// A directory that is not there is more likely a mistyped path than one to be made.
fn lock_beside(file: &Path) -> io::Result<Lock> {
    let directory = files::directory_of(file);
    directory.metadata().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))?;
    Lock::wait(directory)
}

fn insert(document: &mut DocumentMut, id: &ClientId, token_hash: &str) {
    // Comments after the last section belong before the new one, where they were.
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let mut sections = Table::new();
    sections.set_implicit(true);
    let clients = document.entry("clients").or_insert(Item::Table(sections));
    if let Some(clients) = clients.as_table_mut() {
        let mut client = Table::new();
        client.insert("token_hash", toml_edit::value(token_hash));
        client.decor_mut().set_prefix(format!("{trailing}\n"));
        client.set_position(Some(isize::MAX));
        clients.insert(id.as_str(), Item::Table(client));
        document.set_trailing("");
    } else if let Some(clients) = clients.as_inline_table_mut() {
        clients.insert(id.as_str(), Value::from_iter([("token_hash", token_hash)]));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA";

    fn id(text: &str) -> ClientId {
        ClientId::new(text).unwrap()
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clients.toml");
        (directory, path)
    }

    #[test]
    fn the_first_client_makes_the_file_and_only_its_owner_may_read_it() {
        let (directory, path) = scratch();
        add_client(&path, &id("alice"), HASH).unwrap();
        add_client(&path, &id("bob"), HASH).unwrap();
        let file = ClientsFile::load(&path).unwrap();
        assert_eq!(file.clients.keys().map(ClientId::as_str).collect::<Vec<_>>(), ["alice", "bob"]);
        assert_eq!(&*file.clients["bob"].token_hash, HASH);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(left.len(), 2, "the file and its lock: {left:?}");
    }

    #[test]
    fn what_the_operator_wrote_stays_as_it_was() {
        let (_directory, path) = scratch();
        let hash = "token_hash = '$argon2id$x'";
        for old in [
            "# only comments\n# nothing else\n".to_owned(),
            format!(
                "# top\n\n[clients.zoe] # best\n{hash}   # odd   spacing\nnames = [\n  'z',  # the z\n]\n# the end\n"
            ),
            format!("[clients.b]\n{hash}\n\n[clients.a]\n{hash}\n# no newline at the end"),
            format!("clients.b.{hash}\n"),
            format!("[clients]\nb = {{ {hash} }}\n"),
        ] {
            fs::write(&path, &old).unwrap();
            add_client(&path, &id("mia"), HASH).unwrap();
            let new = fs::read_to_string(&path).unwrap();
            assert!(new.starts_with(old.trim_end()), "{new}");
            assert!(new.trim_end().ends_with(&format!("[clients.mia]\ntoken_hash = \"{HASH}\"")), "{new}");
        }
    }

    #[test]
    fn an_inline_table_grows_in_its_line() {
        let (_directory, path) = scratch();
        fs::write(&path, "# top\nclients = { b = { token_hash = '$argon2id$x' } }\n").unwrap();
        add_client(&path, &id("mia"), HASH).unwrap();
        assert!(ClientsFile::load(&path).unwrap().clients.contains_key("mia"));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# top\nclients = {"));
    }

    #[test]
    fn an_existing_id_a_claimed_name_and_a_broken_file_are_refused_and_nothing_changes() {
        let (_directory, path) = scratch();
        let good = "[clients.alice]\ntoken_hash = '$argon2id$x'\nnames = ['blog']\n";
        for (text, new) in [(good, "alice"), (good, "blog"), ("[clients.alice\n", "bob"), ("[clients.a]\nx = 1\n", "b")]
        {
            fs::write(&path, text).unwrap();
            let error = add_client(&path, &id(new), HASH).unwrap_err();
            assert_eq!(matches!(error, AddClientError::Exists { .. }), new == "alice", "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let (directory, _) = scratch();
        let path = directory.path().join("typo/clients.toml");
        let error = add_client(&path, &id("alice"), HASH).unwrap_err();
        assert!(matches!(error, AddClientError::Io(_)), "{error}");
        let message = error.to_string();
        assert!(message.contains("typo: ") && message.contains("check that the directory exists"), "{message}");
        assert!(!directory.path().join("typo").exists());
    }

    #[test]
    fn writers_take_turns() {
        let (_directory, path) = scratch();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || add_client(path, &id(&format!("c{number}")), HASH).unwrap());
            }
        });
        assert_eq!(ClientsFile::load(&path).unwrap().clients.len(), 8);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_and_the_permissions_survive() {
        use std::os::unix::fs::PermissionsExt as _;
        let (directory, path) = scratch();
        let link = directory.path().join("link.toml");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        add_client(&link, &id("alice"), HASH).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(ClientsFile::load(&path).unwrap().clients.contains_key("alice"));
    }
}
