use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::values::Secret;

fn signed(scheme: WebhookScheme, secret: &str) -> Signed {
    let secret = Secret::new(secret);
    Signed::new(&Webhook { scheme, secret, tolerance_s: 300, max_body: 1024 }).unwrap()
}

fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())).fold(
        HeaderMap::new(),
        |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        },
    )
}

fn passes(signed: &Signed, headers: &HeaderMap, body: &[u8], now: u64) -> bool {
    let Some(mut verifier) = signed.verifier(headers, now) else { return false };
    for piece in body.chunks(3) {
        verifier.update(piece);
    }
    verifier.finish(now)
}

/// The test values of GitHub's documentation, "Validating webhook deliveries".
const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const GITHUB_BODY: &[u8] = b"Hello, World!";
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

/// By the steps of Stripe's documentation ("Verify webhook signatures manually") and the time in its example, computed
/// with another program.
const STRIPE_SECRET: &str = "whsec_example";
const STRIPE_BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;
const STRIPE_TIME: u64 = 1_492_774_577;
const STRIPE_DIGEST: &str = "ceba62dd13103ba16006e02ce26a4380913a25bcbf1cd4cf93d41b1a5f0d9196";
/// The other two of that example, of other bodies.
const OTHER_V1: &str = "v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd";
const OTHER_V0: &str = "v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39";

#[test]
fn githubs_own_example_passes_and_nothing_near_it() {
    let guard = signed(WebhookScheme::Github, GITHUB_SECRET);
    let good = headers(GITHUB, &[GITHUB_SIGNATURE]);
    assert!(passes(&guard, &good, GITHUB_BODY, 0));
    assert!(passes(&guard, &good, GITHUB_BODY, u64::MAX), "there is no time in it, and it can come again");
    for body in [&b"Hello, World"[..], b"Hello, World!!", b"hello, World!", b""] {
        assert!(!passes(&guard, &good, body, 0));
    }
    assert!(!passes(&signed(WebhookScheme::Github, "another"), &good, GITHUB_BODY, 0));
    let digits = GITHUB_SIGNATURE.strip_prefix("sha256=").unwrap();
    let upper = format!("sha256={}", digits.to_uppercase());
    assert!(passes(&guard, &headers(GITHUB, &[&upper]), GITHUB_BODY, 0));
    let last = format!("{}8", &GITHUB_SIGNATURE[..GITHUB_SIGNATURE.len() - 1]);
    for bad in [digits, "", "sha256=", &last, &GITHUB_SIGNATURE[..70], &format!("{GITHUB_SIGNATURE}0"), "sha1=00"] {
        assert!(!passes(&guard, &headers(GITHUB, &[bad]), GITHUB_BODY, 0), "{bad}");
    }
    assert!(!passes(&guard, &headers(GITHUB, &[GITHUB_SIGNATURE; 2]), GITHUB_BODY, 0), "two fields");
    assert!(!passes(&guard, &headers(STRIPE, &[GITHUB_SIGNATURE]), GITHUB_BODY, 0), "another field");
    assert!(!passes(&guard, &HeaderMap::new(), GITHUB_BODY, 0));
}

#[test]
fn a_stripe_signature_counts_once_and_for_its_time() {
    let value = format!("t={STRIPE_TIME},v1={STRIPE_DIGEST},{OTHER_V0}");
    let good = headers(STRIPE, &[&value]);
    let fresh = || signed(WebhookScheme::Stripe, STRIPE_SECRET);
    for now in [STRIPE_TIME - 300, STRIPE_TIME, STRIPE_TIME + 300] {
        let guard = fresh();
        assert!(passes(&guard, &good, STRIPE_BODY, now));
        assert!(!passes(&guard, &good, STRIPE_BODY, now), "it was used");
    }
    let guard = fresh();
    for now in [STRIPE_TIME - 301, STRIPE_TIME + 301, 0, u64::MAX] {
        assert!(guard.verifier(&good, now).is_none(), "the body need not be read");
    }
    assert!(!passes(&guard, &good, b"{}", STRIPE_TIME));
    assert!(passes(&guard, &good, STRIPE_BODY, STRIPE_TIME), "what was refused was not used up");
}

#[test]
fn a_body_that_takes_too_long_is_too_old_at_its_end() {
    let guard = signed(WebhookScheme::Stripe, STRIPE_SECRET);
    let good = headers(STRIPE, &[&format!("t={STRIPE_TIME},v1={STRIPE_DIGEST}")]);
    let mut verifier = guard.verifier(&good, STRIPE_TIME + 300).unwrap();
    verifier.update(STRIPE_BODY);
    assert!(!verifier.finish(STRIPE_TIME + 301));
}

#[test]
fn one_of_several_signatures_is_enough_and_writing_it_otherwise_does_not_make_it_new() {
    let guard = signed(WebhookScheme::Stripe, STRIPE_SECRET);
    let pass = |value: &str| passes(&guard, &headers(STRIPE, &[value]), STRIPE_BODY, STRIPE_TIME);
    assert!(pass(&format!("t={STRIPE_TIME},{OTHER_V1},v1={STRIPE_DIGEST}")));
    assert!(!pass(&format!("v1={},t={STRIPE_TIME}", STRIPE_DIGEST.to_uppercase())));
    assert!(!pass(&format!("t={STRIPE_TIME},v1={STRIPE_DIGEST}")));
}

#[test]
fn what_is_not_a_signature_of_stripes_is_refused_before_the_body_is_read() {
    let guard = signed(WebhookScheme::Stripe, STRIPE_SECRET);
    let (t, v1) = (format!("t={STRIPE_TIME}"), format!("v1={STRIPE_DIGEST}"));
    for bad in [
        String::new(),
        t.clone(),
        v1.clone(),
        format!("{t},{OTHER_V0}"),
        format!("{t},{t},{v1}"),
        format!("t=,{v1}"),
        format!("t=+{STRIPE_TIME},{v1}"),
        format!("t=99999999999999999999,{v1}"),
        format!("{t},{v1},v1=00"),
        format!("{t},{v1},rest"),
        format!("{t}{}", format!(",{v1}").repeat(MAX_SIGNATURES + 1)),
    ] {
        assert!(guard.verifier(&headers(STRIPE, &[&bad]), STRIPE_TIME).is_none(), "{bad}");
    }
    let good = format!("{t}{}", format!(",{v1}").repeat(MAX_SIGNATURES));
    assert!(guard.verifier(&headers(STRIPE, &[&good]), STRIPE_TIME).is_some());
    assert!(guard.verifier(&headers(STRIPE, &[&good, &good]), STRIPE_TIME).is_none(), "two fields");
}

#[test]
fn a_webhook_that_cannot_be_checked_is_refused() {
    let webhook = |scheme, secret: &str, tolerance_s, max_body| {
        Signed::new(&Webhook { scheme, secret: Secret::new(secret), tolerance_s, max_body }).map(drop)
    };
    use WebhookScheme::{Github, Stripe};
    assert_eq!(webhook(Stripe, "s", MAX_TOLERANCE_S, MAX_BODY), Ok(()));
    assert_eq!(webhook(Github, "s", 0, 1), Ok(()));
    assert_eq!(webhook(Github, "", 300, 1), Err(AccessError::NoSecret));
    assert_eq!(webhook(Stripe, "s", 0, 1), Err(AccessError::Tolerance(0)));
    assert_eq!(webhook(Stripe, "s", MAX_TOLERANCE_S + 1, 1), Err(AccessError::Tolerance(MAX_TOLERANCE_S + 1)));
    assert_eq!(webhook(Github, "s", 300, 0), Err(AccessError::Body(0)));
    assert_eq!(webhook(Github, "s", 300, MAX_BODY + 1), Err(AccessError::Body(MAX_BODY + 1)));
}

/// A signature made from scratch.
fn digest(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

proptest! {
    #[test]
    fn no_field_makes_it_panic_or_pass(value in "\\PC{0,120}|(t=[0-9]{0,22}|v[01]=[0-9a-f]{0,66}|,|=){0,12}", body: Vec<u8>) {
        prop_assume!(HeaderValue::from_str(&value).is_ok());
        for (scheme, name) in [(WebhookScheme::Github, GITHUB), (WebhookScheme::Stripe, STRIPE)] {
            let guard = signed(scheme, "secret");
            prop_assert!(!passes(&guard, &headers(name, &[&value]), &body, STRIPE_TIME));
        }
    }

    #[test]
    fn only_what_was_signed_passes(secret in ".{1,80}", body: Vec<u8>, other: Vec<u8>, time in 1_000_u64..u64::MAX) {
        let github = signed(WebhookScheme::Github, &secret);
        let field = headers(GITHUB, &[&format!("sha256={}", digest(&secret, &[&body]))]);
        prop_assert!(passes(&github, &field, &body, time));
        prop_assert_eq!(passes(&github, &field, &other, time), body == other);
        let stripe = signed(WebhookScheme::Stripe, &secret);
        let stamp = format!("t={time},v1={}", digest(&secret, &[time.to_string().as_bytes(), b".", &body]));
        let field = headers(STRIPE, &[&stamp]);
        prop_assert_eq!(passes(&stripe, &field, &other, time), body == other);
        prop_assert_eq!(passes(&stripe, &field, &body, time), body != other);
    }
}
