use http::header::{HeaderName, HeaderValue};

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::*;
use crate::agent::options::AgentOptions;
use crate::protocol::access::{Webhook, WebhookScheme};
use crate::schema::{ConfigErrors, Environment, Flags};
use crate::values::{Fingerprint, Secret};

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2g";

fn read(services: &str) -> Result<Vec<Service>, ConfigErrors> {
    let text = format!("servers = ['a.example']\nclient_id = 'alice'\ntoken = 'adit_x'\n{services}");
    AgentOptions::from_text(Path::new("agent.toml"), &text, &Environment::default(), &Flags::new())
        .map(|config| config.services)
}

/// The only service, with these lines.
fn service(lines: &str) -> Service {
    read(&format!("[[services]]\n{lines}")).unwrap().remove(0)
}

/// What is wrong with a service of these lines, as `key: message`, without the number of the service.
fn problems(lines: &str) -> Vec<String> {
    let errors = read(&format!("[[services]]\n{lines}")).unwrap_err();
    errors.problems.iter().map(|problem| problem.to_string().replace("services[0].", "")).collect()
}

/// Each of these lines is one problem, and this is said of it.
fn each_is_a_problem(head: &str, cases: &[(&str, &str)]) {
    for (lines, says) in cases {
        let found = problems(&format!("{head}{lines}"));
        assert!(found.len() == 1 && found[0].contains(says), "{lines}: {found:?}");
    }
}

#[test]
fn rules_lead_elsewhere_and_local_takes_the_rest() {
    let service = service(
        "local = 3000\n[[services.rules]]\npath = '/api/'\nlocal = 4000\nstrip_prefix = true\n\
         [[services.rules]]\npath = '/'\nheader = { name = 'X-Version', value = '2' }\nlocal = 'https://app'\n\
         [[services.rules]]\nheader = { name = 'Host' }\nlocal = 'unix:/run/app.sock'",
    );
    assert_eq!(
        service.locals().map(|local| local.text.as_str()).collect::<Vec<_>>(),
        ["3000", "4000", "https://app", "unix:/run/app.sock"]
    );
    let [api, version, host] = service.rules.as_slice() else { panic!("{service:?}") };
    assert_eq!((api.path.as_deref(), &api.header, api.strip_prefix), (Some("/api"), &None, true));
    assert_eq!(version.path.as_deref(), Some(""));
    let (name, value) = (HeaderName::from_static("x-version"), Some(HeaderValue::from_static("2")));
    assert_eq!(version.header, Some(HeaderCondition { name, value }));
    assert_eq!((&host.path, host.header.as_ref().unwrap().value.as_ref(), host.strip_prefix), (&None, None, false));
}

#[test]
fn lower_limits_are_told_to_the_server() {
    let limits = |text: &str| {
        let service = service(&format!("local = 3000\n{text}"));
        assert_eq!(service.limits, service.offer().limits);
        service
            .limits
            .map(|limits| [limits.requests_per_second, limits.burst, limits.streams].map(|limit| limit.map(u32::from)))
    };
    assert_eq!(limits(""), None);
    assert_eq!(limits("limits = {}"), None);
    assert_eq!(limits("limits = { requests_per_second = 5 }"), Some([Some(5), None, None]));
    let two = "kind = 'tcp'\nlimits = { requests_per_second = 5, burst = 20 }";
    assert_eq!(limits(two), Some([Some(5), Some(20), None]));
    assert_eq!(limits("limits = { streams = 7 }"), Some([None, None, Some(7)]));
    each_is_a_problem(
        "local = 3000\n",
        &[
            ("limits = { burst = 20 }", "limits.burst: needs requests_per_second beside it"),
            ("limits = { requests_per_second = 0 }", "limits.requests_per_second: "),
            ("limits = { streams = 0 }", "limits.streams: "),
            ("limits = { requests_per_second = 1, connections = 1 }", "limits.connections"),
        ],
    );
}

#[test]
fn a_service_says_how_long_its_streams_may_be_silent() {
    let quiet = |text: &str| service(&format!("local = 3000\n{text}")).quiet_timeout;
    assert_eq!((quiet(""), quiet("quiet_timeout = '2h'")), (None, Some(std::time::Duration::from_secs(7200))));
    let cases = [("quiet_timeout = '31days'", "quiet_timeout: "), ("quiet_timeout = 60", "must be a duration")];
    each_is_a_problem("local = 3000\n", &cases);
}

#[test]
fn a_last_rule_for_everything_is_the_same_as_local() {
    let plain = service("local = 3000\n[[services.rules]]\npath = '/api'\nlocal = 4000");
    for last in ["", "path = '/'\n"] {
        let rules = format!("[[services.rules]]\npath = '/api'\nlocal = 4000\n[[services.rules]]\n{last}local = 3000");
        assert_eq!(service(&rules), plain);
    }
}

#[test]
fn mistakes_in_rules_have_their_place() {
    each_is_a_problem(
        "",
        &[
            ("[[services.rules]]\npath = '/api'\nlocal = 4000", "local: is missing"),
            ("kind = 'tcp'\nlocal = 22\n[[services.rules]]\npath = '/a'\nlocal = 23", "rules: is only for services"),
            ("local = 1\n[[services.rules]]\nlocal = 2", "rules[0]: fits everything"),
            ("[[services.rules]]\nlocal = 2\n[[services.rules]]\npath = '/a'\nlocal = 3", "rules[1]: is never reached"),
        ],
    );
    each_is_a_problem(
        "local = 1\n[[services.rules]]\n",
        &[
            ("path = '/a'", "rules[0].local: is missing"),
            ("path = 'api'\nlocal = 2", "rules[0].path: `api` is not a path"),
            ("path = '/a?b'\nlocal = 2", "rules[0].path"),
            ("path = '/a b'\nlocal = 2", "rules[0].path"),
            ("path = '/é'\nlocal = 2", "as %C3%A9"),
            ("path = '/a'\nlocal = 'tcp://a:1'", "rules[0].local: `tcp://a:1` is for services of the kind tcp"),
            ("path = '/a'\nlocal = 'http://a/b'", "has a path"),
            ("header = { name = 'X-A' }\nlocal = 2\nstrip_prefix = true", "rules[0].strip_prefix: needs a path"),
            ("header = { value = '2' }\nlocal = 2", "rules[0].header.name: is missing"),
            ("header = { name = 'a b' }\nlocal = 2", "rules[0].header.name: `a b` is not the name"),
            ("header = { name = 'Host', value = 'a.example:80' }\nlocal = 2", "is not a host"),
            ("header = { name = 'Connection' }\nlocal = 2", "is not seen here"),
            ("header = { name = 'x', value = \"a\\nb\" }\nlocal = 2", "rules[0].header.value: has characters"),
            ("header = { name = 'x', vlaue = '2' }\nlocal = 2", "did you mean `rules[0].header.value`?"),
        ],
    );
    let many = "[[services.rules]]\npath = '/a'\nlocal = 2\n".repeat(65);
    assert!(problems(&format!("local = 1\n{many}"))[0].starts_with("rules: has 65 entries"));
    // With a mistake in the condition, what it fits is not known: nothing else is concluded from it.
    assert_eq!(problems("[[services.rules]]\npath = 'api'\nlocal = 2").len(), 1);
}

#[test]
fn tls_settings_are_for_a_rules_application_too() {
    let lines = "local = 3000\ninsecure_skip_verify = true\n[[services.rules]]\npath = '/a'\nlocal = ";
    assert_eq!(service(&format!("{lines}'https://app'")).trust, LocalTrust::Anybody);
    assert_eq!(problems(&format!("{lines}4000")).len(), 1);
}

#[test]
fn hosts_and_group_are_offered() {
    let offer =
        service("local = 3000\nwildcard = true\ndomains = ['Blog.Alice.example', '*.alice.example']\ngroup = 'web'")
            .offer();
    assert_eq!((offer.name.as_str(), offer.kind, offer.wildcard), ("alice", ServiceKind::Http, true));
    assert_eq!(offer.domains.iter().map(Domain::as_str).collect::<Vec<_>>(), ["blog.alice.example", "*.alice.example"]);
    assert_eq!(offer.group.as_ref().map(Name::as_str), Some("web"));
    assert!(offer.access.is_open());
    let plain = service("local = 3000").offer();
    assert_eq!(plain, ServiceOffer::new(Name::new("alice").unwrap(), ServiceKind::Http));
    let tcp = service("kind = 'tcp'\nlocal = 22\nremote_port = 20022").offer();
    assert_eq!((tcp.kind, tcp.remote_port), (ServiceKind::Tcp, Some(20_022)));
    each_is_a_problem(
        "local = 3000\n",
        &[
            ("domains = ['alice']", "domains[0]: `alice` is not a domain"),
            ("domains = ['192.0.2.1']", "is an address"),
            ("domains = ['a.example', 'A.example']", "domains[1]: `a.example` is listed twice"),
            ("domains = 'a.example'", "domains: must be a list"),
            ("wildcard = 'yes'", "wildcard: must be true or false"),
            ("group = 'Web'", "group: "),
            ("kind = 'tcp'\nwildcard = true", "wildcard: is only for services of the kinds http and tls"),
            ("kind = 'tcp'\ndomains = ['a.example']", "domains: is only for services of the kinds http and tls"),
        ],
    );
    let domains = |count: usize| (0..count).map(|i| format!("'d{i}.example'")).collect::<Vec<_>>().join(",");
    assert_eq!(service(&format!("local = 1\ndomains = [{}]", domains(32))).domains.len(), 32);
    assert!(problems(&format!("local = 1\ndomains = [{}]", domains(33)))[0].contains("at most 32"));
    let twice = "[[services]]\nname = 'a'\nlocal = 1\ndomains = ['a.example']\n";
    let errors = read(&format!("{twice}{}", twice.replace("'a'", "'b'"))).unwrap_err();
    assert_eq!(errors.problems[0].key, "services[1].domains", "{errors}");
}

#[test]
fn access_is_what_the_server_is_told() {
    let access = service(&format!(
        "local = 3000\n[services.access]\nallow = ['192.0.2.0/24', '2001:db8::1']\ndeny = ['192.0.2.7']\n\
         basic_auth = {{ Ann = '{HASH}', \"b.c d\" = '{HASH}' }}\nheader = {{ name = 'X-Key', value = ' hunter2 ' }}\n\
         webhook = {{ scheme = 'stripe', secret = 'whsec', tolerance = '1m', max_body = '64KiB' }}",
    ))
    .access;
    let networks = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(networks(&access.allow), ["192.0.2.0/24", "2001:db8::1/128"]);
    assert_eq!(networks(&access.deny), ["192.0.2.7/32"]);
    let mut users: Vec<_> = access.basic_auth.iter().map(|user| (user.user.as_str(), user.hash.as_str())).collect();
    users.sort();
    assert_eq!(users, [("Ann", HASH), ("b.c d", HASH)]);
    let header = access.header.as_ref().unwrap();
    assert_eq!((header.name.as_str(), header.digest), ("x-key", Fingerprint(Sha256::digest("hunter2").into())));
    let webhook =
        Webhook { scheme: WebhookScheme::Stripe, secret: Secret::new("whsec"), tolerance_s: 60, max_body: 65_536 };
    assert_eq!(access.webhook, Some(webhook));
    let shown = format!("{access:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("whsec") && !shown.contains("argon2id"), "{shown}");
}

#[test]
fn a_webhooks_secret_may_be_in_a_file_and_the_rest_has_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, " whsec\n").unwrap();
    let webhook = |file: &Path| {
        format!("local = 1\naccess.webhook = {{ scheme = 'github', secret_file = '{}' }}", file.display())
    };
    let found = service(&webhook(&path)).access.webhook.unwrap();
    assert_eq!((found.secret.expose(), found.tolerance_s, found.max_body), ("whsec", 300, 1_048_576));
    assert!(problems(&webhook(Path::new("no/such")))[0].starts_with("access.webhook.secret_file: cannot read"));
    std::fs::write(&path, "\u{feff}wh'sec'\r\n").unwrap();
    assert_eq!(service(&webhook(&path)).access.webhook.unwrap().secret.expose(), "wh'sec'");
    for (bytes, says) in [
        (&b"\n"[..], "holds no secret"),
        // They may belong to it.
        (b"'hunter2'\n", "has quotes around the secret"),
        (b"\"hunter2\"", "has quotes around the secret"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let problem = problems(&webhook(&path)).remove(0);
        assert!(problem.starts_with(&format!("access.webhook.secret_file: {says}")), "{problem}");
        assert!(!problem.contains("hunter2"));
    }
    std::fs::write(&path, b"\xff\xfea\0").unwrap();
    assert!(problems(&webhook(&path))[0].ends_with("is UTF-16 text; save it as UTF-8"));
}

#[test]
fn mistakes_in_access_are_named_and_no_secret_is_repeated() {
    each_is_a_problem(
        "local = 1\naccess.",
        &[
            ("allow = ['10.0.0.0/33']", "access.allow[0]: `10.0.0.0/33` is not a network"),
            ("basic_auth = { ann = 'hunter2' }", "access.basic_auth.ann: is not an argon2id hash; make one with"),
            ("header = { name = 'X-Key' }", "access.header.value: is missing"),
            ("header = { value = 'hunter2' }", "access.header.name: is missing"),
            ("header = { name = 'TE', value = 'x' }", "is not seen here"),
            ("header = { name = 'X-Key', value = '' }", "is empty"),
            ("header = { name = 'X-Key', value = \"hunter2\\u0007\" }", "has characters"),
            ("webhook = { secret = 'hunter2' }", "access.webhook.scheme: is missing"),
            ("webhook = { scheme = 'gitlab', secret = 'hunter2' }", "use \"github\" or \"stripe\""),
            ("webhook = { scheme = 'github' }", "access.webhook.secret: is missing"),
            ("webhook = { scheme = 'github', secret = '' }", "access.webhook.secret: holds no secret"),
            ("webhook = { scheme = 'github', secret = 'hunter2', secret_file = 'x' }", "keep one of the two"),
            ("webhook = { scheme = 'github', secret = 'hunter2', tolerance = '1m' }", "access.webhook.tolerance"),
            ("webhook = { scheme = 'stripe', secret = 'hunter2', tolerance = '2days' }", "access.webhook.tolerance"),
            ("webhook = { scheme = 'stripe', secret = 'hunter2', max_body = '26MiB' }", "25 MiB"),
            ("webhook = { scheme = 'stripe', secret = 'hunter2', max_body = 0 }", "access.webhook.max_body"),
            ("alow = []", "did you mean `access.allow`?"),
        ],
    );
    let name = format!("local = 1\naccess.basic_auth = {{ 'a:b' = '{HASH}' }}");
    assert!(problems(&name)[0].contains("no colon"));
    let both = format!(
        "local = 1\naccess = {{ basic_auth = {{ a = '{HASH}' }}, header = {{ name = 'Authorization', value = 'hunter2' }} }}"
    );
    assert!(problems(&both)[0].starts_with("access.header: is the field in which passwords come"));
    let all = "local = 1\naccess = { allow = ['x'], basic_auth = { a = 'hunter2' }, header = {}, webhook = {} }";
    let found = problems(all);
    assert_eq!(found.len(), 6, "{found:?}");
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn services_that_are_not_http_have_access_by_address_alone() {
    for kind in ["tcp", "tls"] {
        let allowed = format!("kind = '{kind}'\nlocal = 1\naccess = {{ allow = ['10.0.0.0/8'], deny = ['10.0.0.1'] }}");
        assert!(service(&allowed).access.is_for_addresses());
        let refused = format!(
            "kind = '{kind}'\nlocal = 1\naccess = {{ basic_auth = {{ a = '{HASH}' }}, header = {{ name = 'x', value = 'y' }}, \
             webhook = {{ scheme = 'github', secret = 's' }} }}"
        );
        let found = problems(&refused);
        let keys: Vec<_> = found.iter().map(|text| text.split(':').next().unwrap()).collect();
        assert_eq!(keys, ["access.basic_auth", "access.header", "access.webhook"]);
    }
}

#[test]
fn what_the_server_is_told_must_fit_one_message() {
    let domain = |service: usize, i: usize| format!("'{}.s{service}d{i}.example'", "x".repeat(60));
    let named = |service: usize, count: usize| {
        let domains: Vec<_> = (0..count).map(|i| domain(service, i)).collect();
        format!("[[services]]\nname = 's{service}'\nlocal = 1\ndomains = [{}]\n", domains.join(","))
    };
    let fits: String = (0..11).map(|service| named(service, 32)).collect();
    assert_eq!(read(&fits).unwrap().len(), 11);
    let too_much: String = (0..14).map(|service| named(service, 32)).collect();
    let errors = read(&too_much).unwrap_err();
    assert_eq!((errors.problems.len(), errors.problems[0].key.as_str()), (1, "services"), "{errors}");
    assert!(errors.problems[0].message.contains("in the message to the server"), "{errors}");
}

#[test]
fn what_happens_on_path_routes_is_offered_and_required() {
    use crate::protocol::requirements::{PATH_PREFIX, required_by};
    for (lines, expected) in [
        ("", PathPrefix::Strip),
        ("strip_prefix = true\nknows_prefix = false", PathPrefix::Strip),
        ("knows_prefix = true", PathPrefix::Known),
        ("strip_prefix = false", PathPrefix::Keep),
    ] {
        let offer = service(&format!("local = 1\n{lines}")).offer();
        assert_eq!(offer.path_prefix, expected, "{lines}");
        let required = if expected == PathPrefix::Strip { vec![] } else { vec![PATH_PREFIX] };
        assert_eq!(required_by(&[offer]), required, "{lines}");
    }
    each_is_a_problem(
        "local = 1\n",
        &[
            ("strip_prefix = false\nknows_prefix = true", "knows_prefix: has no meaning with strip_prefix = false"),
            ("kind = 'tcp'\nstrip_prefix = false", "strip_prefix: is only for services of the kind http"),
            ("kind = 'tcp'\nknows_prefix = true", "knows_prefix: is only for services of the kind http"),
        ],
    );
}
