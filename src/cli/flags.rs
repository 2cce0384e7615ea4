//! What `adit http` and `adit tcp` are told of a service, in the words of `agent.toml`; and complaints about it, in the
//! words of the command line.

use std::collections::HashMap;

use super::Failure;
use super::password::ask_new;
use crate::auth::hash;
use crate::schema::{ConfigErrors, Problem, ValueKind};
use crate::values::Secret;

/// The keys of a service, as a section of `[[services]]` has them.
pub(super) type Keys = HashMap<String, ValueKind>;

/// Which visitors get in.
#[derive(Debug, clap::Args)]
pub(super) struct AddressArgs {
    /// Let in only visitors from this network or address; may be given several times [default: everybody]
    #[arg(long, value_name = "CIDR")]
    allow: Vec<String>,
}

/// Which visitors get in, where they can be asked who they are.
#[derive(Debug, clap::Args)]
pub(super) struct VisitorArgs {
    #[command(flatten)]
    addresses: AddressArgs,
    /// Ask visitors for this name and password. Without `:PASSWORD` you are asked for it, which keeps it out of the shell's
    /// history; may be given several times
    #[arg(long, value_name = "USER[:PASSWORD]")]
    basic_auth: Vec<String>,
}

impl AddressArgs {
    /// The keys of `[services.access]`.
    pub(super) fn keys(self) -> Keys {
        let allow = (!self.allow.is_empty()).then(|| ("allow".to_owned(), self.allow.into()));
        allow.into_iter().collect()
    }
}

impl VisitorArgs {
    /// The keys of `[services.access]`, and who is to get in by a password.
    ///
    /// # Errors
    /// A user who is given twice, or with an empty password. Nobody was asked yet.
    pub(super) fn split(self) -> Result<(Keys, Users), Failure> {
        let mut users: Vec<(String, Option<Secret>)> = Vec::new();
        for given in self.basic_auth {
            let (user, password) = match given.split_once(':') {
                Some((_, "")) => return Err(Failure::other("--basic-auth: the password behind the colon is empty")),
                Some((user, password)) => (user.to_owned(), Some(Secret::new(password))),
                None => (given, None),
            };
            if users.iter().any(|(other, _)| *other == user) {
                return Err(Failure::Other(format!("--basic-auth: `{user}` is given twice")));
            }
            users.push((user, password));
        }
        Ok((self.addresses.keys(), Users(users)))
    }
}

/// Who is to get in by a password, each with it, if it was given.
#[derive(Default)]
pub(super) struct Users(Vec<(String, Option<Secret>)>);

/// In the form of a hash, and nobody's.
const NO_HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAA";

impl Users {
    /// `[services.access]` with these users and no password of theirs, for a look at all else before anybody is asked.
    pub(super) fn unasked(&self, access: &Keys) -> Keys {
        self.with_hashes(access, std::iter::repeat_n(NO_HASH.to_owned(), self.0.len()))
    }

    /// `[services.access]` with these users. Asks for passwords that were not given.
    pub(super) fn asked(&self, access: &Keys) -> Result<Keys, Failure> {
        let hash_of = |(user, password): &(String, Option<Secret>)| {
            let hashed = match password {
                Some(password) => hash(password),
                None => hash(&ask_new(&format!("Password of {user}: "))?),
            };
            hashed.map_err(Failure::other)
        };
        let hashes = self.0.iter().map(hash_of).collect::<Result<Vec<_>, _>>()?;
        Ok(self.with_hashes(access, hashes))
    }

    fn with_hashes(&self, access: &Keys, hashes: impl IntoIterator<Item = String>) -> Keys {
        let users: Keys = self.0.iter().zip(hashes).map(|((user, _), hash)| (user.clone(), hash.into())).collect();
        let mut keys = access.clone();
        if !users.is_empty() {
            keys.insert("basic_auth".to_owned(), users.into());
        }
        keys
    }
}

/// What of `[[services]]` has flags, and which.
const FLAGS: [(&str, &str); 10] = [
    ("services[0].name", "--name"),
    ("services[0].host_header", "--host-header"),
    ("services[0].insecure_skip_verify", "--insecure-skip-verify"),
    ("services[0].remote_port", "--remote-port"),
    ("services[0].access.allow", "--allow"),
    ("services[0].access.basic_auth", "--basic-auth"),
    ("servers", "--server"),
    ("client_id", "--id"),
    ("token", "--token"),
    ("fingerprint", "--fingerprint"),
];

/// The same complaints about what the command line has said, by the names that it has there; `local` is that of the
/// argument.
pub(super) fn in_flags(mut errors: ConfigErrors, local: &str) -> ConfigErrors {
    for Problem { key, message } in &mut errors.problems {
        let is_of =
            |known: &str| key.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']));
        let flag = match key.as_str() {
            "services[0].local" => Some(local),
            _ => FLAGS.into_iter().find_map(|(known, flag)| is_of(known).then_some(flag)),
        };
        // What is missing, or came from elsewhere, is to be found under its own name.
        if let (Some(flag), Some(bare)) = (flag, message.strip_suffix(" (from the command line)")) {
            (*key, *message) = (flag.to_owned(), bare.to_owned());
        } else if let Some(flag) = flag.filter(|_| key.starts_with("services")) {
            *key = flag.to_owned();
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::options::AgentOptions;
    use crate::schema::{Environment, Flags};

    fn resolved(service: Keys, id: &str) -> Result<AgentOptions, ConfigErrors> {
        let flags = Flags::new().with("services", vec![service]).with("client_id", id);
        AgentOptions::from_flags(&Environment::default(), &flags.with("servers", "a").with("token", "x"))
            .map_err(|errors| in_flags(errors, "PORT|URL"))
    }

    fn service(local: &str, access: Keys) -> Keys {
        Keys::from([("local".to_owned(), local.into()), ("access".to_owned(), access.into())])
    }

    fn visitors(allow: &[&str], basic_auth: &[&str]) -> Result<(Keys, Users), Failure> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        VisitorArgs { addresses: AddressArgs { allow: owned(allow) }, basic_auth: owned(basic_auth) }.split()
    }

    fn access(allow: &[&str], basic_auth: &[&str]) -> Keys {
        let (access, users) = visitors(allow, basic_auth).unwrap();
        users.asked(&access).unwrap()
    }

    #[test]
    fn flags_become_the_policy_that_a_file_would_have() {
        let access_keys = access(&["192.0.2.0/24", "::1"], &["Ann.B:pass:word"]);
        let policy = resolved(service("3000", access_keys), "alice").unwrap().services.remove(0).access;
        assert_eq!(policy.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.0/24", "::1/128"]);
        assert_eq!(policy.basic_auth.len(), 1);
        assert_eq!(policy.basic_auth[0].user, "Ann.B");
        assert!(policy.basic_auth[0].hash.starts_with("$argon2id$"));
        let open = resolved(service("3000", access(&[], &[])), "alice").unwrap();
        let unasked = visitors(&[], &["ann", "bob:x"]).map(|(access, users)| users.unasked(&access)).unwrap();
        assert_eq!(resolved(service("3000", unasked), "alice").unwrap().services[0].access.basic_auth.len(), 2);
        assert!(open.services[0].access.is_open() && open.services[0].by_flags);
    }

    #[test]
    fn complaints_name_arguments_and_flags_and_no_keys() {
        let (access, users) = visitors(&["everywhere"], &[""]).unwrap();
        let access = users.unasked(&access);
        let errors = resolved(service("99999", access), "A B").unwrap_err().to_string();
        let keys: Vec<&str> = errors.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert_eq!(keys, ["--id", "PORT|URL", "--allow", "--basic-auth"], "{errors}");
        assert!(!errors.contains("services[") && !errors.contains("(from the command line)"), "{errors}");
    }

    #[test]
    fn a_password_is_neither_empty_nor_given_twice() {
        for (given, says) in [(&["ann:"][..], "empty"), (&["ann:x", "ann"], "twice"), (&["ann", "ann"], "twice")] {
            let error = visitors(&[], given).err().map(|error| error.to_string());
            assert!(error.is_some_and(|error| error.contains(says)), "{given:?}");
        }
    }
}
