use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::routing::RoutingMode;

fn read(text: &str) -> Result<ServerOptions, ConfigErrors> {
    read_with(text, &[])
}

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<ServerOptions, ConfigErrors> {
    let environment = environment.iter().copied().collect();
    ServerOptions::from_text(Path::new("etc/server.toml"), text, &environment, &Flags::new())
}

/// The key of the only problem `text` has, and its message.
fn problem(text: &str) -> (String, String) {
    let mut errors = read(text).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{text}: {errors}");
    let problem = errors.problems.remove(0);
    (problem.key, problem.message)
}

#[test]
fn without_a_file_the_paths_are_those_of_the_usual_place() {
    let config = ServerOptions::from_layers(None, &Environment::default(), &Flags::new()).unwrap();
    assert_eq!(config.clients, Path::new("config/clients.toml"));
    assert_eq!(config.tunnel.tls.dir, Path::new("certs"));
    assert_eq!(config.tunnel.listen, "[::]:8080".parse().unwrap());
    assert_eq!(config.public.domain, "localhost");
}

#[test]
fn paths_start_where_they_are_named() {
    let config = read_with("clients = 'a.toml'", &[("ADIT__TUNNEL__TLS__DIR", "pki")]).unwrap();
    assert_eq!(config.clients, Path::new("etc/a.toml"));
    assert_eq!(config.tunnel.tls.dir, Path::new("pki"));
    assert_eq!(read("").unwrap().tunnel.tls.dir, Path::new("etc/../certs"));
}

#[test]
fn environment_and_flags_reach_every_kind_of_value() {
    let environment = [
        ("ADIT__TUNNEL__HEARTBEAT", "200ms"),
        ("ADIT__TUNNEL__MAX_TUNNELS", "5"),
        ("ADIT__PUBLIC__ROUTING", "path, header"),
        ("ADIT__PUBLIC__DOMAIN", "a.example"),
    ];
    let flags = Flags::new().with("public.domain", "B.example").with("limits.per_ip.burst", 7);
    let config = ServerOptions::from_text(
        Path::new("server.toml"),
        "[public]\nrouting = ['subdomain']",
        &environment.into_iter().collect(),
        &flags,
    )
    .unwrap();
    assert_eq!(config.tunnel.heartbeat, Duration::from_millis(200));
    assert_eq!(config.tunnel.max_tunnels, 5);
    assert_eq!(config.public.routing, [RoutingMode::Path, RoutingMode::Header]);
    assert_eq!(config.public.domain, "b.example");
    assert_eq!(config.limits.per_ip.burst.get(), 7);
}

#[test]
fn a_certificate_comes_with_its_key_or_not_at_all() {
    let own = read("[tunnel.tls]\ncert = 'c.pem'\nkey = 'k.pem'").unwrap().tunnel.tls.own.unwrap();
    assert_eq!((own.cert, own.key), (PathBuf::from("etc/c.pem"), PathBuf::from("etc/k.pem")));
    assert_eq!(problem("[tunnel.tls]\ncert = 'c.pem'").0, "tunnel.tls.key");
    assert_eq!(problem("[tunnel.tls]\nkey = 'k.pem'").0, "tunnel.tls.cert");
}

#[test]
fn the_domain_is_a_name_and_nothing_more() {
    let domain = |text: &str| format!("[public]\ndomain = '{text}'");
    assert_eq!(read(&domain("Tunnel.Example.COM.")).unwrap().public.domain, "tunnel.example.com");
    for (bad, says) in [
        ("https://a.example", "without scheme"),
        ("a.example:80", "without scheme"),
        ("192.0.2.1", "IP address"),
        ("::1", "IP address"),
        ("a_b.example", "not a host name"),
        ("", "1 to 253"),
    ] {
        let (key, message) = problem(&domain(bad));
        assert!(key == "public.domain" && message.contains(says), "{bad}: {message}");
    }
}

#[test]
fn the_public_url_is_a_template() {
    let url = |text: &str| format!("[public]\nurl = '{text}'");
    let good = "https://{name}.a.example";
    assert_eq!(read(&url(good)).unwrap().public.url.as_deref(), Some(good));
    for bad in ["{name}.a.example", "https://a.example", "https://", "https://{name}.{domain}", "https://{name} a"] {
        assert_eq!(problem(&url(bad)).0, "public.url", "{bad}");
    }
}

#[test]
fn routing_names_each_way_once_and_at_least_one() {
    assert_eq!(problem("[public]\nrouting = []").0, "public.routing");
    assert_eq!(problem("[public]\nrouting = ['path', 'path']").0, "public.routing[1]");
    assert_eq!(problem("[public]\nrouting = ['cookie', 'path']").0, "public.routing[0]");
}

#[test]
fn a_proxy_is_a_network_or_one_address() {
    let config = read("[public]\ntrusted_proxies = ['10.0.0.0/8', '192.0.2.1', '2001:db8::1']").unwrap();
    let expected = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128"].map(|text| text.parse::<IpNet>().unwrap());
    assert_eq!(config.public.trusted_proxies, expected);
    assert_eq!(problem("[public]\ntrusted_proxies = ['proxy.example']").0, "public.trusted_proxies[0]");
}

#[test]
fn certificate_names_are_hosts_or_addresses() {
    let config = read("[tunnel.tls]\nnames = ['Tunnel.Example.com', '192.0.2.1', '2001:DB8::1']").unwrap();
    assert_eq!(config.tunnel.tls.names, ["tunnel.example.com", "192.0.2.1", "2001:db8::1"]);
    assert_eq!(problem("[tunnel.tls]\nnames = ['a b']").0, "tunnel.tls.names[0]");
}

#[test]
fn values_out_of_bounds_are_refused_by_name() {
    for (section, key, bad) in [
        ("tunnel", "heartbeat", "'99ms'"),
        ("tunnel", "heartbeat", "'6m'"),
        ("tunnel", "login_timeout", "'0s'"),
        ("tunnel", "max_tunnels", "0"),
        ("tunnel", "max_tunnels", "-1"),
        ("tunnel", "listen", "'8080'"),
        ("tunnel", "listen", "8080"),
        ("timeouts", "idle", "5"),
        ("limits", "head_size", "8191"),
        ("limits", "head_size", "262145"),
        ("limits", "held_heads", "1048575"),
        ("limits", "held_bodies", "65535"),
        ("limits", "unread_answers", "1048575"),
        ("limits.per_ip", "requests_per_second", "0"),
        ("limits.per_ip", "ipv6_prefix", "129"),
        ("limits.per_tunnel", "streams_per_lane", "4001"),
        ("limits.per_tunnel", "streams", "'many'"),
        ("log", "level", "'loud'"),
        ("log", "format", "'xml'"),
    ] {
        assert_eq!(problem(&format!("[{section}]\n{key} = {bad}")).0, format!("{section}.{key}"), "{bad}");
    }
}

#[test]
fn two_listeners_cannot_share_an_address_but_both_may_ask_for_any_port() {
    assert_eq!(problem("[tunnel]\nlisten = '[::]:9090'").0, "public.http");
    assert!(read("[tunnel]\nlisten = '127.0.0.1:0'\n[public]\nhttp = '127.0.0.1:0'").is_ok());
    for taken in ["[::]:8080", "[::]:9090"] {
        let (key, message) = problem(&format!("[public]\nhttps = '{taken}'"));
        assert_eq!(key, "public.https");
        assert!(message.contains("the same address as"), "{message}");
    }
}

#[test]
fn https_has_its_certificates_and_its_redirects() {
    let config = read(
        "[public]\nhttps = '[::]:443'\nredirect_to_https = ['*.a.example', 'b.example']\n\
         [[public.certificates]]\ncert = 'a.pem'\nkey = 'a.key'\n\
         [[public.certificates]]\ncert = 'b.pem'\nkey = 'b.key'\n",
    )
    .unwrap();
    assert_eq!(config.public.https, Some("[::]:443".parse().unwrap()));
    let files: Vec<_> = config.public.certificates.iter().map(|own| own.cert.file_name().unwrap()).collect();
    assert_eq!(files, ["a.pem", "b.pem"]);
    assert!(config.public.redirect_to_https[0].matches("x.a.example"));
    for (text, key) in [
        ("[public]\nredirect_to_https = ['*']", "public.redirect_to_https"),
        ("[[public.certificates]]\ncert = 'a'\nkey = 'a'", "public.certificates"),
        ("[public]\nhttps = '[::]:1'\n[[public.certificates]]\ncert = 'a'", "public.certificates[0].key"),
        ("[public]\nhttps = '[::]:1'\nredirect_to_https = ['https://a']", "public.redirect_to_https[0]"),
        ("[public]\nhttps = 443", "public.https"),
        ("[public]\nproxy_protocol_from = ['lb.example']", "public.proxy_protocol_from[0]"),
    ] {
        assert_eq!(problem(text).0, key, "{text}");
    }
}

#[test]
fn keys_that_nothing_uses_yet_are_unknown() {
    let errors = read("[metrics]\nlisten = 'x'\n[log]\ncolour = 'x'").unwrap_err();
    let keys: BTreeSet<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["metrics", "log.colour"]));
}

#[test]
fn a_named_file_must_exist() {
    let missing = Path::new("no/such/server.toml");
    let errors = ServerOptions::load_with(Some(missing), &Environment::default(), &Flags::new()).unwrap_err();
    assert!(errors.to_string().starts_with("no/such/server.toml: there is no such file"), "{errors}");
}

fn config(text: &str) -> ServerOptions {
    ServerOptions::from_text(Path::new("server.toml"), text, &Environment::default(), &Flags::new()).unwrap()
}

fn strings(keys: &[&str]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[test]
fn what_can_count_at_once_does_and_the_rest_is_named() {
    let running = config("");
    for (text, is_live, keys) in [
        ("tunnel.heartbeat = '1s'", true, &["tunnel.heartbeat"][..]),
        ("tunnel.max_tunnels = 1\ntunnel.drain_timeout = '1s'", true, &["tunnel.drain_timeout", "tunnel.max_tunnels"]),
        ("public.url = 'https://{name}.example'", true, &["public.url"]),
        ("public.routing = ['path']\npublic.forwarded = true", true, &["public.routing", "public.forwarded"]),
        ("timeouts.idle = '1s'", true, &["timeouts.idle"]),
        ("limits.per_ip.burst = 1\nlimits.streams = 1", true, &["limits.streams", "limits.per_ip.burst"]),
        ("limits.per_client.streams = 1", true, &["limits.per_client.streams"]),
        ("log.level = 'debug'\nlog.query = true", true, &["log.level", "log.query"]),
        ("clients = 'others.toml'", false, &["clients"]),
        ("tunnel.listen = '127.0.0.1:1'", false, &["tunnel.listen"]),
        ("tunnel.tls.cert = 'c'\ntunnel.tls.key = 'k'", false, &["tunnel.tls.cert", "tunnel.tls.key"]),
        ("tunnel.tls.names = ['x.example']", false, &["tunnel.tls.names"]),
        ("public.domain = 'x.example'", false, &["public.domain"]),
        ("admin.listen = 'off'", false, &["admin.listen"]),
        ("log.format = 'json'", false, &["log.format"]),
        ("log.file = 'l'", false, &["log.file", "log.file_size", "log.files"]),
    ] {
        let read = config(text);
        let Renewed { config, changed, waiting } = running.renewed(&read);
        let (expected, none) = if is_live { (&read, &waiting) } else { (&running, &changed) };
        assert!(config == *expected && none.is_empty(), "{text}: {changed:?} {waiting:?}");
        assert_eq!(if is_live { changed } else { waiting }, keys, "{text}");
    }
}

#[test]
fn what_was_changed_back_waits_for_nothing() {
    let started = config("");
    let first = started.renewed(&config("public.domain = 'x.example'\nlimits.streams = 1"));
    assert_eq!((first.changed, first.waiting), (strings(&["limits.streams"]), strings(&["public.domain"])));
    let second = first.config.renewed(&config("public.domain = 'x.example'\nlimits.streams = 1"));
    assert_eq!((second.changed, second.waiting), (vec![], strings(&["public.domain"])));
    let third = second.config.renewed(&started);
    assert_eq!((third.changed, third.waiting), (strings(&["limits.streams"]), vec![]));
    assert_eq!(third.config, started);
}

#[test]
fn certificates_wait_with_their_listener() {
    let with =
        "[public]\nhttps = '[::]:9443'\nredirect_to_https = ['*']\n[[public.certificates]]\ncert = 'c'\nkey = 'k'\n";
    let keys = ["public.https", "public.redirect_to_https", "public.certificates"];
    for (running, read) in [("", with), (with, "")] {
        let (running, read) = (config(running), config(read));
        let renewed = running.renewed(&read);
        assert_eq!((renewed.changed, renewed.waiting), (vec![], strings(&keys)));
        assert_eq!(renewed.config, running);
    }
    let other = with.replace("'c'", "'other'").replace("9443", "9444");
    let renewed = config(with).renewed(&config(&other));
    assert_eq!((renewed.changed, renewed.waiting), (strings(&["public.certificates"]), strings(&["public.https"])));
}
