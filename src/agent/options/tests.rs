use super::*;
use crate::agent::options::{HeaderRules, HostHeader, Place, ProxyProtocol};
use crate::protocol::login::{MAX_SERVICES, ServiceKind};
use crate::transport::tls::LocalTrust;
use crate::values::Fingerprint;

const WHO: &str = "servers = ['a.example']\nclient_id = 'alice'\n";
const SERVICE: &str = "[[services]]\nlocal = 3000\n";

fn read_with(text: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<AgentOptions, ConfigErrors> {
    AgentOptions::from_text(Path::new("agent.toml"), text, &environment.iter().copied().collect(), flags)
}

fn read(text: &str) -> Result<AgentOptions, ConfigErrors> {
    read_with(text, &[("ADIT_TOKEN", "adit_env")], &Flags::new())
}

/// The key of the only problem of `head`, an otherwise good file, with `tail` after it; and the message.
fn problem(head: &str, tail: &str) -> (String, String) {
    let mut errors = read(&format!("{WHO}{head}\n{tail}")).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{head} {tail}: {errors}");
    let problem = errors.problems.remove(0);
    (problem.key, problem.message)
}

#[test]
fn what_is_missing_is_named_with_what_to_do_about_it() {
    let errors = AgentOptions::from_flags(&Environment::default(), &Flags::new()).unwrap_err();
    let text = errors.to_string();
    let keys: Vec<_> = errors.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["", "services"]);
    for advice in ["not logged in; run `adit login HOST:PORT --invite CODE`", "[[services]]"] {
        assert!(text.contains(advice), "{advice} in {text}");
    }
    let some = Flags::new().with("servers", "a.example");
    let text = AgentOptions::from_flags(&Environment::default(), &some).unwrap_err().to_string();
    for advice in ["client_id: is missing; give --id", "token: is missing; give --token, ADIT_TOKEN or token_file"] {
        assert!(text.contains(advice), "{advice} in {text}");
    }
}

#[test]
fn flags_alone_are_enough() {
    let service: std::collections::HashMap<String, config::ValueKind> =
        [("local".to_owned(), "3000".into()), ("host_header".to_owned(), "local".into())].into();
    let flags = Flags::new()
        .with("servers", vec!["[::1]:9"])
        .with("client_id", "alice")
        .with("token", "adit_flag")
        .with("ca", "ca.pem")
        .with("services", vec![service]);
    let config = AgentOptions::from_flags(&Environment::default(), &flags).unwrap();
    assert_eq!(config.servers, ["[::1]:9".parse().unwrap()]);
    assert_eq!(config.token.expose(), "adit_flag");
    assert_eq!(config.trust, Trust::CaFile("ca.pem".into()));
    let [service] = config.services.as_slice() else { panic!("{:?}", config.services) };
    assert_eq!(service.name.as_str(), "alice");
    assert_eq!(service.local.place, Place::Tcp { host: "localhost".to_owned(), port: 3000 });
    assert_eq!(service.host_header, HostHeader::Local);
}

#[test]
fn the_highest_layer_gives_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "  adit_file\n").unwrap();
    let file = format!("{WHO}token_file = '{}'\n{SERVICE}", path.display());
    let token = |environment: &[(&str, &str)], flags: &Flags| {
        read_with(&file, environment, flags).unwrap().token.expose().to_owned()
    };
    assert_eq!(token(&[], &Flags::new()), "adit_file");
    assert_eq!(token(&[("ADIT_TOKEN", "adit_env")], &Flags::new()), "adit_env");
    assert_eq!(token(&[("ADIT_TOKEN", "adit_env")], &Flags::new().with("token", "adit_flag")), "adit_flag");
}

#[test]
fn what_editors_and_shells_add_to_a_token_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let in_file = format!("{WHO}token_file = '{}'\n{SERVICE}", path.display());
    for text in ["adit_x", "\u{feff}adit_x\r\n", " \"adit_x\"\n", "'adit_x'", "\u{feff}' adit_x '\n\n"] {
        std::fs::write(&path, text).unwrap();
        let of_file = read_with(&in_file, &[], &Flags::new()).unwrap();
        let variable = [("ADIT_TOKEN", text)];
        let of_variable = read_with(&format!("{WHO}{SERVICE}"), &variable, &Flags::new()).unwrap();
        let of_flag = Flags::new().with("token", text);
        let of_flag = read_with(&format!("{WHO}{SERVICE}"), &[], &of_flag).unwrap();
        for options in [of_file, of_variable, of_flag] {
            assert_eq!(options.token.expose(), "adit_x", "{text:?}");
        }
    }
    for (bytes, says) in [
        (&b"\xff\xfea\0"[..], "is UTF-16 text; save it as UTF-8"),
        (b"adit_\xfc", "is not UTF-8 text"),
        (b"adit_x\nadit_y\n", "has white space or a line end inside"),
        (b"alice adit_x", "has white space or a line end inside"),
        (b"ADIT_TOKEN=adit_x", "holds a setting"),
        (b"\"adit_x", "has a quote that belongs to no token"),
        ("adit_hunter2\u{200b}".as_bytes(), "has a character that no token has"),
        (b"\xef\xbb\xbf\n", "holds no token"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let errors = read_with(&in_file, &[], &Flags::new()).unwrap_err().to_string();
        assert!(errors.contains(says) && !errors.contains("hunter2"), "{errors}");
    }
}

#[test]
fn two_tokens_in_one_layer_are_refused_and_not_printed() {
    let file = format!("{WHO}token = 'adit_hunter2'\ntoken_file = 'x'\n{SERVICE}");
    let errors = read_with(&file, &[], &Flags::new()).unwrap_err();
    assert_eq!(errors.problems.len(), 1, "{errors}");
    assert!(errors.to_string().contains("token: is given more than once"), "{errors}");
    let errors = read_with(&format!("{WHO}{SERVICE}"), &[("ADIT_TOKEN", "a"), ("ADIT__TOKEN", "b")], &Flags::new());
    assert!(errors.is_err());
}

#[test]
fn a_token_in_the_wrong_place_is_not_printed() {
    for line in ["token_file = 'adit_hunter2'", "token = ['adit_hunter2']", "tokn = 'adit_hunter2'"] {
        let errors = read_with(&format!("{WHO}{line}\n{SERVICE}"), &[], &Flags::new()).unwrap_err();
        assert!(!errors.to_string().contains("hunter2"), "{errors}");
    }
    let config = read_with(&format!("{WHO}token = 'adit_hunter2'\n{SERVICE}"), &[], &Flags::new()).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_empty_unreadable_or_endless_token_is_refused() {
    let long = format!("token = '{}'", "x".repeat(1025));
    for (line, key) in [("token = ' '", "token"), ("token_file = 'no/such/file'", "token_file"), (&long, "token")] {
        let errors = read_with(&format!("{WHO}{line}\n{SERVICE}"), &[], &Flags::new()).unwrap_err();
        assert_eq!((errors.problems.len(), errors.problems[0].key.as_str()), (1, key), "{errors}");
    }
}

#[test]
fn trust_is_one_thing_or_the_other() {
    let pin = format!("fingerprint = 'sha256:{}'", "ab".repeat(32));
    assert_eq!(read(&format!("{WHO}{SERVICE}")).unwrap().trust, Trust::System);
    let pinned = read(&format!("{WHO}{pin}\n{SERVICE}")).unwrap().trust;
    assert_eq!(pinned, Trust::Fingerprint(Fingerprint([0xab; 32])));
    assert_eq!(problem(&format!("{pin}\nca = 'ca.pem'"), SERVICE).0, "fingerprint");
    assert_eq!(problem("fingerprint = 'sha256:00'", SERVICE).0, "fingerprint");
}

#[test]
fn services_have_distinct_names_and_are_not_too_many() {
    let named = |name: &str| format!("[[services]]\nname = '{name}'\nlocal = 3000\n");
    let two = read(&format!("{WHO}{}{SERVICE}", named("blog"))).unwrap();
    assert_eq!(two.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(), ["blog", "alice"]);
    assert_eq!(problem(&named("alice"), SERVICE).0, "services[1].name");
    let many = |count: usize| (0..count).map(|number| named(&format!("n{number}"))).collect::<String>();
    assert_eq!(read(&format!("{WHO}{}", many(MAX_SERVICES))).unwrap().services.len(), MAX_SERVICES);
    assert_eq!(problem("", &many(MAX_SERVICES + 1)).0, "services");
    assert_eq!(problem("services = []", "").0, "services");
    assert_eq!(problem("services = 'x'", "").0, "services");
    assert_eq!(problem("services = ['x']", "").0, "services[0]");
}

#[test]
fn mistakes_in_a_service_have_its_number() {
    for (line, key, says) in [
        ("kind = 'tcp'\nhost_header = 'local'", "host_header", "only for services of the kind http"),
        ("kind = 'tls'\nremote_port = 1", "remote_port", "only for services of the kind tcp"),
        ("kind = 'tcp'\nresponse_headers.remove = ['x']", "response_headers", "only for services of the kind http"),
        ("insecure_skip_verify = true", "insecure_skip_verify", "only for a local https:// application"),
        ("ca = 'x'", "ca", "only for a local https:// application"),
        ("proxy_protocol = 'v3'", "proxy_protocol", "v1"),
        ("request_headers.set = { Host = 'x' }", "request_headers.set.Host", "host_header"),
        ("request_headers.add = { te = 'x' }", "request_headers.add.te", "belongs to the connection"),
        ("request_headers.remove = ['a b']", "request_headers.remove[0]", "not the name of a field"),
        ("response_headers.set = { a = \"x\\ny\" }", "response_headers.set.a", "characters"),
        ("kind = 'udp'", "kind", "not a kind"),
        ("name = 'A'", "name", "a-z"),
        ("host_header = 'a b'", "host_header", "preserve"),
        ("lokal = 1", "lokal", "did you mean `services[0].local`?"),
    ] {
        let (found, message) = problem("", &format!("{SERVICE}{line}"));
        assert!(found == format!("services[0].{key}") && message.contains(says), "{line}: {found}: {message}");
    }
    assert_eq!(problem("", "[[services]]").0, "services[0].local");
    let config = read(&format!("{WHO}{SERVICE}host_header = 'app.internal:80'")).unwrap();
    assert_eq!(config.services[0].host_header, HostHeader::Value("app.internal:80".into()));
}

#[test]
fn servers_from_the_environment_are_separated_by_commas() {
    let environment = [("ADIT_TOKEN", "t"), ("ADIT__SERVERS", "b.example:1, c.example")];
    let config = read_with(&format!("{WHO}{SERVICE}"), &environment, &Flags::new()).unwrap();
    let servers: Vec<_> = config.servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["b.example:1", "c.example:8080"]);
}

#[test]
fn a_missing_file_points_to_the_way_without_one() {
    let errors = AgentOptions::load_with(Some(Path::new("no/such.toml")), &Environment::default(), &Flags::new(), None);
    assert!(errors.unwrap_err().to_string().contains("adit http 3000"));
}

#[test]
fn a_service_says_how_its_application_is_spoken_to() {
    let config = read(&format!(
        "{WHO}[[services]]\nlocal = 'https://app:8443'\nca = 'ca.pem'\nproxy_protocol = 'v2'\n\
         request_headers = {{ remove = ['Cookie'], set = {{ X-A = '1' }}, add = {{ x-b = '2' }} }}\n\
         [[services]]\nname = 'db'\nkind = 'tcp'\nlocal = 'unix:/run/db.sock'\nremote_port = 20000\n\
         [[services]]\nname = 'own'\nkind = 'tls'\nlocal = 'tcp://127.0.0.1:443'"
    ))
    .unwrap();
    let [web, db, own] = config.services.as_slice() else { panic!("{:?}", config.services) };
    assert_eq!(web.trust, LocalTrust::CaFile("ca.pem".into()));
    assert_eq!(web.proxy_protocol, Some(ProxyProtocol::V2));
    let field = |name: &'static str, value: &'static str| (name.parse().unwrap(), value.parse().unwrap());
    let (remove, set, add) = (vec!["cookie".parse().unwrap()], vec![field("x-a", "1")], vec![field("x-b", "2")]);
    assert_eq!(web.request_headers, HeaderRules { remove, set, add });
    assert_eq!((db.kind, db.remote_port), (ServiceKind::Tcp, Some(20_000)));
    assert_eq!(own.kind, ServiceKind::Tls);
    let of = |kind: &str, local: &str| problem("", &format!("[[services]]\nkind = '{kind}'\nlocal = '{local}'")).1;
    assert!(of("tcp", "http://a:1").contains("kind http") && of("http", "tcp://a:1").contains("kind tcp"));
    let both = problem("", "[[services]]\nlocal = 'https://a'\nca = 'x'\ninsecure_skip_verify = true");
    assert_eq!(both.0, "services[0].insecure_skip_verify");
}

#[test]
fn header_rules_remove_then_set_then_add() {
    let field = |name: &'static str, value: &'static str| (name.parse().unwrap(), value.parse().unwrap());
    let rules = HeaderRules {
        remove: vec!["a".parse().unwrap()],
        set: vec![field("a", "set"), field("b", "set")],
        add: vec![field("a", "added"), field("c", "added")],
    };
    let mut headers: http::HeaderMap =
        [("a", "1"), ("b", "1"), ("c", "1")].map(|(n, v)| field(n, v)).into_iter().collect();
    headers.append("b", "2".parse().unwrap());
    rules.apply(&mut headers);
    let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((all("a"), all("b"), all("c")), (vec!["set", "added"], vec!["set"], vec!["1", "added"]));
}

/// A folder with a saved login of alice's at `a.example`.
fn saved() -> (tempfile::TempDir, SavedLogin) {
    let folder = tempfile::tempdir().unwrap();
    let login = SavedLogin {
        server: "a.example".parse().unwrap(),
        client_id: ClientId::new("alice").unwrap(),
        token: Secret::new("adit_saved"),
        trust: Trust::Fingerprint(Fingerprint([0xab; 32])),
    };
    login.write(folder.path()).unwrap();
    (folder, login)
}

fn over(saved: &Path, file: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<AgentOptions, ConfigErrors> {
    let file = FileText { path: "agent.toml".into(), text: format!("{file}\n{SERVICE}") };
    AgentOptions::from_file(&file, &environment.iter().copied().collect(), flags, Some(saved))
}

#[test]
fn a_saved_login_fills_in_what_nobody_says() {
    let (folder, login) = saved();
    let read = |file: &str, environment: &[(&str, &str)], flags: &Flags| {
        let config = over(folder.path(), file, environment, flags).unwrap();
        assert_eq!((&config.servers[..], &config.client_id), (&[login.server.clone()][..], &login.client_id));
        assert_eq!(config.trust, login.trust);
        config.token.expose().to_owned()
    };
    let none = Flags::new();
    assert_eq!(read("", &[], &none), "adit_saved");
    assert_eq!(read("servers = ['A.example:8080']\nclient_id = 'alice'", &[], &none), "adit_saved");
    assert_eq!(read(&format!("fingerprint = 'sha256:{}'", "ab".repeat(32)), &[], &none), "adit_saved");
    // Each layer wins over it.
    assert_eq!(read("token = 'adit_file'", &[], &none), "adit_file");
    assert_eq!(read("token = 'adit_file'", &[("ADIT_TOKEN", "adit_env")], &none), "adit_env");
    assert_eq!(read("", &[("ADIT_TOKEN", "adit_env")], &none.with("token", "adit_flag")), "adit_flag");
    assert_eq!(over(folder.path(), "", &[], &Flags::new()).unwrap().services[0].name.as_str(), "alice");
}

#[test]
fn a_saved_token_goes_to_no_other_server_and_under_no_other_id() {
    let (folder, _) = saved();
    let other_pin = format!("fingerprint = 'sha256:{}'", "cd".repeat(32));
    for (file, environment, flags) in [
        ("servers = ['b.example']", vec![], Flags::new()),
        ("servers = ['a.example:8081']", vec![], Flags::new()),
        ("servers = ['a.example', 'b.example']", vec![], Flags::new()),
        ("client_id = 'bob'", vec![], Flags::new()),
        ("", vec![("ADIT__SERVERS", "b.example")], Flags::new()),
        ("", vec![("ADIT__CLIENT_ID", "bob")], Flags::new()),
        ("", vec![], Flags::new().with("servers", vec!["b.example"])),
        ("", vec![], Flags::new().with("client_id", "bob")),
        ("servers = ['b.example']\nclient_id = 'alice'", vec![], Flags::new()),
        // Whoever can make it known otherwise could be another server at the same address.
        (other_pin.as_str(), vec![], Flags::new()),
        ("ca = 'ca.pem'", vec![], Flags::new()),
        ("client_id = 'A'", vec![], Flags::new()),
    ] {
        let errors = over(folder.path(), file, &environment, &flags).unwrap_err().to_string();
        assert!(errors.contains("token: is missing"), "{file} {environment:?}: {errors}");
        assert!(
            errors.contains("the saved login is for a.example:8080 as alice and is used for nothing else"),
            "{errors}"
        );
        assert!(!errors.contains("adit_saved"), "{errors}");
    }
}

#[test]
fn a_whole_login_has_nothing_of_a_saved_one() {
    let (folder, _) = saved();
    let config = over(folder.path(), &format!("{WHO}token = 'adit_file'"), &[], &Flags::new()).unwrap();
    assert_eq!((config.trust, config.token.expose()), (Trust::System, "adit_file"));
}

#[test]
fn a_broken_saved_login_matters_only_to_whoever_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(SavedLogin::file(folder.path()), "server = 'a.example'\ntoken = 'adit_hunter2'\ntokn = 1").unwrap();
    assert!(over(folder.path(), &format!("{WHO}token = 'adit_file'"), &[], &Flags::new()).is_ok());
    let errors = over(folder.path(), "", &[], &Flags::new()).unwrap_err().to_string();
    for part in ["the saved login cannot be used", "client_id: is missing; log in again", "tokn: unknown key"] {
        assert!(errors.contains(part), "{errors}");
    }
    assert!(!errors.contains("hunter2"), "{errors}");
}
