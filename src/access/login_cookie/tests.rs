use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::auth::cheap_hash;
use crate::protocol::access::{AccessPolicy, BasicUser};
use crate::values::Secret;

const NOW: u64 = 1_800_000_000;

struct Site {
    client: ClientId,
    service: Name,
    access: Access,
}

impl Site {
    fn scope(&self) -> LoginScope<'_> {
        LoginScope { client: &self.client, service: &self.service, access: &self.access }
    }
}

fn site(client: &str, service: &str, users: &[BasicUser]) -> Site {
    let policy = AccessPolicy { basic_auth: users.to_vec(), ..AccessPolicy::default() };
    Site { client: client.parse().unwrap(), service: service.parse().unwrap(), access: Access::new(&policy).unwrap() }
}

fn user(user: &str, password: &str) -> BasicUser {
    BasicUser { user: user.to_owned(), hash: cheap_hash(&Secret::new(password)).unwrap() }
}

fn cookies() -> LoginCookies {
    LoginCookies::new(&Zeroizing::new([7; 32])).unwrap()
}

fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn ann() -> Credential {
    Credential::of(&fields(&[("authorization", &format!("Basic {}", STANDARD.encode("ann:right")))])).unwrap()
}

fn visit<'v>(method: &'v Method, scheme: Scheme, headers: &'v HeaderMap) -> Visit<'v> {
    Visit { method, headers, scheme, authority: Some(b"alice.tunnel.example:8443"), has_own_origin: true }
}

/// The `Set-Cookie` for ann, and what a browser then sends.
fn issued(site: &Site, scheme: Scheme) -> (String, String) {
    let none = HeaderMap::new();
    let set = cookies().issue(&site.scope(), &visit(&Method::GET, scheme, &none), &ann(), NOW).unwrap();
    let set = set.to_str().unwrap().to_owned();
    let sent = set.split(';').next().unwrap().to_owned();
    (set, sent)
}

fn counts(site: &Site, scheme: Scheme, cookie: &[&str], now: u64) -> bool {
    let mut headers = fields(&[("sec-fetch-site", "same-origin")]);
    for line in cookie {
        headers.append(COOKIE, line.parse().unwrap());
    }
    cookies().is_logged_in(&site.scope(), &visit(&Method::POST, scheme, &headers), now)
}

#[test]
fn the_cookie_is_for_its_host_alone_and_no_script_reads_it() {
    let site = site("alice", "alice", &[user("ann", "right")]);
    let (secure, _) = issued(&site, Scheme::Https);
    assert!(secure.starts_with("__Host-adit-login="), "{secure}");
    assert!(secure.ends_with("; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax; Secure"), "{secure}");
    let (plain, _) = issued(&site, Scheme::Http);
    assert!(plain.starts_with("adit-login=") && plain.ends_with("; HttpOnly; SameSite=Lax"), "{plain}");
    let none = HeaderMap::new();
    let shared = Visit { has_own_origin: false, ..visit(&Method::GET, Scheme::Https, &none) };
    assert_eq!(cookies().issue(&site.scope(), &shared, &ann(), NOW), None, "all tenants share that origin");
}

#[test]
fn the_cookie_counts_for_its_client_service_password_and_time() {
    let users = [user("ann", "right"), user("bob", "other")];
    let of = |client: &str, service: &str, users: &[BasicUser]| site(client, service, users);
    let alice = of("alice", "blog", &users);
    for scheme in [Scheme::Http, Scheme::Https] {
        let (_, sent) = issued(&alice, scheme);
        let sent = sent.as_str();
        let end = NOW + LIFETIME_S;
        assert!(counts(&alice, scheme, &[sent], NOW) && counts(&alice, scheme, &[sent], end - 1));
        assert!(counts(&alice, scheme, &["a=1; b", &format!("c=2;{sent} ; d=3")], NOW));
        assert!(!counts(&alice, scheme, &[sent], end), "its time is over");
        assert!(!counts(&alice, scheme, &[sent], NOW - 10), "it comes from the future");
        assert!(!counts(&of("bob", "blog", &users), scheme, &[sent], NOW));
        assert!(!counts(&of("alice", "shop", &users), scheme, &[sent], NOW));
        assert!(!counts(&of("alice", "blog", &users[1..]), scheme, &[sent], NOW), "ann was removed");
        let changed = [user("ann", "right"), users[1].clone()];
        assert!(!counts(&of("alice", "blog", &changed), scheme, &[sent], NOW), "her hash is another one");
        let others = [users[0].clone(), user("carol", "new")];
        assert!(counts(&of("alice", "blog", &others), scheme, &[sent], NOW), "others do not matter");
        let changed_value = format!("{}{}", &sent[..sent.len() - 1], if sent.ends_with('A') { 'E' } else { 'A' });
        for twice in [&[sent, sent][..], &[sent, "x=1", &changed_value], &[&format!("{sent}; {sent}")]] {
            assert!(!counts(&alice, scheme, twice, NOW), "{twice:?}");
        }
        assert!(!counts(&alice, scheme, &[&changed_value], NOW));
        assert!(!counts(&alice, scheme, &[&sent.replace("adit-login=", "adit-login=\"")], NOW));
    }
    let (_, plain) = issued(&alice, Scheme::Http);
    assert!(!counts(&alice, Scheme::Https, &[&plain], NOW), "anyone on the network may have set it");
    let other = LoginCookies::new(&Zeroizing::new([8; 32])).unwrap();
    let headers = fields(&[("sec-fetch-site", "same-origin"), ("cookie", &plain)]);
    assert!(!other.is_logged_in(&alice.scope(), &visit(&Method::GET, Scheme::Http, &headers), NOW));
}

#[test]
fn a_cookie_is_renewed_by_the_password_in_the_second_half_of_its_time() {
    let site = site("alice", "alice", &[user("ann", "right")]);
    let (_, sent) = issued(&site, Scheme::Https);
    let headers = fields(&[("cookie", &sent)]);
    let again = |now| cookies().issue(&site.scope(), &visit(&Method::GET, Scheme::Https, &headers), &ann(), now);
    assert!(again(NOW + 1).is_none());
    assert!(again(NOW + LIFETIME_S / 2).is_some() && again(NOW + LIFETIME_S).is_some());
}

#[test]
fn only_the_own_page_and_navigations_may_use_a_login() {
    const OWN: &str = "https://alice.tunnel.example:8443";
    let navigation =
        |site| vec![("sec-fetch-site", site), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    let may = |method: &Method, list: &[(&'static str, &str)]| {
        let headers = fields(list);
        visit(method, Scheme::Https, &headers).may_use_a_login()
    };
    let (get, post) = (Method::GET, Method::POST);
    for method in [&get, &post] {
        assert!(may(method, &[("sec-fetch-site", "same-origin")]));
        assert!(may(method, &[("origin", OWN)]) && may(method, &[("origin", "HTTPS://Alice.Tunnel.Example:8443")]));
        assert!(may(method, &[("referer", "https://alice.tunnel.example:8443/page?x=1")]));
        assert!(may(method, &[("referer", OWN)]));
        assert!(may(method, &[("authorization", "Bearer app")]), "only its own script can add that without Origin");
    }
    for site in ["none", "same-site", "cross-site"] {
        assert!(may(&get, &navigation(site)), "{site}");
        assert!(!may(&post, &navigation(site)), "{site}");
        assert!(!may(&Method::HEAD, &navigation(site)), "{site}");
        for change in [("sec-fetch-dest", "iframe"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-mode", "websocket")] {
            let mut list = navigation(site);
            list.retain(|(name, _)| *name != change.0);
            list.push(change);
            assert!(!may(&get, &list), "{site} {change:?}");
        }
        assert!(!may(&get, &[("sec-fetch-site", site), ("origin", OWN)]), "{site}");
    }
    for no in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
        &[("sec-fetch-site", "")],
        &[("origin", "https://bob.tunnel.example:8443")],
        &[("origin", "http://alice.tunnel.example:8443")],
        &[("origin", "https://alice.tunnel.example")],
        &[("origin", "null")],
        &[("origin", "https://")],
        &[("origin", OWN), ("origin", OWN)],
        &[("origin", "https://bob.tunnel.example"), ("referer", OWN), ("authorization", "Bearer app")],
        &[("referer", "https://bob.tunnel.example/https://alice.tunnel.example:8443/")],
        &[("referer", "https://alice.tunnel.example:8443.evil.example/")],
        &[("referer", "https://alice.tunnel.example:8443@evil.example/")],
        &[("authorization", "Basic YTpi")],
        &[("authorization", "Negotiate YTpi")],
    ] {
        assert!(!may(&get, no), "{no:?}");
    }
    let headers = fields(&[("origin", "http://alice.tunnel.example")]);
    let with_port = Visit { authority: Some(b"Alice.tunnel.example:80"), ..visit(&get, Scheme::Http, &headers) };
    assert!(with_port.may_use_a_login(), "the default port may be left out");
}

#[test]
fn the_application_sees_neither_the_password_nor_the_cookie() {
    let seen = |list: &[(&'static str, &str)]| {
        let mut headers = fields(list);
        remove_password(&mut headers);
        remove_cookies(&mut headers);
        let lines = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        [lines("authorization"), lines("cookie")].concat()
    };
    assert_eq!(seen(&[("authorization", "Bearer app"), ("cookie", "a=1")]), ["Bearer app", "a=1"]);
    assert_eq!(seen(&[("authorization", "bAsIc YTpi")]), [""; 0]);
    assert_eq!(seen(&[("authorization", "Basic")]), [""; 0]);
    assert_eq!(seen(&[("authorization", "Bearer app"), ("authorization", "Basic YTpi")]), [""; 0]);
    assert_eq!(seen(&[("cookie", "__Host-adit-login=x")]), [""; 0]);
    assert_eq!(
        seen(&[("cookie", "a=1; adit-login=x; b=2;c"), ("cookie", "__Host-adit-login=y; d")]),
        ["a=1; b=2;c", "d"]
    );
    assert_eq!(seen(&[("cookie", "my-adit-login=1; adit-login2=2")]), ["my-adit-login=1; adit-login2=2"]);
}

#[test]
fn a_preflight_is_what_browsers_send() {
    let asks = ("access-control-request-method", "PUT");
    let is = |method: Method, list: &[(&'static str, &str)]| is_preflight(&method, &fields(list));
    assert!(is(Method::OPTIONS, &[asks, ("origin", "https://a.example"), ("content-length", "0")]));
    assert!(!is(Method::OPTIONS, &[("origin", "https://a.example")]));
    assert!(!is(Method::POST, &[asks]) && !is(Method::GET, &[asks]));
    for more in [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("x-http-method-override", "DELETE"),
    ] {
        assert!(!is(Method::OPTIONS, &[asks, more]), "{more:?}");
    }
}

#[test]
fn a_response_that_caches_share_gets_no_cookie() {
    for shared in ["public", "max-age=60, s-maxage=600", "Must-Revalidate"] {
        assert!(is_shared(&fields(&[("cache-control", shared)])), "{shared}");
    }
    for own in ["private", "max-age=60", "no-store", "x=public"] {
        assert!(!is_shared(&fields(&[("cache-control", own)])), "{own}");
    }
    assert!(!is_shared(&HeaderMap::new()));
}
