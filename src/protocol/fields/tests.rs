use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// Every listed name, and names of the families and with the endings.
fn listed() -> Vec<(String, Role)> {
    let families = FAMILIES.iter().flat_map(|(family, role)| {
        ["", "-for", "-user", "-anything", "-x9-and-much-more-behind-it-than-is-compared"]
            .map(|rest| (format!("{family}{rest}"), *role))
    });
    let addresses = ADDRESS_ENDINGS
        .iter()
        .flat_map(|ending| ["", "x-", "incap-", "q-zz9-"].map(|before| (format!("{before}{ending}"), Role::Address)));
    TABLE.iter().map(|(name, role)| ((*name).to_owned(), *role)).chain(families).chain(addresses).collect()
}

/// The name of the variable in which PHP puts a field.
fn php(name: &str) -> String {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte.to_ascii_uppercase()) } else { '_' };
    format!("HTTP_{}", name.bytes().map(fold).collect::<String>())
}

#[test]
fn the_lists_are_in_canonical_form_and_short_enough() {
    let identity = IDENTITY.iter().chain(IDENTITY_FAMILIES).chain(NOT_IN_TRAILERS);
    let names = TABLE.iter().chain(FAMILIES).map(|(name, _)| name).chain(identity).chain(ADDRESS_ENDINGS);
    for name in names {
        let canonical = Canonical::of(name);
        assert_eq!(canonical.text(), (name.as_bytes(), true));
        assert!(name.len() < MOST, "{name}");
    }
    assert!(ADDRESS_ENDINGS.iter().all(|ending| ending.ends_with("ip")), "they are looked for by that");
    for pair in TABLE.windows(2) {
        assert!(pair[0].0.len() <= pair[1].0.len(), "{} is out of place", pair[1].0);
    }
    let mut names: Vec<_> = TABLE.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
}

#[test]
fn a_name_is_exact_in_one_spelling_only() {
    for (name, role) in listed() {
        assert_eq!(owned(&name), Some(Owned { role, is_exact: true }), "{name}");
        let dotted = name.replace('-', ".");
        for look_alike in [
            name.replace('-', "_"),
            dotted,
            format!("-{name}"),
            format!("{name}_"),
            format!("http_{name}"),
            format!("HTTP_http.{name}"),
        ] {
            if look_alike != name {
                assert_eq!(owned(&look_alike), Some(Owned { role, is_exact: false }), "{look_alike}");
            }
        }
    }
    for look_alike in ["x--forwarded-for", "x-_forwarded.for", "Transfer_Encoding", "content~length", "proxy.", "t_e."]
    {
        let owned = owned(look_alike);
        assert_eq!(owned.map(|owned| owned.is_exact), (look_alike != "t_e.").then_some(false), "{look_alike}");
    }
}

#[test]
fn fields_of_applications_are_their_own() {
    for name in [
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "content_type",
        "cookie",
        "x-requested-with",
        "x-forwardedness",
        "x_api_key",
        "x.trace.id",
        "x-request-id2",
        "x-client-version",
        "upgrade-insecure-requests",
        "te2",
        "via",
        "hosts",
        "proxy-status",
        "sec-websocket-key",
        "x-http-method-override",
        "idempotency-key",
        "grpc-timeout",
        "x-user-agent",
        "sec-fetch-mode",
        "x-ship",
        "x-clients-ip",
        "membership",
    ] {
        assert_eq!(owned(name), None, "{name}");
    }
}

#[test]
fn gateways_names_for_users_are_known_in_any_spelling() {
    for name in [
        "remote-user",
        "Remote_User",
        "remote.groups",
        "x-remote-user",
        "x-auth-request-email",
        "x_auth_request_user",
        "x-ssl-client-verify",
        "ssl_client_s_dn",
        "x-authenticated-userid",
        "x-webauth-user",
        "x-authentik-username",
        "x-client-cert",
        "x-token-subject",
        "x-user-id",
        "http_remote_user",
        "oidc_claim_sub",
        "x-forwarded-user",
    ] {
        assert!(names_a_user(name), "{name}");
    }
    for name in [
        "authorization",
        "x-auth-token",
        "user-agent",
        "x-user-agent",
        "x-token",
        "x-users",
        "cookie",
        "x-api-key",
        "remotely",
    ] {
        assert!(!names_a_user(name), "{name}");
    }
}

#[test]
fn trailers_keep_what_is_said_of_the_body() {
    let mut trailers = HeaderMap::new();
    let kept =
        ["grpc-status", "grpc-message", "grpc-status-details-bin", "digest", "server-timing", "etag", "x-checksum"];
    let gone = [
        "x-forwarded-for",
        "x.forwarded.for",
        "x-real-ip",
        "cookie",
        "cookie_",
        "set-cookie",
        "authorization",
        "x-tunnel-id",
        "x_tunnel_id",
        "content-length",
        "transfer_encoding",
        "host",
        "remote-user",
        "x-auth-request-user",
        "proxy",
        "content-type",
        "expect",
    ];
    for name in kept.iter().chain(&gone) {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    clean_request_trailers(&mut trailers);
    let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    assert_eq!(left, kept);
}

#[test]
fn the_trailers_of_an_answer_hold_what_the_application_says() {
    let mut trailers = HeaderMap::new();
    let kept = ["grpc-status", "x-request-id", "x-user-id", "x-forwarded-by", "proxy-status"];
    for name in kept.iter().chain(&["set-cookie", "content-length", "transfer_encoding", "connection", "location"]) {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    clean_answer_trailers(&mut trailers);
    assert!(trailers.len() == kept.len() && kept.iter().all(|name| trailers.contains_key(*name)), "{trailers:?}");
}

proptest! {
    /// What PHP, CGI and WSGI take for a listed name is either that name or a look-alike of it.
    #[test]
    fn whatever_a_backend_folds_to_a_listed_name_belongs_to_the_proxy(
        at in 0_usize..400,
        symbols in "[-!#$%&'*+.^_`|~]{40}",
        upper in any::<u64>(),
    ) {
        let listed = listed();
        let (name, role) = &listed[at % listed.len()];
        let mut symbols = symbols.chars();
        let spelt: String = name.chars().enumerate().map(|(at, char)| match char {
            '-' => symbols.next().unwrap_or('-'),
            char if upper >> (at % 64) & 1 == 1 => char.to_ascii_uppercase(),
            char => char,
        }).collect();
        prop_assert_eq!(php(&spelt), php(name));
        let owned = owned(&spelt).expect("it belongs to the proxy");
        prop_assert_eq!(owned.role, *role);
        prop_assert_eq!(owned.is_exact, spelt == *name);
        prop_assert!(!may_trail(&spelt));
    }

    /// Nothing else does: no name that has none of the listed names as its canonical form is touched.
    #[test]
    fn any_other_name_is_left_alone(name in "[a-z0-9!#$%&'*+.^_`|~-]{1,60}") {
        let folded: Vec<&str> = name.split(|char: char| !char.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect();
        let folded = folded.join("-");
        let folded = folded.trim_start_matches("http-");
        let is_listed = TABLE.iter().any(|(listed, _)| *listed == folded)
            || FAMILIES.iter().any(|(family, _)| folded == *family || folded.starts_with(&format!("{family}-")))
            || ADDRESS_ENDINGS.iter().any(|ending| folded == *ending || folded.ends_with(&format!("-{ending}")));
        prop_assume!(folded.len() < MOST);
        prop_assert_eq!(owned(&name).is_some(), is_listed, "{}", name);
    }
}
