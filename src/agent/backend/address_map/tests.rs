use bytes::Bytes;
use http::{Method, Version};

use super::*;
use crate::values::Name;

/// The map of an application at `local` that is told `host_header`.
fn map(local: &str, host_header: HostHeader) -> AddressMap {
    let local: LocalUrl = local.parse().unwrap();
    let mut service = Service::new(Name::new("alice").unwrap(), local.clone());
    service.host_header = host_header;
    service.domains = vec!["shop.example".parse().unwrap()];
    AddressMap::new(&service, &local)
}

fn origin(text: &str) -> PublicOrigin {
    let (scheme, authority) = text.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    PublicOrigin { scheme, authority: authority.as_bytes().into() }
}

fn head(method: &Method, public: &str, fields: &[(&'static str, &str)]) -> RequestHead {
    let PublicOrigin { scheme, authority } = origin(public);
    let field = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
    RequestHead {
        method: method.clone(),
        scheme,
        authority: Some(Bytes::from(authority)),
        target: Bytes::from_static(b"/"),
        protocol: None,
        version: Version::HTTP_11,
        headers: fields.iter().map(field).collect::<HeaderMap>(),
        has_body: false,
    }
}

fn location(map: &AddressMap, public: &str, written: &str) -> String {
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, written.parse().unwrap());
    map.response(&mut headers, &origin(public));
    headers[LOCATION].to_str().unwrap().to_owned()
}

#[test]
fn a_redirect_to_the_local_address_leads_to_the_public_origin() {
    let map = map("http://127.0.0.1:3000", HostHeader::Local);
    for (written, expected) in [
        ("http://127.0.0.1:3000/login?a#b", "https://alice.example/login?a#b"),
        ("http://127.0.0.1:3000", "https://alice.example"),
        ("HTTPS://127.0.0.1:3000/", "https://alice.example/"),
        ("http://localhost:3000/", "https://alice.example/"),
        ("http://[::1]:3000/", "https://alice.example/"),
        ("http://0.0.0.0:3000/", "https://alice.example/"),
        ("//127.0.0.1:3000/", "//alice.example/"),
        ("http://127.0.0.1:3001/", "http://127.0.0.1:3001/"),
        ("http://127.0.0.1/", "http://127.0.0.1/"),
        ("http://127.0.0.1:3000.evil.example/", "http://127.0.0.1:3000.evil.example/"),
        ("http://127.0.0.1:3000@evil.example/", "http://127.0.0.1:3000@evil.example/"),
        ("/login", "/login"),
        (
            "https://elsewhere.example/?next=http://127.0.0.1:3000/",
            "https://elsewhere.example/?next=http://127.0.0.1:3000/",
        ),
    ] {
        assert_eq!(location(&map, "https://alice.example", written), expected);
    }
    let other = map_at_other_machine();
    for (written, expected) in [
        ("http://nas.lan/", "http://alice.example:9090/"),
        ("http://NAS.lan:80/", "http://alice.example:9090/"),
        ("http://localhost/", "http://localhost/"),
        ("http://127.0.0.1:80/", "http://127.0.0.1:80/"),
    ] {
        assert_eq!(location(&other, "http://alice.example:9090", written), expected);
    }
}

fn map_at_other_machine() -> AddressMap {
    map("http://nas.lan", HostHeader::Preserve)
}

#[test]
fn a_redirect_with_the_port_or_the_scheme_of_the_application_leads_to_the_public_origin() {
    let plain = map("http://127.0.0.1:3000", HostHeader::Preserve);
    let standard = map("http://127.0.0.1:80", HostHeader::Preserve);
    let tls = map("https://127.0.0.1:8443", HostHeader::Preserve);
    for (map, public, written, expected) in [
        (&plain, "http://alice.example:9090", "http://alice.example:3000/a/", "http://alice.example:9090/a/"),
        (&plain, "http://alice.example:9090", "http://alice.example:9090/a/", "http://alice.example:9090/a/"),
        (&plain, "http://alice.example:9090", "http://alice.example/a/", "http://alice.example/a/"),
        (&plain, "https://alice.example", "http://alice.example:3000/a/", "https://alice.example/a/"),
        (&plain, "https://alice.example", "http://ALICE.example/a/", "https://alice.example/a/"),
        (&plain, "https://alice.example:8443", "http://alice.example:8443/", "https://alice.example:8443/"),
        (&plain, "https://alice.example:8443", "http://alice.example/", "https://alice.example:8443/"),
        (&plain, "https://alice.example", "https://alice.example:3000/", "https://alice.example/"),
        // An application that insists on HTTPS.
        (&plain, "http://alice.example", "https://alice.example/", "https://alice.example/"),
        (&plain, "http://alice.example", "https://alice.example:8443/", "https://alice.example:8443/"),
        (&standard, "http://alice.example:9090", "http://alice.example/", "http://alice.example:9090/"),
        (&tls, "http://alice.example", "https://alice.example:8443/", "http://alice.example/"),
        (&tls, "http://alice.example", "https://alice.example/", "https://alice.example/"),
        (&plain, "https://alice.example", "http://bob.example:3000/", "http://bob.example:3000/"),
    ] {
        assert_eq!(location(map, public, written), expected, "{public}");
    }
}

#[test]
fn the_host_that_is_told_is_mapped_as_the_local_one() {
    let map = map("http://127.0.0.1:3000", HostHeader::Value("app.internal".to_owned()));
    for written in
        ["http://app.internal/a", "https://app.internal/a", "http://app.internal:3000/a", "http://localhost:3000/a"]
    {
        assert_eq!(location(&map, "https://alice.example", written), "https://alice.example/a");
    }
    assert_eq!(location(&map, "https://alice.example", "http://app.internal:4000/a"), "http://app.internal:4000/a");
    let mut asked = head(
        &Method::POST,
        "https://alice.example",
        &[("origin", "https://alice.example"), ("x-forwarded-host", "alice.example")],
    );
    map.request(&mut asked);
    assert_eq!(
        (&asked.headers[ORIGIN], &asked.headers[FORWARDED_HOST]),
        (&"https://alice.example".parse().unwrap(), &"alice.example".parse().unwrap())
    );
}

#[test]
fn every_field_with_an_address_is_mapped() {
    let map = map("3000", HostHeader::Local);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (CONTENT_LOCATION, "http://localhost:3000/a"),
        (REFRESH, "0; url=http://localhost:3000/a"),
        (LINK, "<http://localhost:3000/?page=2>; rel=\"next\", <https://other.example/>; rel=help"),
        (LINK, "<http://localhost:3000/?page=9>; rel=last"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "https://localhost:3000"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    map.response(&mut headers, &origin("https://alice.example"));
    assert_eq!(headers[CONTENT_LOCATION], "https://alice.example/a");
    assert_eq!(headers[REFRESH], "0; url=https://alice.example/a");
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://alice.example");
    let links: Vec<_> = headers.get_all(LINK).iter().map(|link| link.to_str().unwrap()).collect();
    assert_eq!(
        links,
        [
            "<https://alice.example/?page=2>; rel=\"next\", <https://other.example/>; rel=help",
            "<https://alice.example/?page=9>; rel=last"
        ]
    );
}

#[test]
fn a_cookie_of_the_local_host_is_one_of_the_public_host_and_never_of_all_clients() {
    let map = map("http://127.0.0.1:3000", HostHeader::Local);
    let mapped = |public: &str, cookie: &str| {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, cookie.parse().unwrap());
        map.response(&mut headers, &origin(public));
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    };
    for (public, cookie, expected) in [
        ("https://alice.example:8443", "a=1; Domain=127.0.0.1; Path=/", "a=1; Domain=alice.example; Path=/"),
        ("https://alice.example", "a=1; domain=.localhost", "a=1; domain=alice.example"),
        ("https://shop.example", "a=1; Domain=localhost", "a=1; Domain=shop.example"),
        ("https://tunnel.example", "a=1; Domain=localhost; Path=/", "a=1; Path=/"),
        ("https://alice.example", "a=1; Domain=other.example", "a=1; Domain=other.example"),
        ("https://alice.example", "Domain=localhost; Path=/", "Domain=localhost; Path=/"),
        ("https://alice.example", "a=1; Domain", "a=1; Domain"),
    ] {
        assert_eq!(mapped(public, cookie), expected, "{public}");
    }
}

#[test]
fn a_request_names_the_local_host_wherever_it_has_named_the_public_one() {
    let map = map("http://127.0.0.1:3000", HostHeader::Local);
    let fields = [
        ("origin", "https://alice.example"),
        ("referer", "https://alice.example:443/page?a"),
        ("x-forwarded-host", "alice.example"),
        ("forwarded", "for=192.0.2.1;proto=https;host=\"alice.example\""),
    ];
    let mut asked = head(&Method::POST, "https://alice.example", &fields);
    map.request(&mut asked);
    assert_eq!(asked.headers[ORIGIN], "https://127.0.0.1:3000");
    assert_eq!(asked.headers[REFERER], "https://127.0.0.1:3000/page?a");
    assert_eq!(asked.headers[FORWARDED], "for=192.0.2.1;proto=https");
    assert!(!asked.headers.contains_key(FORWARDED_HOST));
    // What comes from another site stays what it is: applications tell forged requests by it.
    for other in [
        "https://evil.example",
        "https://bob.example",
        "https://alice.example:8443",
        "http://alice.example.evil",
        "null",
    ] {
        let mut asked = head(&Method::POST, "https://alice.example", &[("origin", other), ("referer", other)]);
        map.request(&mut asked);
        assert_eq!(
            (&asked.headers[ORIGIN], &asked.headers[REFERER]),
            (&other.parse().unwrap(), &other.parse().unwrap())
        );
    }
    let kept = super::AddressMap { told: HostHeader::Preserve, ..map };
    let mut asked = head(&Method::POST, "https://alice.example", &fields);
    kept.request(&mut asked);
    for (name, value) in fields {
        assert_eq!(asked.headers[name], value);
    }
}

#[test]
fn a_proxy_in_front_says_what_the_public_origin_is() {
    let map = map("3000", HostHeader::Local);
    let fields = [
        ("x-forwarded-host", "public.example, inner"),
        ("x-forwarded-proto", "https"),
        ("origin", "https://public.example"),
    ];
    let mut asked = head(&Method::GET, "http://inner:9090", &fields);
    let public = map.request(&mut asked).unwrap();
    assert_eq!((public.scheme, &*public.authority), (Scheme::Https, &b"public.example"[..]));
    assert_eq!(asked.headers[ORIGIN], "https://localhost:3000");
}

/// The `Destination` of a request to `public`, which its `If` repeats.
fn destination(map: &AddressMap, method: &str, public: &str, written: &str) -> String {
    let condition = format!("<{written}> (<urn:lock>)");
    let mut asked = head(&method.parse().unwrap(), public, &[("destination", written), ("if", condition.as_str())]);
    map.request(&mut asked);
    let text = |name: &str| asked.headers[name].to_str().unwrap().to_owned();
    assert_eq!(text("if"), format!("<{}> (<urn:lock>)", text("destination")));
    text("destination")
}

#[test]
fn a_webdav_destination_is_where_the_host_is() {
    let to = |host_header, written| {
        destination(&map("http://127.0.0.1:3000", host_header), "MOVE", "http://alice.example", written)
    };
    let told = || HostHeader::Value("dav.lan".to_owned());
    assert_eq!(to(HostHeader::Local, "http://alice.example/b"), "http://127.0.0.1:3000/b");
    assert_eq!(to(told(), "http://alice.example:80/b"), "http://dav.lan/b");
    assert_eq!(to(HostHeader::Preserve, "http://alice.example/b"), "http://alice.example/b");
    for other in ["/b", "https://other.example/b", "http://alice.example:9090/b"] {
        assert_eq!(to(HostHeader::Local, other), other);
    }
}

#[test]
fn a_webdav_destination_has_no_scheme_where_the_application_sees_another() {
    for (local, public) in
        [("http://127.0.0.1:3000", "https://alice.example"), ("https://127.0.0.1:3000", "http://alice.example")]
    {
        for host_header in [HostHeader::Local, HostHeader::Preserve] {
            let map = map(local, host_header);
            for (rest, expected) in [("/b?c", "/b?c"), ("", "/"), ("?c", "/?c")] {
                assert_eq!(destination(&map, "MOVE", public, &format!("{public}{rest}")), expected);
            }
            // Not `//evil.example/b`: that is a place elsewhere.
            let kept = destination(&map, "COPY", public, &format!("{public}//evil.example/b"));
            assert!(kept.ends_with("//evil.example/b") && kept.starts_with("http"), "{kept}");
            assert_eq!(destination(&map, "MOVE", public, "https://other.example/b"), "https://other.example/b");
        }
    }
}

#[test]
fn conditions_are_mapped_without_a_destination_too() {
    let map = map("http://127.0.0.1:3000", HostHeader::Local);
    for method in ["PUT", "DELETE"] {
        let condition = "<http://alice.example/b> (<urn:lock>)";
        let fields = [("if", condition), ("destination", "http://alice.example/c")];
        let mut asked = head(&method.parse().unwrap(), "http://alice.example", &fields);
        map.request(&mut asked);
        assert_eq!(asked.headers["if"], "<http://127.0.0.1:3000/b> (<urn:lock>)");
        assert_eq!(asked.headers["destination"], "http://alice.example/c", "it has no meaning there");
    }
}
