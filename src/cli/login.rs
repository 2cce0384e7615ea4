//! `adit login` and `adit logout`: proves a login once, and keeps it for the commands that follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use rustls::ClientConfig;

use super::terminal::ask_secret;
use super::{Failure, runtime};
use crate::agent::connector::{ConnectError, Connector};
use crate::agent::options::SavedLogin;
use crate::agent::{GivenUp, SetUpError};
use crate::auth::{InviteCode, Token};
use crate::protocol::login::{Known, Proof, Refusal};
use crate::schema::TOKEN_VARIABLE;
use crate::transport::tls;
use crate::transport::tls::Trust;
use crate::values::ServerAddress;
use crate::values::{ClientId, Fingerprint, InstanceId, Secret, bare};

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "adit login <HOST:PORT> --invite <CODE>\n       adit login <HOST:PORT> --id <ID> [--token <TOKEN>]"
)]
pub(super) struct LoginArgs {
    /// The server's tunnel address
    #[arg(value_name = "HOST:PORT")]
    server: ServerAddress,
    /// The client id that the token belongs to
    #[arg(long, value_name = "ID")]
    id: Option<ClientId>,
    /// The token; without it, ADIT_TOKEN in the environment, or you are asked
    #[arg(long, value_name = "TOKEN", conflicts_with = "invite")]
    token: Option<String>,
    /// An invitation of the server's operator: it buys a token, once
    #[arg(long, value_name = "CODE")]
    invite: Option<String>,
    /// Trust this CA file (the server's certs/ca.pem); a copy is kept
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    ca: Option<PathBuf>,
    /// Trust the server with this fingerprint, as it prints it when it starts
    #[arg(long, value_name = "sha256:…")]
    fingerprint: Option<Fingerprint>,
}

/// What the server is asked.
#[derive(Debug)]
struct Question {
    server: ServerAddress,
    client_id: ClientId,
    proof: Proof,
    trust: Trust,
}

/// An invitation: what is sent, and what else it says.
#[derive(Debug)]
struct Invitation {
    code: Secret,
    pin: Option<Fingerprint>,
    id: Option<ClientId>,
}

/// Understands the code of an invitation.
fn read_invitation(text: &str) -> Result<Invitation, Failure> {
    let code = InviteCode::parse(text).map_err(Failure::other)?;
    Ok(Invitation { code: code.as_secret().clone(), pin: code.pin(), id: code.id().cloned() })
}

pub(super) fn run(args: LoginArgs) -> Result<(), Failure> {
    refuse_code_as_server(&args.server)?;
    let folder = folder()?;
    let question = match &args.invite {
        Some(code) => with_invitation(&args, read_invitation(code)?)?,
        None => with_token(args)?,
    };
    let tls = tls::client(&question.trust).map_err(SetUpError::Tls)?;
    let known = runtime::single_threaded()?.block_on(ask(&question, tls))?;
    keep(question, known, &folder)
}

/// An invitation in the place of the server would be looked up, and so be shown to whoever runs the name servers.
fn refuse_code_as_server(server: &ServerAddress) -> Result<(), Failure> {
    match server.host.starts_with("adit_") {
        true => Err(Failure::Usage(
            "the first argument is the server's address, and this is a code or a token: adit login HOST:PORT --invite CODE"
                .to_owned(),
        )),
        false => Ok(()),
    }
}

/// Forgets the login.
pub(super) fn log_out() -> Result<(), Failure> {
    let folder = folder()?;
    let file = SavedLogin::file(&folder);
    match SavedLogin::remove(&folder).map_err(Failure::other)? {
        true => println!("logged out: removed {}", file.display()),
        false => println!("nobody was logged in: there is no {}", file.display()),
    }
    Ok(())
}

fn folder() -> Result<PathBuf, Failure> {
    SavedLogin::folder().ok_or_else(|| {
        Failure::other("this system says nowhere where settings are kept; set HOME, or XDG_CONFIG_HOME to a whole path")
    })
}

fn with_token(args: LoginArgs) -> Result<Question, Failure> {
    let Some(client_id) = args.id else {
        let server = &args.server;
        return Err(Failure::Usage(format!(
            "what proves who you are is missing\n  adit login {server} --invite CODE   with an invitation from the \
             server's operator\n  adit login {server} --id ID         with a token"
        )));
    };
    let trust = trust(args.ca, args.fingerprint);
    let from_environment = || std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
    let token = match args.token.or_else(from_environment) {
        Some(token) => Secret::new(bare(&token)),
        None => {
            // Nobody is to type a secret in vain.
            reach(&args.server, &client_id, &trust)?;
            Secret::new(bare(ask_secret(&format!("Token of {client_id}: "))?.expose()))
        }
    };
    if token.expose().is_empty() {
        return Err(Failure::other("no token was given; pass --token, ADIT_TOKEN or --invite"));
    }
    Ok(Question { server: args.server, client_id, proof: Proof::Token(token), trust })
}

/// Whether the server is there, and the right one.
fn reach(server: &ServerAddress, client_id: &ClientId, trust: &Trust) -> Result<(), Failure> {
    let tls = tls::client(trust).map_err(SetUpError::Tls)?;
    let instance = InstanceId::random().map_err(SetUpError::Randomness)?;
    let connector = Connector::new(client_id.clone(), tls, instance);
    let reached = runtime::single_threaded()?.block_on(connector.reach(server));
    reached.map_err(|error| Failure::other(format!("{server}: {error}")))
}

fn with_invitation(args: &LoginArgs, invitation: Invitation) -> Result<Question, Failure> {
    let Invitation { code, pin, id } = invitation;
    if let (Some(asked), Some(meant)) = (&args.id, &id)
        && asked != meant
    {
        return Err(Failure::other(format!("the invitation is for `{meant}`, not for `{asked}`; leave --id out")));
    }
    let Some(client_id) = id.or_else(|| args.id.clone()) else {
        return Err(Failure::other("the invitation leaves the id to you: choose one with --id"));
    };
    // What was given by hand was meant.
    let trust = match (trust(args.ca.clone(), args.fingerprint), pin) {
        (Trust::System, Some(pin)) => Trust::Fingerprint(pin),
        (trust, _) => trust,
    };
    Ok(Question { server: args.server.clone(), client_id, proof: Proof::Invite(code), trust })
}

fn trust(ca: Option<PathBuf>, fingerprint: Option<Fingerprint>) -> Trust {
    match (ca, fingerprint) {
        (Some(ca), _) => Trust::CaFile(ca),
        (None, Some(fingerprint)) => Trust::Fingerprint(fingerprint),
        (None, None) => Trust::System,
    }
}

async fn ask(question: &Question, tls: Arc<ClientConfig>) -> Result<Known, Failure> {
    let Question { server, client_id, proof, .. } = question;
    let instance = InstanceId::random().map_err(SetUpError::Randomness)?;
    let answer = Connector::new(client_id.clone(), tls, instance).ask(server, proof.clone()).await;
    answer.map_err(|error| match error {
        ConnectError::Refused(refused) if !refused.code.may_retry() => {
            if let (Refusal::BadToken, Proof::Token(token)) = (refused.code, proof) {
                look_again(token);
            }
            let (server, code) = (server.to_string(), refused.code);
            // It takes a question for a login, and complains that nothing is offered.
            let hint = if code == Refusal::NotAllowed { "; is the server older than this program?" } else { "" };
            Failure::from(GivenUp::Refused { server, code, message: format!("{}{hint}", refused.message) })
        }
        error => Failure::other(format!("{server}: {error}")),
    })
}

/// Says what a slip of the hand has made of a token that was refused.
pub(super) fn look_again(token: &Secret) {
    if let Err(why) = Token::parse(token.expose()) {
        eprintln!("Look at the token again: {why}");
    }
}

fn keep(question: Question, known: Known, folder: &Path) -> Result<(), Failure> {
    let Question { server, proof, trust, .. } = question;
    let Known { client_id, token: bought, names } = known;
    let token = match (bought, proof) {
        (Some(bought), _) => bought,
        (None, Proof::Token(token)) => token,
        (None, _) => return Err(Failure::other(format!("{server} took the invitation and gave no token for it"))),
    };
    let before = SavedLogin::read(folder).ok().flatten();
    let login = SavedLogin { server, client_id, token, trust };
    let (SavedLogin { server, client_id, .. }, file) = login.write(folder).map_err(|error| {
        let token = login.token.expose();
        Failure::other(format!("the login is good, but cannot be kept: {error}\nthe token, shown this once: {token}"))
    })?;
    let names = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let (green, bold) = (Style::new().bold().fg_color(Some(AnsiColor::Green.into())), Style::new().bold());
    println!("{green}logged in{green:#} to {server} as {client_id}");
    if !names.is_empty() {
        println!("  names     {names}");
    }
    println!("  kept in   {} (with the token; `adit logout` removes it)", file.display());
    if let Some(before) = before.filter(|before| (&before.server, &before.client_id) != (&server, &client_id)) {
        println!("  replaces  the login to {} as {}", before.server, before.client_id);
    }
    println!("From now on, on this machine:");
    println!("  {bold}adit http 3000{bold:#}    puts a local web application on the internet");
    println!("  {bold}adit tcp 22{bold:#}       any TCP port, if the operator gave you public ports");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::values::Name;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: LoginArgs,
    }

    fn args(more: &[&str]) -> LoginArgs {
        Command::parse_from([&["login", "a.example", "--invite", "code"], more].concat()).args
    }

    fn id(text: &str) -> ClientId {
        ClientId::new(text).unwrap()
    }

    fn invitation(pin: Option<Fingerprint>, id: Option<ClientId>) -> Invitation {
        Invitation { code: Secret::new("code"), pin, id }
    }

    #[test]
    fn an_invitation_says_who_and_by_which_key() {
        let pin = Fingerprint([7; 32]);
        let question = with_invitation(&args(&[]), invitation(Some(pin), Some(id("alice")))).unwrap();
        assert_eq!((question.client_id, question.trust), (id("alice"), Trust::Fingerprint(pin)));
        assert!(matches!(question.proof, Proof::Invite(code) if code.expose() == "code"));
        let chosen = with_invitation(&args(&["--id", "bob"]), invitation(None, None)).unwrap();
        assert_eq!((chosen.client_id, chosen.trust), (id("bob"), Trust::System));
        let by_hand = args(&["--ca", "ca.pem", "--id", "alice"]);
        let question = with_invitation(&by_hand, invitation(Some(pin), Some(id("alice")))).unwrap();
        assert_eq!(question.trust, Trust::CaFile("ca.pem".into()));
    }

    #[test]
    fn without_a_proof_both_forms_are_shown_and_the_invitation_first() {
        let args = Command::parse_from(["login", "a.example"]).args;
        let text = with_token(args).unwrap_err().to_string();
        let at = |form: &str| text.find(form).unwrap_or_else(|| panic!("{form}: {text}"));
        assert!(at("adit login a.example:8080 --invite CODE") < at("adit login a.example:8080 --id ID"), "{text}");
        assert!(refuse_code_as_server(&"adit_invite_abc".parse().unwrap()).is_err());
    }

    #[test]
    fn an_invitation_for_somebody_else_or_for_nobody_is_refused_before_it_is_spent() {
        let refusal = |more: &[&str], id| with_invitation(&args(more), invitation(None, id)).unwrap_err().to_string();
        assert!(refusal(&["--id", "bob"], Some(id("alice"))).contains("is for `alice`, not for `bob`"));
        assert!(refusal(&[], None).contains("choose one with --id"));
    }

    fn bought(token: Option<&str>, folder: &Path) -> Result<(), Failure> {
        let (server, trust) = ("a.example".parse().unwrap(), Trust::Fingerprint(Fingerprint([7; 32])));
        let question = Question { server, client_id: id("asked"), proof: Proof::Invite(Secret::new("code")), trust };
        let known =
            Known { client_id: id("alice"), token: token.map(Secret::new), names: vec![Name::new("alice").unwrap()] };
        keep(question, known, folder)
    }

    #[test]
    fn a_token_that_was_bought_is_kept_under_the_id_that_the_server_says() {
        let dir = tempfile::tempdir().unwrap();
        bought(Some("adit_bought"), dir.path()).unwrap();
        let kept = SavedLogin::read(dir.path()).unwrap().unwrap();
        assert_eq!((kept.client_id, kept.token.expose()), (id("alice"), "adit_bought"));
        assert_eq!(kept.trust, Trust::Fingerprint(Fingerprint([7; 32])));
        assert!(bought(None, dir.path()).unwrap_err().to_string().contains("gave no token"));
    }

    #[test]
    fn a_token_that_was_bought_and_cannot_be_kept_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a-file");
        std::fs::write(&file, "").unwrap();
        let error = bought(Some("adit_bought"), &file.join("adit")).unwrap_err().to_string();
        assert!(error.contains("cannot be kept") && error.contains("shown this once: adit_bought"), "{error}");
    }
}
