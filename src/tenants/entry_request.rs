//! A client or an invitation that is requested over the admin API, checked against the rules of `clients.toml`: by the
//! same code, with the same messages, before anything is written.

use std::path::Path;

use config::{Map, Value};
use jiff::Timestamp;

use crate::schema::{Problem, Report};
use crate::tenants::entry::{ClientEntry, ClientsFile, InviteEntry, invite_key, resolve};
use crate::values::{ClientId, Fingerprint};

/// What is requested, as it would be written in the file. The file's default replaces `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryRequest {
    /// The client's id.
    pub id: Option<String>,
    /// `names`.
    pub names: Option<Vec<String>>,
    /// `domains`.
    pub domains: Option<Vec<String>>,
    /// `tcp_ports`.
    pub tcp_ports: Option<Vec<String>>,
    /// `expires`.
    pub expires: Option<String>,
}

/// Placeholders for what a request does not have.
const SOME_ID: &str = "x";
const SOME_TOKEN_HASH: &str = "$argon2id$";
const SOME_CODE_HASH: Fingerprint = Fingerprint([1; 32]);

impl EntryRequest {
    /// Returns the requested client, with a placeholder for the hash of its token. `expires` is in whole seconds. What the
    /// client requests may still belong to another one.
    ///
    /// # Errors
    /// All problems, each under its key.
    pub fn client(self, now: Timestamp) -> Result<(ClientId, ClientEntry), Vec<Problem>> {
        let (id, mut problems) = self.id(true);
        let key = id.as_ref().map_or(SOME_ID, ClientId::as_str);
        let fields = self.fields([("token_hash", Some(SOME_TOKEN_HASH.to_owned()))]);
        let (file, found) = check("clients", key, fields);
        problems.extend(found);
        let mut entry = file.clients.into_values().next();
        if let Some(expires) = entry.as_mut().and_then(|entry| entry.expires.as_mut()) {
            check_expiry(expires, now, &mut problems);
        }
        id.zip(entry).filter(|_| problems.is_empty()).ok_or(problems)
    }

    /// Returns the requested invitation, with a placeholder for the hash of its code. It expires at `default_expires` if
    /// the request does not say when, and in whole seconds.
    ///
    /// # Errors
    /// As [`EntryRequest::client`].
    pub fn invite(self, now: Timestamp, default_expires: Timestamp) -> Result<InviteEntry, Vec<Problem>> {
        let (id, mut problems) = self.id(false);
        // An id with a problem still permits names.
        let some_id = self.id.is_some().then(|| id.map_or_else(|| SOME_ID.to_owned(), String::from));
        let expires = self.expires.is_none().then(|| default_expires.to_string());
        let fields =
            self.fields([("id", some_id), ("code_hash", Some(SOME_CODE_HASH.to_string())), ("expires", expires)]);
        let (file, found) = check("invites", &invite_key(&SOME_CODE_HASH), fields);
        problems.extend(found);
        let mut entry = file.invites.into_values().next();
        if let Some(entry) = &mut entry {
            check_expiry(&mut entry.expires, now, &mut problems);
        }
        entry.filter(|_| problems.is_empty()).ok_or(problems)
    }

    fn id(&self, is_required: bool) -> (Option<ClientId>, Vec<Problem>) {
        let problem = |message: String| vec![Problem { key: "id".to_owned(), message }];
        match self.id.as_deref().map(ClientId::new) {
            Some(Ok(id)) => (Some(id), Vec::new()),
            Some(Err(error)) => (None, problem(error.to_string())),
            None if is_required => (None, problem("is missing".to_owned())),
            None => (None, Vec::new()),
        }
    }

    fn fields<const N: usize>(self, others: [(&str, Option<String>); N]) -> Map<String, Value> {
        let lists = [("names", self.names), ("domains", self.domains), ("tcp_ports", self.tcp_ports)];
        let lists = lists.into_iter().map(|(key, list)| (key, list.map(Value::from)));
        let texts = others.into_iter().chain([("expires", self.expires)]);
        let fields = lists.chain(texts.map(|(key, text)| (key, text.map(Value::from))));
        fields.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// Reads one entry of a section. Returns its problems without the path of the entry.
fn check(section: &str, key: &str, fields: Map<String, Value>) -> (ClientsFile, Vec<Problem>) {
    let entry = Map::from_iter([(key.to_owned(), Value::from(fields))]);
    let root = Map::from_iter([(section.to_owned(), Value::from(entry))]);
    let report = Report::new(None, Path::new(""));
    let file = resolve(report.root(root));
    let mut problems = report.finish(Some(())).err().map(|errors| errors.problems).unwrap_or_default();
    let prefix = format!("{section}.{key}");
    for problem in &mut problems {
        let within = problem.key.strip_prefix(&prefix).map(|rest| rest.trim_start_matches('.').to_owned());
        problem.key = within.unwrap_or_else(|| std::mem::take(&mut problem.key));
    }
    (file, problems)
}

/// Rounds a time down to whole seconds, as it is written, and reports one that has passed.
fn check_expiry(expires: &mut Timestamp, now: Timestamp, problems: &mut Vec<Problem>) {
    *expires = Timestamp::from_second(expires.as_second()).unwrap_or(*expires);
    if *expires <= now {
        problems.push(Problem { key: "expires".to_owned(), message: "is over already".to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::claim::Claim;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn texts(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(ToString::to_string).collect())
    }

    fn keys(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.key.as_str()).collect()
    }

    #[test]
    fn a_client_gets_what_the_file_would_give_it() {
        let request = EntryRequest { id: Some("alice".to_owned()), ..EntryRequest::default() };
        let (id, client) = request.clone().client(now()).unwrap();
        assert_eq!((id.as_str(), client.expires), ("alice", None));
        assert_eq!(client.names, [Claim::Name("alice".parse().unwrap())]);
        let request = EntryRequest {
            names: texts(&["blog", "*.blog"]),
            domains: texts(&["*.alice.example"]),
            tcp_ports: texts(&["20000-20010", "22"]),
            expires: Some("2026-06-01T02:00:00.7+02:00".to_owned()),
            ..request
        };
        let (_, client) = request.client(now()).unwrap();
        assert_eq!(client.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["blog", "*.blog"]);
        assert_eq!((client.domains.len(), client.tcp_ports), (1, vec![20_000..=20_010, 22..=22]));
        assert_eq!(client.expires.unwrap().to_string(), "2026-06-01T00:00:00Z");
    }

    #[test]
    fn every_rule_that_is_broken_is_named_with_its_key() {
        let request = EntryRequest {
            id: Some("Alice".to_owned()),
            names: texts(&["a_b", "*.blog"]),
            domains: texts(&["alice", "192.0.2.1"]),
            tcp_ports: texts(&["0", "9-1"]),
            expires: Some("tomorrow".to_owned()),
        };
        let problems = request.client(now()).unwrap_err();
        let expected =
            ["id", "names[0]", "domains[0]", "domains[1]", "tcp_ports[0]", "tcp_ports[1]", "expires", "names"];
        assert_eq!(keys(&problems), expected, "{problems:?}");
        let request = EntryRequest { expires: Some("2025-01-01T00:00:00Z".to_owned()), ..EntryRequest::default() };
        assert_eq!(keys(&request.client(now()).unwrap_err()), ["id", "expires"]);
        let twice = EntryRequest { id: Some("alice".to_owned()), names: texts(&["a", "a"]), ..EntryRequest::default() };
        assert!(twice.client(now()).unwrap_err()[0].message.contains("listed twice"));
    }

    #[test]
    fn an_invitation_may_leave_everything_open() {
        let by_default: Timestamp = "2026-01-03T00:00:00Z".parse().unwrap();
        let open = EntryRequest::default().invite(now(), by_default).unwrap();
        assert_eq!((open.id, open.names, open.expires), (None, vec![], by_default));
        let request = EntryRequest {
            id: Some("bob".to_owned()),
            expires: Some("2026-01-02T00:00:00Z".to_owned()),
            ..EntryRequest::default()
        };
        let invite = request.invite(now(), by_default).unwrap();
        assert_eq!((invite.id.unwrap().as_str(), invite.names.len()), ("bob", 1));
        assert_eq!(invite.expires.to_string(), "2026-01-02T00:00:00Z");
        let nameless = EntryRequest { names: texts(&["shop"]), ..EntryRequest::default() };
        assert_eq!(keys(&nameless.invite(now(), by_default).unwrap_err()), ["names"]);
        let wrong = EntryRequest { id: Some("B".to_owned()), names: texts(&["shop"]), ..EntryRequest::default() };
        assert_eq!(keys(&wrong.invite(now(), by_default).unwrap_err()), ["id"]);
    }
}
