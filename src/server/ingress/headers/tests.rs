use super::*;

pub(crate) fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

pub(crate) fn text(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

#[test]
fn fields_of_one_connection_do_not_cross() {
    let mut fields = headers(&[
        ("connection", "keep-alive, X-Secret, host"),
        ("connection", "TE"),
        ("keep-alive", "timeout=5"),
        ("x-secret", "1"),
        ("host", "a"),
        ("te", "gzip, trailers"),
        ("transfer-encoding", "chunked"),
        ("proxy-authorization", "Basic x"),
        ("x-kept", "1"),
    ]);
    assert_eq!(strip_hop_by_hop(&mut fields), None);
    let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["host", "te", "x-kept"]);
    assert_eq!(text(&fields, "te"), ["trailers"]);
}

#[test]
fn an_upgrade_is_kept_aside_only_if_the_connection_asks_for_it() {
    let mut asked = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
    assert_eq!(strip_hop_by_hop(&mut asked).unwrap(), "websocket");
    let mut unasked = headers(&[("upgrade", "websocket")]);
    assert_eq!(strip_hop_by_hop(&mut unasked), None);
    assert!(asked.is_empty() && unasked.is_empty());
    let mut twice = headers(&[("connection", "Upgrade, upgrade"), ("connection", "upgrade"), ("upgrade", "websocket")]);
    assert_eq!(strip_hop_by_hop(&mut twice).unwrap(), "websocket");
}

#[test]
fn no_upgrade_leads_to_requests_that_nobody_sees() {
    for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0, HTTP/1.1"] {
        let mut fields = headers(&[("connection", "Upgrade, HTTP2-Settings"), ("http2-settings", "AAMAAABk")]);
        fields.insert(UPGRADE, HeaderValue::from_static(protocol));
        assert_eq!(strip_hop_by_hop(&mut fields), None, "{protocol}");
        assert!(fields.is_empty(), "{protocol}: {fields:?}");
    }
}

#[test]
fn a_coding_overrides_a_length() {
    let coded = [("content-length", "5"), ("transfer-encoding", "chunked"), ("connection", "transfer-encoding")];
    let mut fields = headers(&coded);
    strip_hop_by_hop(&mut fields);
    assert!(fields.is_empty(), "{fields:?}");
    let mut plain = headers(&[("content-length", "5")]);
    strip_hop_by_hop(&mut plain);
    assert_eq!(text(&plain, "content-length"), ["5"]);
}

#[test]
fn only_one_chunked_coding_is_taken_off() {
    let coded = |lines: &[&'static str]| {
        has_other_coding(&headers(&lines.iter().map(|line| ("transfer-encoding", *line)).collect::<Vec<_>>()))
    };
    assert!(!coded(&[]) && !coded(&["chunked"]) && !coded(&[" Chunked "]));
    for lines in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &["identity"], &[""]] {
        assert!(coded(lines), "{lines:?}");
    }
}

fn on_behalf_of(peer: IpAddr, peer_text: &HeaderValue) -> Forwarding<'_> {
    Forwarding {
        visitor: peer,
        peer: (peer, peer_text),
        peer_is_trusted: false,
        scheme: Scheme::Http,
        authority: None,
        prefix: None,
        request_id: RequestId(7),
        forwarded: false,
    }
}

#[test]
fn underscores_do_not_smuggle_what_a_visitor_says_of_itself() {
    let fields =
        [("x_forwarded_for", "6.6.6.6"), ("x-real_ip", "6.6.6.6"), ("forwarded", "for=6.6.6.6"), ("x_kept", "1")];
    let mut fields = headers(&fields);
    let peer = [192, 0, 2, 1].into();
    let peer_text = address_value(peer);
    let mut forwarding = on_behalf_of(peer, &peer_text);
    add_forwarding(&mut fields, &forwarding);
    let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["x-forwarded-for", "x-forwarded-proto", "x-real-ip", "x-request-id", "x_kept"]);
    forwarding.peer_is_trusted = true;
    let mut fields = headers(&[("x_forwarded_proto", "https")]);
    add_forwarding(&mut fields, &forwarding);
    assert!(!fields.contains_key("x_forwarded_proto"), "a trusted proxy passes on what visitors say");
}

#[test]
fn a_visitor_cannot_say_who_it_is_but_a_trusted_proxy_can() {
    let said = [("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "6.6.6.6"), ("x-forwarded-proto", "https")];
    let authority = Bytes::from_static(b"alice.example");
    let peer = [192, 0, 2, 1].into();
    let peer_text = address_value(peer);
    let mut forwarding = Forwarding { authority: Some(&authority), ..on_behalf_of(peer, &peer_text) };
    let mut fields = headers(&said);
    add_forwarding(&mut fields, &forwarding);
    assert_eq!(text(&fields, "x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(text(&fields, "x-real-ip"), ["192.0.2.1"]);
    assert_eq!(text(&fields, "x-forwarded-proto"), ["http"]);
    assert_eq!(text(&fields, "x-forwarded-host"), ["alice.example"]);
    assert_eq!(text(&fields, "x-request-id"), ["0000000000000007"]);

    forwarding.peer_is_trusted = true;
    let mut fields = headers(&said);
    add_forwarding(&mut fields, &forwarding);
    assert_eq!(text(&fields, "x-forwarded-for"), ["6.6.6.6, 192.0.2.1"]);
    assert_eq!(text(&fields, "x-forwarded-proto"), ["https"]);
}

#[test]
fn the_chain_ends_with_the_visitor_not_with_the_operators_proxies() {
    let (peer, peer_text) = ([10, 0, 0, 1].into(), address_value([10, 0, 0, 1].into()));
    let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
    for (said, chain) in [
        ("6.6.6.6", "6.6.6.6"),
        ("1.1.1.1,6.6.6.6:80 , 10.0.0.3,10.0.0.2", "1.1.1.1, 6.6.6.6:80"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("1.1.1.1, unknown, 10.0.0.2", "1.1.1.1, unknown, 10.0.0.2"),
        ("1.1.1.1, unknown", "1.1.1.1, unknown, 10.0.0.1"),
    ] {
        let mut fields = headers(&[("x-forwarded-for", said), ("x-forwarded-proto", "https")]);
        let visitor = visitor_of(&fields, peer, trusted);
        let forwarding =
            Forwarding { visitor, peer_is_trusted: true, forwarded: true, ..on_behalf_of(peer, &peer_text) };
        add_forwarding(&mut fields, &forwarding);
        assert_eq!(text(&fields, "x-forwarded-for"), [chain]);
        let node =
            if visitor == peer { "for=10.0.0.1;proto=http".to_owned() } else { format!("for={visitor};proto=https") };
        assert_eq!(text(&fields, "forwarded"), [node]);
    }
    // Nor if the visitor, or a proxy, has said something in these words.
    let mut fields = headers(&[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=1.2.3.4")]);
    let visitor = visitor_of(&fields, peer, trusted);
    let forwarding = Forwarding { visitor, peer_is_trusted: true, forwarded: true, ..on_behalf_of(peer, &peer_text) };
    add_forwarding(&mut fields, &forwarding);
    assert_eq!(text(&fields, "forwarded"), ["for=1.2.3.4, for=6.6.6.6;proto=http"]);
}

#[test]
fn the_visitor_is_the_last_address_that_nobody_vouches_for() {
    let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
    let said = headers(&[("x-forwarded-for", "1.1.1.1, 6.6.6.6"), ("x-forwarded-for", "10.0.0.2")]);
    let who = |peer: &str| visitor_of(&said, peer.parse().unwrap(), trusted).to_string();
    assert_eq!(who("10.0.0.1"), "6.6.6.6");
    assert_eq!(who("192.0.2.1"), "192.0.2.1", "an untrusted peer is itself");
    for (written, ip) in [
        ("6.6.6.6:4711", "6.6.6.6"),
        ("[2001:db8::6]:4711", "2001:db8::6"),
        ("[2001:db8::6]", "2001:db8::6"),
        ("2001:db8::6", "2001:db8::6"),
        ("::ffff:6.6.6.6", "6.6.6.6"),
        ("1.1.1.1, 6.6.6.6:4711, 10.0.0.2:80", "6.6.6.6"),
        ("1.1.1.1, 6.6.6.6,", "6.6.6.6"),
        ("1.1.1.1,6.6.6.6, ,, 10.0.0.2 ,", "6.6.6.6"),
        (",", "10.0.0.1"),
        ("\"[2001:db8::6]:4711\"", "2001:db8::6"),
        ("1.1.1.1, \"[2001:db8::6]\", \"10.0.0.2\"", "2001:db8::6"),
        ("1.1.1.1, \"[2001:db8::6]", "10.0.0.1"),
    ] {
        let said = headers(&[("x-forwarded-for", written)]);
        assert_eq!(visitor_of(&said, [10, 0, 0, 1].into(), trusted).to_string(), ip, "{written}");
    }
    // What it has sent itself, and a proxy has left before it, is no reason not to see it.
    let mut said = HeaderMap::new();
    said.insert("x-forwarded-for", HeaderValue::from_bytes(b"\xff, 6.6.6.6").unwrap());
    let peer: IpAddr = [10, 0, 0, 1].into();
    assert_eq!(visitor_of(&said, peer, trusted).to_string(), "6.6.6.6");
    let peer_text = address_value(peer);
    let forwarding =
        Forwarding { visitor: [6, 6, 6, 6].into(), peer_is_trusted: true, ..on_behalf_of(peer, &peer_text) };
    add_forwarding(&mut said, &forwarding);
    assert_eq!(said["x-forwarded-for"].as_bytes(), b"\xff, 6.6.6.6");
    assert_eq!(said["x-real-ip"], "6.6.6.6");
    let empty = headers(&[("x-forwarded-for", ", ,")]);
    let mut said = empty;
    add_forwarding(&mut said, &Forwarding { peer_is_trusted: true, ..on_behalf_of(peer, &peer_text) });
    assert_eq!(said["x-forwarded-for"], "10.0.0.1");
    let mut said = headers(&[("x-forwarded-for", ", 1.1.1.1,,"), ("x-forwarded-for", " ,6.6.6.6 , ")]);
    add_forwarding(&mut said, &forwarding);
    assert_eq!(said["x-forwarded-for"], "1.1.1.1, 6.6.6.6");
    let nonsense = headers(&[("x-forwarded-for", "1.1.1.1, unknown")]);
    assert_eq!(visitor_of(&nonsense, [10, 0, 0, 1].into(), trusted).to_string(), "10.0.0.1");
}

fn asking(target: &str, fields: &[(&'static str, &'static str)]) -> Request<()> {
    let mut request = Request::builder().uri(target).body(()).unwrap();
    *request.headers_mut() = headers(fields);
    request
}

#[test]
fn forwarded_says_it_in_the_words_of_the_standard() {
    for (before, trusted, expected) in [
        (&[][..], false, "for=\"[2001:db8::1]\";proto=https;host=\"a:1\""),
        (&[("forwarded", "for=evil")], false, "for=\"[2001:db8::1]\";proto=https;host=\"a:1\""),
        (&[("forwarded", "for=1.2.3.4")], true, "for=1.2.3.4, for=\"[2001:db8::1]\";proto=https;host=\"a:1\""),
    ] {
        let (mut fields, authority) = (headers(before), Bytes::from_static(b"a:1"));
        let peer = "2001:db8::1".parse().unwrap();
        let peer_text = address_value(peer);
        let forwarding = Forwarding {
            peer_is_trusted: trusted,
            scheme: Scheme::Https,
            authority: Some(&authority),
            forwarded: true,
            ..on_behalf_of(peer, &peer_text)
        };
        add_forwarding(&mut fields, &forwarding);
        assert_eq!(text(&fields, "forwarded"), [expected]);
    }
}

#[test]
fn an_http2_request_may_say_it_twice_but_not_otherwise() {
    let of = |host| {
        let mut request = asking("https://a.example/x", &[("host", host)]);
        *request.version_mut() = Version::HTTP_2;
        authority_of(&request)
    };
    assert_eq!(of("A.example").unwrap().unwrap(), "a.example");
    assert_eq!(of("b.example"), Err(BadAuthority));
    assert_eq!(of("").unwrap().unwrap(), "a.example");
}

#[test]
fn crumbs_become_one_cookie() {
    let mut fields = headers(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c=3")]);
    join_cookies(&mut fields);
    assert_eq!(text(&fields, "cookie"), ["a=1; b=2; c=3"]);
    let mut one = headers(&[("cookie", "a=1")]);
    join_cookies(&mut one);
    assert_eq!(text(&one, "cookie"), ["a=1"]);
}

#[test]
fn a_request_names_one_authority_or_none() {
    assert_eq!(authority_of(&asking("/", &[("host", "a"), ("host", "b")])), Err(BadAuthority));
    assert_eq!(authority_of(&asking("/", &[("host", "a:80")])).unwrap().unwrap(), "a:80");
    assert_eq!(authority_of(&asking("/", &[("host", "")])), Ok(None));
    assert_eq!(authority_of(&asking("/", &[])), Ok(None));
    assert_eq!(authority_of(&asking("/", &[("host", "evil.example/\"@127.0.0.1:80")])), Err(BadAuthority));
}

#[test]
fn the_authority_of_an_absolute_target_counts_without_its_user() {
    let absolute = "http://alice:secret@b:80/x";
    assert_eq!(authority_of(&asking(absolute, &[("host", "a")])).unwrap().unwrap(), "b:80");
    assert_eq!(authority_of(&asking(absolute, &[("host", "a/b")])), Err(BadAuthority), "still a bad request");
}
