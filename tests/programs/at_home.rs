//! What a self-hoster sees of an agent: what is wrong with the applications, what visitors ask for, who gets in.

use std::process::Command;

use crate::processes::{Program, adit, on_a_terminal, run, tool};
use crate::setup::{Folder, HELLO, Server, python_site, start_agent, unused_address};
use crate::stand_in::StandIn;
use crate::visitor::{visit, visit_until};

/// `adit http LOCAL` as alice, with these flags.
fn http(folder: &Folder, server: &Server, local: &str, flags: &[&str]) -> Command {
    let mut command = adit();
    command.args(["http", local, "--server", &server.tunnel, "--id", "alice", "--fingerprint", &server.fingerprint]);
    command.args(flags).env("ADIT_TOKEN", std::fs::read_to_string(folder.path("token")).unwrap());
    command
}

fn server(settings: &str) -> (Folder, Server) {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    folder.write("token", &token);
    let server = Server::start(&folder, settings);
    (folder, server)
}

#[test]
fn an_application_that_is_not_there_is_told_at_the_start_and_when_somebody_asks_for_it() {
    let (folder, server) = server("");
    let address = unused_address();
    let (_, port) = address.split_once(':').unwrap();
    let mut agent = start_agent(http(&folder, &server, port, &[]));
    agent.line(&format!("nothing answers on localhost:{port} yet; visitors get 502 until something does"));
    for _ in 0..3 {
        assert_eq!(visit(&server.url("alice", "/"), &[]).error_code(), "local_unreachable");
    }
    agent.line(&format!("the local application at localhost:{port} cannot be reached; is it running?"));
    agent.signal("TERM");
    let ended = agent.ended();
    assert_eq!(ended.stderr.matches("cannot be reached").count(), 1, "{ended:?}");
    assert_eq!(ended.stderr.matches("nothing answers").count(), 1, "{ended:?}");
}

#[test]
fn an_application_that_speaks_something_else_is_told_with_what_to_write() {
    let (folder, server) = server("");
    let site = python_site(&folder);
    write_certificate(&folder, rcgen::IsCa::NoCa);
    let (_app, https) = https_application(&folder);
    let (other, plain) = (StandIn::knowing("x"), site.port);
    let alerting = other.address.port();
    for (local, says) in [
        (alerting.to_string(), format!("at localhost:{alerting} speaks TLS; write https://localhost:{alerting}")),
        (
            format!("https://localhost:{https}"),
            "is not accepted: it is signed by nobody who is trusted here".to_owned(),
        ),
        (format!("https://localhost:{plain}"), format!("does not speak TLS; write http://localhost:{plain}")),
        (
            format!("h2c://localhost:{plain}"),
            format!("does not speak HTTP/2 without TLS; write http://localhost:{plain}"),
        ),
    ] {
        let agent = start_agent(http(&folder, &server, &local, &[]));
        assert_eq!(visit(&server.url("alice", "/"), &[]).status, 502, "{local}");
        let said = agent.line(&says);
        assert!(!said.contains("OtherError") && !said.contains("dispatch"), "{said}");
    }
}

/// An application with the certificate and key in `pem`, however old they are; and its port.
fn https_app(pem: &str) -> (Program, String) {
    let serve = "import http.server as h, ssl, sys\n\
                 tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.set_ciphers('DEFAULT:@SECLEVEL=0')\n\
                 tls.load_cert_chain(sys.argv[1])\n\
                 s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler)\n\
                 s.socket = tls.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)\n\
                 print('port', s.server_port, flush=True); s.serve_forever()\n";
    let mut command = tool("python3");
    command.args(["-c", serve, pem]);
    let app = Program::start("an https application", command);
    let port = app.line("port ").trim_start_matches("port ").to_owned();
    (app, port)
}

/// Appliances have such certificates, and their owners cannot change them.
#[test]
fn any_certificate_will_do_if_none_is_checked_and_otherwise_the_reason_is_named() {
    let (folder, server) = server("");
    for (file, why) in
        [("v1-rsa1024.pem", "X.509 version 1"), ("p521.pem", "RSA keys of at least 2048 bits, P-256, P-384")]
    {
        let pem = format!("{}/tests/programs/apps/{file}", env!("CARGO_MANIFEST_DIR"));
        let (_app, port) = https_app(&pem);
        let local = format!("https://localhost:{port}");
        let agent = start_agent(http(&folder, &server, &local, &[]));
        assert_eq!(visit(&server.url("alice", "/"), &[]).status, 502, "{file}");
        let said = agent.line("local application at ");
        assert!(said.contains(why), "{file}: {said}");
        drop(agent);
        let _trusting = start_agent(http(&folder, &server, &local, &["--insecure-skip-verify"]));
        visit_until("the application answers", crate::processes::DEADLINE, &server.url("alice", "/"), |answer| {
            answer.status == 200
        });
    }
}

/// Writes a certificate that signs itself, and its key, to `both.pem`.
fn write_certificate(folder: &Folder, is_ca: rcgen::IsCa) {
    let mut made = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    made.is_ca = is_ca;
    let key = rcgen::KeyPair::generate().unwrap();
    folder.write("both.pem", &(made.self_signed(&key).unwrap().pem() + &key.serialize_pem()));
}

/// Python's web server behind TLS, with `both.pem` of this folder; returns it and its port.
fn https_application(folder: &Folder) -> (Program, String) {
    https_app(&folder.text("both.pem"))
}

#[test]
fn a_certificate_that_has_signed_itself_is_refused_in_words_and_the_remedy_is_a_flag() {
    let (folder, server) = server("");
    write_certificate(&folder, rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let (_app, port) = https_application(&folder);
    let local = format!("https://localhost:{port}");
    let agent = start_agent(http(&folder, &server, &local, &[]));
    assert_eq!(visit(&server.url("alice", "/"), &[]).status, 502);
    let said = agent.line("is not accepted");
    assert!(said.contains("it has signed itself") && said.contains("--insecure-skip-verify"), "{said}");
    assert!(!said.contains("insecure_skip_verify") && !said.contains("CaUsedAsEndEntity"), "{said}");
    drop(agent);
    let trusting = start_agent(http(&folder, &server, &local, &["--insecure-skip-verify"]));
    trusting.line("certificates of the local applications of `alice` are not checked");
    visit_until("the application answers", crate::processes::DEADLINE, &server.url("alice", "/"), |answer| {
        answer.status == 200
    });
}

#[test]
fn each_request_has_a_line_without_its_query_if_that_is_asked_for() {
    let (folder, server) = server("timeouts.response_head = '1s'\n");
    let site = python_site(&folder);
    let port = site.port.to_string();
    let mut quiet = start_agent(http(&folder, &server, &port, &[]));
    assert_eq!(visit(&server.url("alice", "/hello.txt"), &[]).body, HELLO);
    quiet.signal("TERM");
    let ended = quiet.ended();
    assert!(!format!("{ended:?}").contains("hello.txt"), "{ended:?}");

    let mut agent = start_agent(http(&folder, &server, &port, &["-v"]));
    assert_eq!(visit(&server.url("alice", "/hello.txt?key=hunter2"), &[]).body, HELLO);
    let line = agent.line("path=\"/hello.txt\"");
    for part in ["method=\"GET\"", "status=200", &format!("bytes={}", HELLO.len()), "ms=", "outcome=\"ok\""] {
        assert!(line.contains(part), "{part} in {line}");
    }
    // It takes the connection, and does not answer in time.
    site.program.signal("STOP");
    assert_eq!(visit(&server.url("alice", "/slow"), &[]).error_code(), "response_timeout");
    let cut = agent.line("path=\"/slow\"");
    assert!(cut.contains("outcome=\"cut\"") && !cut.contains("status="), "{cut}");
    site.program.signal("CONT");
    agent.signal("TERM");
    assert!(!format!("{:?}", agent.ended()).contains("hunter2"));
}

#[test]
fn a_terminal_hears_everything_once_and_a_log_hears_all_of_it() {
    let (folder, server) = server("");
    let site = python_site(&folder);
    let local = site.port.to_string();
    let nowhere = |flags: &[&str]| {
        let mut command = adit();
        command.args(["http", &local, "--server", &unused_address(), "--id", "alice", "--token", "x"]).args(flags);
        command.args(["--fingerprint", &server.fingerprint]);
        command
    };
    let terminal = Program::start("the agent", on_a_terminal(&nowhere(&["-v"])));
    // After that it has said everything once more, if it does.
    terminal.line("still not connected (5 attempts)");
    let shown = terminal.printed();
    assert_eq!(shown.matches("connection refused").count(), 1, "{shown}");
    assert!(!shown.contains("WARN"), "{shown}");
    drop(terminal);
    let piped = Program::start("the agent", nowhere(&[]));
    piped.line("not connected:");
    piped.line("still not connected (5 attempts)");
    let shown = piped.printed();
    assert_eq!(shown.matches("connection refused").count(), 1, "{shown}");
    drop(piped);
    // Nobody sees what it prints, so the log says it.
    let mut detached = Command::new("sh");
    let text = |part: &std::ffi::OsStr| format!("'{}'", part.to_str().unwrap());
    let command = nowhere(&[]);
    let parts: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).map(text).collect();
    detached.args(["-c", &format!("exec {} >/dev/null", parts.join(" "))]);
    Program::start("the agent", detached).line("WARN adit::status: cannot connect");

    let command = http(&folder, &server, &local, &["-v"]);
    let agent = start_agent(on_a_terminal(&command));
    visit(&server.url("alice", "/hello.txt?x"), &[]);
    let line = agent.line("/hello.txt");
    assert!(line.starts_with("200  GET ") && line.trim_end().ends_with(" B  /hello.txt"), "{line:?}");
}

#[test]
fn who_gets_in_can_be_said_on_the_command_line() {
    let (folder, server) = server("");
    let site = python_site(&folder);
    let port = site.port.to_string();
    let url = server.url("alice", "/hello.txt");
    let agent = start_agent(http(&folder, &server, &port, &["--basic-auth", "ann:hunter2", "--allow", "127.0.0.0/8"]));
    agent.line("(only from 127.0.0.0/8, with a password)");
    assert_eq!(visit(&url, &[]).status, 401);
    assert_eq!(visit(&url, &["--user", "ann:hunter2"]).body, HELLO);
    assert!(!agent.printed().contains("hunter2"));
    drop(agent);
    let _agent = start_agent(http(&folder, &server, &port, &["--allow", "192.0.2.1", "--subdomain", "alice"]));
    visit_until("nobody from here gets in", crate::processes::DEADLINE, &url, |answer| answer.status == 403);
}

#[test]
fn the_program_says_its_version_and_completes_for_shells() {
    let output = |arguments: &[&str]| {
        let mut command = adit();
        command.args(arguments);
        let ended = run("adit", command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout
    };
    assert_eq!(output(&["version"]), output(&["--version"]));
    for shell in ["bash", "zsh", "fish"] {
        assert!(output(&["completions", shell]).contains("insecure-skip-verify"), "{shell}");
    }
}
