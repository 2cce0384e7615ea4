//! A client or an invitation as somebody asks for it, held against the rules of `clients.toml`: the same walk, the same
//! messages, before anything is written.

use std::ops::RangeInclusive;
use std::path::Path;

use config::{Map, Value};
use jiff::Timestamp;

use crate::schema::Problem;
use crate::schema::Report;
use crate::tenants::claim::{Claim, claims_of};
use crate::tenants::entry::{ClientsFile, invite_key, resolve};
use crate::values::{ClientId, Domain, Fingerprint};

/// What is asked for, in the words of the file. What is `None` gets the file's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryDraft {
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

/// A client that breaks no rule by itself. It may still want what belongs to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientDraft {
    /// Its id.
    pub id: ClientId,
    /// What it may claim; its own id at least.
    pub names: Vec<Claim>,
    /// Its domains.
    pub domains: Vec<Domain>,
    /// Its public ports.
    pub tcp_ports: Vec<RangeInclusive<u16>>,
    /// When it may no longer log in: later than now, in whole seconds.
    pub expires: Option<Timestamp>,
}

/// An invitation that breaks no rule by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteDraft {
    /// Who is invited.
    pub id: Option<ClientId>,
    /// What the new client may claim.
    pub names: Vec<Claim>,
    /// When it holds no more: later than now, in whole seconds. `None`: nothing was said.
    pub expires: Option<Timestamp>,
}

/// Stands for what a draft does not have yet.
const SOME_ID: &str = "x";
const SOME_TOKEN_HASH: &str = "$argon2id$";
const SOME_CODE_HASH: Fingerprint = Fingerprint([1; 32]);
const SOME_END: &str = "9999-01-01T00:00:00Z";

impl EntryDraft {
    /// As a client.
    ///
    /// # Errors
    /// Everything that is wrong, each under the key that it is in.
    pub fn client(self, now: Timestamp) -> Result<ClientDraft, Vec<Problem>> {
        let (id, mut problems) = self.id(true);
        let key = id.as_ref().map_or(SOME_ID, ClientId::as_str);
        let mut fields = self.fields();
        fields.insert("token_hash".to_owned(), Value::from(SOME_TOKEN_HASH));
        let (file, found) = walk("clients", key, fields);
        problems.extend(found);
        let entry = file.clients.into_values().next();
        let expires = end_of(entry.as_ref().and_then(|entry| entry.expires), now, &mut problems);
        match (id, entry) {
            (Some(id), Some(entry)) if problems.is_empty() => Ok(ClientDraft {
                id,
                names: claims_of(&entry.names, &entry.wildcards),
                domains: entry.domains,
                tcp_ports: entry.tcp_ports,
                expires,
            }),
            _ => Err(problems),
        }
    }

    /// As an invitation.
    ///
    /// # Errors
    /// As [`EntryDraft::client`].
    pub fn invite(self, now: Timestamp) -> Result<InviteDraft, Vec<Problem>> {
        let (id, mut problems) = self.id(false);
        let says_when = self.expires.is_some();
        let mut fields = self.fields();
        // One that is wrong stands for an id all the same: names may stand beside it.
        let some_id = self.id.is_some().then(|| id.as_ref().map_or(SOME_ID, ClientId::as_str));
        fields.extend(some_id.map(|id| ("id".to_owned(), Value::from(id))));
        fields.insert("code_hash".to_owned(), Value::from(SOME_CODE_HASH.to_string()));
        fields.entry("expires".to_owned()).or_insert_with(|| Value::from(SOME_END));
        let (file, found) = walk("invites", &invite_key(&SOME_CODE_HASH), fields);
        problems.extend(found);
        let entry = file.invites.into_values().next();
        let expires = entry.as_ref().map(|entry| entry.expires).filter(|_| says_when);
        let expires = end_of(expires, now, &mut problems);
        match entry {
            Some(entry) if problems.is_empty() => {
                Ok(InviteDraft { id, names: claims_of(&entry.names, &entry.wildcards), expires })
            }
            _ => Err(problems),
        }
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

    fn fields(&self) -> Map<String, Value> {
        let lists = [("names", &self.names), ("domains", &self.domains), ("tcp_ports", &self.tcp_ports)];
        let lists = lists.into_iter().filter_map(|(key, list)| Some((key.to_owned(), Value::from(list.clone()?))));
        let expires = self.expires.iter().map(|text| ("expires".to_owned(), Value::from(text.as_str())));
        lists.chain(expires).collect()
    }
}

/// Walks over one entry of a section, and says what is wrong with it.
fn walk(section: &str, key: &str, fields: Map<String, Value>) -> (ClientsFile, Vec<Problem>) {
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

/// In whole seconds, as it is written.
fn end_of(end: Option<Timestamp>, now: Timestamp, problems: &mut Vec<Problem>) -> Option<Timestamp> {
    let end = Timestamp::from_second(end?.as_second()).ok();
    if end.is_some_and(|end| end <= now) {
        problems.push(Problem { key: "expires".to_owned(), message: "is over already".to_owned() });
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let draft = EntryDraft { id: Some("alice".to_owned()), ..EntryDraft::default() };
        let client = draft.clone().client(now()).unwrap();
        assert_eq!((client.id.as_str(), client.expires), ("alice", None));
        assert_eq!(client.names, [Claim::Name("alice".parse().unwrap())]);
        let draft = EntryDraft {
            names: texts(&["blog", "*.blog"]),
            domains: texts(&["*.alice.example"]),
            tcp_ports: texts(&["20000-20010", "22"]),
            expires: Some("2026-06-01T02:00:00.7+02:00".to_owned()),
            ..draft
        };
        let client = draft.client(now()).unwrap();
        assert_eq!(client.names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["blog", "*.blog"]);
        assert_eq!((client.domains.len(), client.tcp_ports), (1, vec![20_000..=20_010, 22..=22]));
        assert_eq!(client.expires.unwrap().to_string(), "2026-06-01T00:00:00Z");
    }

    #[test]
    fn every_rule_that_is_broken_is_named_with_its_key() {
        let draft = EntryDraft {
            id: Some("Alice".to_owned()),
            names: texts(&["a_b", "*.blog"]),
            domains: texts(&["alice", "192.0.2.1"]),
            tcp_ports: texts(&["0", "9-1"]),
            expires: Some("tomorrow".to_owned()),
        };
        let problems = draft.client(now()).unwrap_err();
        let expected =
            ["id", "names[0]", "domains[0]", "domains[1]", "tcp_ports[0]", "tcp_ports[1]", "expires", "names"];
        assert_eq!(keys(&problems), expected, "{problems:?}");
        let draft = EntryDraft { expires: Some("2025-01-01T00:00:00Z".to_owned()), ..EntryDraft::default() };
        assert_eq!(keys(&draft.client(now()).unwrap_err()), ["id", "expires"]);
        let twice = EntryDraft { id: Some("alice".to_owned()), names: texts(&["a", "a"]), ..EntryDraft::default() };
        assert!(twice.client(now()).unwrap_err()[0].message.contains("listed twice"));
    }

    #[test]
    fn an_invitation_may_leave_everything_open() {
        let open = EntryDraft::default().invite(now()).unwrap();
        assert_eq!(open, InviteDraft { id: None, names: vec![], expires: None });
        let draft = EntryDraft {
            id: Some("bob".to_owned()),
            expires: Some("2026-01-02T00:00:00Z".to_owned()),
            ..EntryDraft::default()
        };
        let invite = draft.invite(now()).unwrap();
        assert_eq!((invite.id.unwrap().as_str(), invite.names.len()), ("bob", 1));
        assert_eq!(invite.expires.unwrap().to_string(), "2026-01-02T00:00:00Z");
        let nameless = EntryDraft { names: texts(&["shop"]), ..EntryDraft::default() };
        assert_eq!(keys(&nameless.invite(now()).unwrap_err()), ["names"]);
        let wrong = EntryDraft { id: Some("B".to_owned()), names: texts(&["shop"]), ..EntryDraft::default() };
        assert_eq!(keys(&wrong.invite(now()).unwrap_err()), ["id"]);
    }
}
