//! Agents with stale tokens: what their attempts cost, and whom.

use adit::protocol::login::{Hello, Proof, Refusal};
use adit::values::ClientId;

use crate::harness::puppet::{hello, log_in, secret};
use crate::harness::{TestServer, clients, clients_file, token_hash};

fn stale(client: &str) -> Hello {
    let token = adit::auth::Token::generate().unwrap();
    let proof = Some(Proof::Token(token.as_secret().clone()));
    Hello { client_id: ClientId::new(client).unwrap(), proof, ..hello("alice", &["alice"]) }
}

async fn refusal(server: &TestServer, hello: &Hello) -> Refusal {
    log_in(server, hello).await.expect_err("it is stale").code
}

#[tokio::test]
async fn sixty_stale_agents_behind_one_address_lock_nobody_out() {
    let server = TestServer::start(&[]);
    // Of clients that were removed, and of two that are listed.
    let agents: Vec<Hello> = (0..58).map(|at| format!("gone{at}")).map(|id| stale(&id)).collect();
    let agents = [agents, vec![stale("alice"), stale("bob")]].concat();
    for round in 0..3 {
        for agent in &agents {
            assert_eq!(refusal(&server, agent).await, Refusal::BadToken, "{} in round {round}", agent.client_id);
        }
        assert!(log_in(&server, &hello("carol", &["carol"])).await.is_ok(), "round {round}");
    }
}

#[tokio::test]
async fn many_agents_with_one_stale_token_count_once() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "2")]);
    let agent = stale("alice");
    let at_once = (0..8).map(|_| refusal(&server, &agent));
    assert_eq!(futures_util::future::join_all(at_once).await, [Refusal::BadToken; 8]);
    assert!(log_in(&server, &hello("alice", &["alice"])).await.is_ok());
}

#[tokio::test]
async fn guesses_count_also_when_repeats_do_not() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "3")]);
    let first = stale("alice");
    assert_eq!(refusal(&server, &first).await, Refusal::BadToken);
    for _ in 0..2 {
        assert_eq!(refusal(&server, &stale("alice")).await, Refusal::BadToken);
    }
    assert_eq!(refusal(&server, &stale("alice")).await, Refusal::TooMany, "a fourth guess");
    assert_eq!(refusal(&server, &first).await, Refusal::BadToken, "a repeat is answered all the same");
    assert_eq!(refusal(&server, &hello("alice", &["alice"])).await, Refusal::TooMany, "the right token, now");
    assert!(log_in(&server, &hello("bob", &["bob"])).await.is_ok(), "a neighbour of another client");
    assert_eq!(refusal(&server, &stale("bob")).await, Refusal::BadToken);
    assert_eq!(refusal(&server, &stale("bob")).await, Refusal::TooMany, "a second guess at the same client");
}

#[tokio::test]
async fn there_are_only_so_many_first_guesses() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let mut answers = Vec::new();
    for at in 0..150 {
        answers.push(refusal(&server, &stale(&format!("guess{at}"))).await);
    }
    let looked_at = answers.iter().filter(|code| **code == Refusal::BadToken).count();
    // One, the 128 beyond it, and what has come back meanwhile.
    assert!((129..=140).contains(&looked_at), "{looked_at}");
}

#[tokio::test]
async fn a_refused_token_is_looked_at_again_when_its_client_changes() {
    let server = TestServer::start(&[]);
    server.clients.replace(clients_file("[clients]\n"));
    let alice = hello("alice", &["alice"]);
    for _ in 0..2 {
        assert_eq!(refusal(&server, &alice).await, Refusal::BadToken);
    }
    server.clients.replace(clients_file(&clients()));
    assert!(log_in(&server, &alice).await.is_ok());
    // Also when another token becomes the client's, and back.
    let other = clients().replace(token_hash("alice"), token_hash("bob"));
    server.clients.replace(clients_file(&other));
    assert_eq!(refusal(&server, &alice).await, Refusal::BadToken);
    server.clients.replace(clients_file(&clients()));
    assert!(log_in(&server, &alice).await.is_ok());
}

#[tokio::test]
async fn tickets_that_are_too_old_count_against_nobody() {
    let server = TestServer::start(&[("limits.per_ip.logins_per_minute", "1")]);
    let old = Hello { proof: Some(Proof::Ticket(secret("old"))), ..hello("alice", &["alice"]) };
    for _ in 0..5 {
        assert_eq!(refusal(&server, &old).await, Refusal::BadToken);
    }
    assert!(log_in(&server, &hello("alice", &["alice"])).await.is_ok());
}
