use std::task::{Context, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;
use crate::auth::cheap_hash;
use crate::limits::{AddressKey, Party, RetryAfter, Turn};
use crate::protocol::access::{BasicUser, Webhook, WebhookScheme};
use crate::values::{ClientId, Name, Secret};

const PATIENCE: Duration = Duration::from_secs(20);

fn hash(password: &str) -> String {
    cheap_hash(&Secret::new(password)).unwrap()
}

fn user(user: &str, hash: &str) -> BasicUser {
    BasicUser { user: user.to_owned(), hash: hash.to_owned() }
}

fn shared(name: &str, value: &str) -> SharedHeader {
    SharedHeader { name: name.to_owned(), digest: Fingerprint(Sha256::digest(value).into()) }
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(change: impl FnOnce(&mut AccessPolicy)) -> AccessPolicy {
    let mut policy = AccessPolicy::default();
    change(&mut policy);
    policy
}

fn access(change: impl FnOnce(&mut AccessPolicy)) -> Access {
    Access::new(&policy(change)).unwrap()
}

fn error(change: impl FnOnce(&mut AccessPolicy)) -> AccessError {
    Access::new(&policy(change)).unwrap_err()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn basic(credential: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Basic {}", STANDARD.encode(credential)))])
}

fn credential(text: &str) -> Credential {
    Credential::of(&basic(text)).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn without_conditions_everybody_gets_in() {
    let open = access(|_| {});
    assert!(open.allows_address(ip("192.0.2.1")) && open.allows_address(ip("::1")));
    let mut fields = headers(&[("authorization", "Bearer app"), ("x-key", "1")]);
    assert!(matches!(open.check_head(&Method::GET, &fields), Decision::Admitted));
    open.strip(&mut fields);
    assert_eq!(fields.len(), 2, "what is not asked for is not taken off");
    assert!(open.signed().is_none());
}

#[test]
fn what_is_denied_is_denied_whatever_is_allowed() {
    let access = access(|policy| {
        policy.allow = networks(&["192.0.2.0/24", "2001:db8::/32"]);
        policy.deny = networks(&["192.0.2.128/25", "2001:db8:bad::/48"]);
    });
    for good in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
        assert!(access.allows_address(ip(good)), "{good}");
    }
    for bad in ["192.0.2.129", "::ffff:192.0.2.129", "2001:db8:bad::1", "198.51.100.1", "::1", "::192.0.2.1"] {
        assert!(!access.allows_address(ip(bad)), "{bad}");
    }
    let denied = self::access(|policy| policy.deny = networks(&["0.0.0.0/0"]));
    assert!(!denied.allows_address(ip("192.0.2.1")) && denied.allows_address(ip("2001:db8::1")));
}

#[test]
fn a_network_of_ipv4_may_be_written_as_one_of_ipv6() {
    let denied = access(|policy| policy.deny = networks(&["::ffff:192.0.2.0/120"]));
    assert!(!denied.allows_address(ip("192.0.2.7")) && !denied.allows_address(ip("::ffff:192.0.2.7")));
    assert!(denied.allows_address(ip("192.0.3.7")));
}

#[test]
fn only_the_whole_shared_secret_passes() {
    let access = access(|policy| policy.header = Some(shared("X-Key", "right")));
    let passes = |fields: &[_]| matches!(access.check_head(&Method::GET, &headers(fields)), Decision::Admitted);
    assert!(passes(&[("x-key", "right")]) && passes(&[("x-other", "1"), ("x-key", "right")]));
    assert!(!passes(&[]));
    for wrong in ["", "righ", "right!", "Right", "rightright"] {
        assert!(!passes(&[("x-key", wrong)]), "{wrong}");
    }
    assert!(!passes(&[("x-key", "right"), ("x-key", "right")]), "two fields");
    assert!(!passes(&[("x_key", "right")]));
    let mut fields = headers(&[("x-key", "right"), ("authorization", "Bearer app")]);
    access.strip(&mut fields);
    assert_eq!(fields.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["authorization"]);
}

#[test]
fn a_missing_field_is_not_an_empty_secret() {
    let access = access(|policy| policy.header = Some(shared("x-key", "")));
    assert!(matches!(access.check_head(&Method::GET, &headers(&[])), Decision::WrongHeader));
    assert!(matches!(access.check_head(&Method::GET, &headers(&[("x-key", "")])), Decision::Admitted));
}

#[test]
fn a_shared_secret_may_be_a_bearer_token() {
    let access = access(|policy| policy.header = Some(shared("Authorization", "Bearer right")));
    let mut fields = headers(&[("authorization", "Bearer right")]);
    assert!(matches!(access.check_head(&Method::GET, &fields), Decision::Admitted));
    access.strip(&mut fields);
    assert!(fields.is_empty());
}

#[test]
fn the_head_asks_for_all_that_is_set() {
    let access = access(|policy| {
        policy.basic_auth = vec![user("ann", &hash("right"))];
        policy.header = Some(shared("x-key", "right"));
    });
    let mut all = basic("ann:right");
    assert!(matches!(access.check_head(&Method::GET, &all), Decision::WrongHeader), "that is cheap to know");
    all.insert("x-key", HeaderValue::from_static("right"));
    assert!(matches!(access.check_head(&Method::GET, &all), Decision::Compare(_)));
    access.strip(&mut all);
    assert!(all.is_empty());
    assert!(matches!(access.check_head(&Method::GET, &headers(&[("x-key", "right")])), Decision::NoCredential));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let good = hash("right");
    let many = |number: usize| (0..number).map(|n| user(&n.to_string(), &good)).collect::<Vec<_>>();
    let lots = |number: usize| vec!["192.0.2.0/24".parse().unwrap(); number];
    assert!(Access::new(&policy(|policy| (policy.basic_auth, policy.allow) = (many(64), lots(64)))).is_ok());
    assert_eq!(error(|policy| policy.basic_auth = many(65)).to_string(), "`basic_auth` has 65 entries; the most is 64");
    assert_eq!(error(|policy| policy.allow = lots(65)), AccessError::TooMany { what: "allow", number: 65 });
    assert_eq!(error(|policy| policy.deny = lots(65)), AccessError::TooMany { what: "deny", number: 65 });
    for odd in ["", "a:b", "a\n", &"a".repeat(129)] {
        let refused = error(|policy| policy.basic_auth = vec![user(odd, &good)]);
        assert!(matches!(refused, AccessError::User(_)), "{odd:?}");
        assert!(refused.to_string().starts_with('`') && !refused.to_string().contains('\n'), "{refused}");
    }
    let twice = error(|policy| policy.basic_auth = vec![user("ann", &good), user("ann", &good)]);
    assert_eq!(twice, AccessError::UserTwice("ann".to_owned()));
    let plain = error(|policy| policy.basic_auth = vec![user("ann", "hunter2")]).to_string();
    assert!(plain.contains("`ann`") && !plain.contains("hunter2"), "{plain}");
    for greedy in ["m=65537,t=1,p=1", "m=8,t=6,p=1", "m=64,t=1,p=5", "m=4000000,t=1,p=1"] {
        let greedy = good.replace("m=8,t=1,p=1", greedy);
        let refused = error(|policy| policy.basic_auth = vec![user("ann", &greedy)]);
        assert!(matches!(refused, AccessError::TooCostly { .. }), "{refused}");
        assert!(refused.to_string().contains("the maximum is m=65536, t=5, p=4, and m × t = 196608"), "{refused}");
    }
    for name in ["", "x key", "é"] {
        assert_eq!(error(|policy| policy.header = Some(shared(name, "s"))), AccessError::HeaderName(name.to_owned()));
    }
    for name in ["Host", "connection", "Content-Length", "X-Tunnel-ID"] {
        let refused = error(|policy| policy.header = Some(shared(name, "s")));
        assert_eq!(refused, AccessError::HeaderInUse(name.to_lowercase()));
    }
}

#[test]
fn one_field_does_not_hold_two_things() {
    let both = error(|policy| {
        policy.basic_auth = vec![user("ann", &hash("right"))];
        policy.header = Some(shared("authorization", "s"));
    });
    assert_eq!(both, AccessError::HeaderInUse("authorization".to_owned()));
    let webhook = Webhook { scheme: WebhookScheme::Github, secret: Secret::new("s"), tolerance_s: 300, max_body: 1024 };
    let both = error(|policy| {
        policy.webhook = Some(webhook);
        policy.header = Some(shared("x-hub-signature-256", "s"));
    });
    assert_eq!(both, AccessError::HeaderInUse("x-hub-signature-256".to_owned()));
}

#[test]
fn connections_can_ask_for_addresses_only() {
    let mut offer = ServiceOffer::new(Name::new("db").unwrap(), ServiceKind::Tcp);
    offer.access = policy(|policy| policy.allow = networks(&["192.0.2.0/24"]));
    assert!(Access::of(&offer).is_ok());
    offer.access = policy(|policy| policy.header = Some(shared("x-key", "s")));
    let refused = Access::of(&offer).unwrap_err();
    assert_eq!(refused.to_string(), "a tcp service can allow and deny addresses, and nothing else");
    offer.kind = ServiceKind::Http;
    assert!(Access::of(&offer).is_ok());
}

#[test]
fn conditions_show_no_secret() {
    let hash = hash("right");
    let access = access(|policy| {
        policy.basic_auth = vec![user("ann", &hash)];
        policy.header = Some(shared("x-key", "hunter2"));
        let (scheme, secret) = (WebhookScheme::Stripe, Secret::new("hunter2"));
        policy.webhook = Some(Webhook { scheme, secret, tolerance_s: 300, max_body: 1024 });
    });
    let shown = format!("{access:?}");
    assert!(shown.contains("ann") && !shown.contains("hunter2") && !shown.contains("argon2"), "{shown}");
}

fn gate(per_minute: u32) -> PasswordGate {
    PasswordGate::new(per_minute.try_into().unwrap(), 64, 100).unwrap()
}

const VISITOR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

async fn check(gate: &PasswordGate, access: &Access, text: &str) -> Result<(), NotLetIn> {
    check_from(gate, access, text, VISITOR).await
}

async fn check_from(gate: &PasswordGate, access: &Access, text: &str, from: IpAddr) -> Result<(), NotLetIn> {
    gate.check(&client("alice"), access, &credential(text), from, PATIENCE).await
}

fn client(id: &str) -> ClientId {
    ClientId::new(id).unwrap()
}

/// The turn that `id` may have at a time.
async fn turn_of(gate: &PasswordGate, id: &str) -> Turn {
    let address = AddressKey::new([198, 51, 100, 1].into(), 64);
    gate.verifier.turn(Party { client: client(id), address }, None).await
}

#[tokio::test]
async fn only_the_right_password_of_a_user_passes() {
    let gate = gate(1000);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right")), user("bob", &hash("b:o:b"))]);
    for good in ["ann:right", "bob:b:o:b", "ann:right"] {
        assert_eq!(check(&gate, &access, good).await, Ok(()), "{good}");
    }
    for bad in ["ann:wrong", "ann:", "ann:right ", "Ann:right", "bob:right", "eve:right", ":right", "ann:right:"] {
        assert_eq!(check(&gate, &access, bad).await, Err(NotLetIn::Wrong), "{bad}");
    }
}

#[tokio::test]
async fn what_was_right_is_not_compared_again_and_counts_for_these_users_only() {
    let gate = gate(1000);
    let with = |password: &str| {
        let users = vec![user("ann", &hash(password))];
        policy(|policy| policy.basic_auth = users)
    };
    let policy = with("right");
    let access = Access::new(&policy).unwrap();
    assert_eq!(check(&gate, &access, "ann:right").await, Ok(()));
    // Nobody gets a turn any more: what is let in now was remembered.
    let turn = turn_of(&gate, "alice").await;
    let at_once = |access, text: &'static str| {
        let gate = &gate;
        async move { gate.check(&client("alice"), access, &credential(text), VISITOR, Duration::ZERO).await }
    };
    assert_eq!(at_once(&access, "ann:right").await, Ok(()));
    assert_eq!(at_once(&access, "ann:wrong").await, Err(NotLetIn::Busy));
    let again = Access::new(&policy).unwrap();
    assert_eq!(at_once(&again, "ann:right").await, Ok(()), "the same agent has come back");
    drop(turn);
    let changed = Access::new(&with("other")).unwrap();
    assert_eq!(check(&gate, &changed, "ann:right").await, Err(NotLetIn::Wrong));
    let other = PasswordGate::new(1000.try_into().unwrap(), 64, 100).unwrap();
    let _other_turn = turn_of(&other, "alice").await;
    let busy = other.check(&client("alice"), &access, &credential("ann:right"), VISITOR, Duration::ZERO).await;
    assert_eq!(busy, Err(NotLetIn::Busy), "another server has not seen it");
    let _turn = turn_of(&gate, "carol").await;
    let busy = gate.check(&client("carol"), &access, &credential("ann:right"), VISITOR, Duration::ZERO).await;
    assert_eq!(busy, Err(NotLetIn::Busy), "another tenant's visitors have not shown it");
}

#[tokio::test]
async fn another_rate_of_wrong_passwords_counts_from_the_next_one_on() {
    let gate = gate(1);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    assert_eq!(check(&gate, &access, "ann:wrong").await, Err(NotLetIn::Wrong));
    gate.change(1.try_into().unwrap(), 64);
    assert!(matches!(check(&gate, &access, "ann:right").await, Err(NotLetIn::TooOften(_))));
    gate.change(2.try_into().unwrap(), 64);
    for _ in 0..2 {
        assert_eq!(check(&gate, &access, "ann:wrong").await, Err(NotLetIn::Wrong));
    }
    assert!(matches!(check(&gate, &access, "ann:right").await, Err(NotLetIn::TooOften(_))));
}

#[tokio::test]
async fn an_address_that_is_wrong_too_often_waits_with_the_right_password_too() {
    let gate = gate(3);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    assert_eq!(check(&gate, &access, "ann:right").await, Ok(()));
    for _ in 0..3 {
        assert_eq!(check(&gate, &access, "ann:wrong").await, Err(NotLetIn::Wrong));
    }
    for text in ["ann:wrong", "ann:right"] {
        let Err(NotLetIn::TooOften(wait)) = check(&gate, &access, text).await else { panic!("{text}") };
        assert!((1..=20).contains(&RetryAfter::seconds(wait)));
    }
    let elsewhere = check_from(&gate, &access, "ann:right", ip("192.0.2.2")).await;
    assert_eq!(elsewhere, Ok(()));
    gate.evict_idle();
    assert!(matches!(check(&gate, &access, "ann:right").await, Err(NotLetIn::TooOften(_))));
}

#[tokio::test]
async fn guesses_that_wait_together_are_limited_too() {
    let gate = gate(3);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    let guesses = (0..20).map(|_| check(&gate, &access, "ann:wrong"));
    let answers = futures_util::future::join_all(guesses).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Err(NotLetIn::Wrong)).count(), 3);
    assert!(answers[3..].iter().all(|answer| matches!(answer, Err(NotLetIn::TooOften(_)))));
}

#[tokio::test]
async fn whoever_leaves_in_the_middle_has_guessed_and_whoever_waits_has_not() {
    let gate = gate(1);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    let turn = turn_of(&gate, "alice").await;
    {
        let mut waiting = std::pin::pin!(check(&gate, &access, "ann:wrong"));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    }
    assert_eq!(gate.failed.allowed(VISITOR), Ok(()));
    drop(turn);
    {
        let mut compared = std::pin::pin!(check(&gate, &access, "ann:wrong"));
        // It may be done at once: another thread compares.
        let _ = futures_util::poll!(compared.as_mut());
    }
    assert!(gate.failed.allowed(VISITOR).is_err());
}

#[tokio::test]
async fn only_so_many_wait_for_a_service_and_none_for_ever() {
    let gate = gate(1000);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    let turn = turn_of(&gate, "alice").await;
    let alice = client("alice");
    let late = gate.check(&alice, &access, &credential("ann:right"), VISITOR, Duration::from_millis(1)).await;
    assert_eq!(late, Err(NotLetIn::Busy));
    let capacity = access.users().unwrap().waiting.capacity();
    let mut waiting = Vec::new();
    let mut wait_from = |from| {
        let mut future = Box::pin(check_from(&gate, &access, "ann:right", from));
        let waits = future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        waiting.extend(waits.then_some(future));
        waits
    };
    let of_one = (0..capacity).take_while(|_| wait_from(VISITOR)).count();
    assert!((capacity / 2..capacity * 2 / 3).contains(&of_one), "{of_one}");
    // Others still find places.
    let others =
        (0..capacity).take_while(|number| wait_from([10, 0, (number >> 8) as u8, *number as u8].into())).count();
    assert_eq!(of_one + others, capacity);
    assert_eq!(check(&gate, &access, "ann:right").await, Err(NotLetIn::Busy), "no room to wait");
    drop(turn);
    let answers = futures_util::future::join_all(waiting).await;
    assert!(answers.iter().all(Result::is_ok), "and one comparison was enough for all");
}

#[tokio::test]
async fn right_passwords_of_one_address_are_limited_too_unless_they_are_remembered() {
    let gate = gate(2);
    let names: Vec<String> = (0..12).map(|number| format!("user-{number}")).collect();
    let users = names.iter().map(|name| user(name, &hash("right"))).collect();
    let access = access(|policy| policy.basic_auth = users);
    for name in &names[..8] {
        assert_eq!(check(&gate, &access, &format!("{name}:right")).await, Ok(()));
    }
    assert!(matches!(check(&gate, &access, "user-8:right").await, Err(NotLetIn::TooOften(_))));
    for _ in 0..20 {
        assert_eq!(check(&gate, &access, "user-0:right").await, Ok(()), "what is remembered costs nothing");
    }
    assert_eq!(check_from(&gate, &access, "user-8:right", ip("192.0.2.2")).await, Ok(()));
    assert_eq!(gate.load(), (0, 0));
}

#[tokio::test]
async fn a_tenant_with_many_services_leaves_the_others_a_place() {
    let gate = gate(1000);
    let access = access(|policy| policy.basic_auth = vec![user("ann", &hash("right"))]);
    let _busy = turn_of(&gate, "alice").await;
    let mut second = std::pin::pin!(turn_of(&gate, "alice"));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    let other = gate.check(&client("bob"), &access, &credential("ann:right"), VISITOR, PATIENCE).await;
    assert_eq!((other, gate.load()), (Ok(()), (1, 1)));
}

#[test]
fn a_costly_hash_counts_several_times_and_has_a_limit() {
    let with = |cost: &str| {
        let costly = hash("right").replace("m=8,t=1,p=1", cost);
        let policy = policy(|policy| policy.basic_auth = vec![user("ann", &costly)]);
        Access::new(&policy).map(drop)
    };
    // What OWASP and RFC 9106 recommend for servers of this size.
    for good in ["m=19456,t=2,p=1", "m=47104,t=1,p=1", "m=12288,t=3,p=1", "m=7168,t=5,p=1", "m=65536,t=3,p=4"] {
        assert_eq!(with(good), Ok(()), "{good}");
    }
    for greedy in ["m=65536,t=4,p=4", "m=65536,t=5,p=4", "m=40000,t=5,p=1", "m=65537,t=1,p=1"] {
        assert!(matches!(with(greedy), Err(AccessError::TooCostly { .. })), "{greedy}");
    }
}

#[test]
fn a_name_that_is_not_known_is_compared_all_the_same() {
    let (ann, bob) = (hash("a"), hash("b"));
    let users = Users::new(&[user("ann", &ann), user("bob", &bob)]).unwrap();
    assert_eq!(users.hash_of("bob"), (bob.as_str(), true));
    assert_eq!(users.hash_of("eve"), (ann.as_str(), false));
}

proptest! {
    #[test]
    fn no_head_makes_it_panic_or_pass(fields in proptest::collection::vec(("authorization|x-key|x-other", proptest::collection::vec(any::<u8>(), 0..60)), 0..6)) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
        }
        let shared = access(|policy| policy.header = Some(shared("x-key", "a secret of some length")));
        prop_assert!(matches!(shared.check_head(&Method::GET, &headers), Decision::WrongHeader));
    }

    #[test]
    fn exactly_one_value_passes(secret in "[ -~]{0,20}", shown in "[ -~]{0,20}") {
        let access = access(|policy| policy.header = Some(shared("x-key", &secret)));
        let passes = |value: &str| {
            let fields = HeaderMap::from_iter([(HeaderName::from_static("x-key"), HeaderValue::from_str(value).unwrap())]);
            matches!(access.check_head(&Method::GET, &fields), Decision::Admitted)
        };
        prop_assert!(passes(&secret));
        prop_assert_eq!(passes(&shown), shown == secret);
    }

    #[test]
    fn an_address_is_the_same_in_both_spellings(bits: u32, network: u32, length in 0_u8..=32) {
        let network = ipnet::Ipv4Net::new(network.into(), length).unwrap();
        let v4 = std::net::Ipv4Addr::from(bits);
        let allowed = access(|policy| policy.allow = vec![network.into()]);
        let denied = access(|policy| policy.deny = vec![network.into()]);
        for ip in [IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped())] {
            prop_assert_eq!(allowed.allows_address(ip), network.contains(&v4));
            prop_assert_eq!(denied.allows_address(ip), !network.contains(&v4));
        }
    }
}
