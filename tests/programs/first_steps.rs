//! From nothing to a site on the internet, step by step as a newcomer types it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::processes::{Program, adit, run};
use crate::setup::{Folder, HELLO, Server, python_site, start_agent};
use crate::visitor::visit;

#[test]
fn a_token_is_shown_once_and_only_its_hash_is_kept() {
    let folder = Folder::new();
    let mut command = adit();
    command.args(["token", "new", "alice", "--clients", &folder.text("clients.toml")]);
    let ended = run("adit token new", command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // Nothing but the token, so that it can be piped.
    let token = ended.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("adit_") && !token.contains(char::is_whitespace), "{token}");
    assert!(!ended.stderr.contains(token), "{}", ended.stderr);
    let file = folder.path("clients.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("[clients.alice]") && text.contains("$argon2id$"), "{text}");
    assert!(!text.contains(token), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut again = adit();
    again.args(["token", "new", "alice", "--clients", &folder.text("clients.toml")]);
    let ended = run("adit token new", again);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("`alice` exists already"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn adit_http_puts_a_local_site_on_the_internet() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    for trust in [["--fingerprint", &server.fingerprint], ["--ca", &folder.text("certs/ca.pem")]] {
        let mut command = adit();
        command.args(["http", &site.port.to_string(), "--server", &server.tunnel, "--id", "alice", "--token", &token]);
        command.args(trust);
        let mut agent = start_agent(command);
        is_reachable_in_all_three_ways(&server, "alice");
        let url = printed_url(&agent);
        assert_eq!(visit(&format!("{url}hello.txt"), &[]).body, HELLO);
        agent.signal("TERM");
        assert_eq!(agent.ended().code, Some(0));
    }
}

#[test]
fn the_token_may_come_from_the_environment() {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    let server = Server::start(&folder, "");
    let mut command = server.http_command("alice", site.port);
    command.env("ADIT_TOKEN", &token);
    let _agent = start_agent(command);
    is_reachable_in_all_three_ways(&server, "alice");
}

#[test]
fn adit_agent_serves_several_sites_from_a_file() {
    let folder = Folder::new();
    let (site, blog_folder) = (python_site(&folder), Folder::new());
    let blog = python_site(&blog_folder);
    blog_folder.write("site/hello.txt", "hello from the blog\n");
    let token = folder.add_client("alice");
    folder.allow_names("alice", &["alice", "blog"]);
    let server = Server::start(&folder, "");
    folder.write("token", &format!("{token}\n"));
    let config = folder.write(
        "agent.toml",
        &format!(
            "servers = ['{}']\nclient_id = 'alice'\ntoken_file = 'token'\nca = 'certs/ca.pem'\n\
             [[services]]\nlocal = {}\n[[services]]\nname = 'blog'\nlocal = 'http://127.0.0.1:{}'\n",
            server.tunnel, site.port, blog.port
        ),
    );
    let mut command = adit();
    command.arg("agent").arg("--config").arg(config);
    let agent = start_agent(command);
    is_reachable_in_all_three_ways(&server, "alice");
    assert_eq!(visit(&server.url("blog", "/hello.txt"), &[]).body, "hello from the blog\n");
    assert_eq!(visit(&server.bare_url("/blog/hello.txt"), &[]).body, "hello from the blog\n");
    agent.line(&server.url("blog", "/"));
}

#[test]
fn the_demo_prints_what_works() {
    let mut command = adit();
    command.args(["demo", "--port", "0"]);
    let mut demo = Program::start("adit demo", command);
    demo.line("Ctrl-C ends it");
    let printed = demo.printed();
    let url = printed.lines().map(str::trim).find(|line| line.starts_with("http://")).unwrap().to_owned();
    let page = visit(&url, &[]);
    assert_eq!(page.status, 200);
    assert!(page.body.contains("It works"), "{}", page.body);
    let commands: Vec<&str> = printed.lines().map(str::trim).filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(commands.len(), 4, "{printed}");
    for line in commands {
        // Exactly as printed, apart from proxies, which the machine may have.
        let output = Command::new("sh").args(["-c", line]).env("NO_PROXY", "*").output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        assert!(answer.contains("It works") || answer.starts_with("Tunnel: Connected"), "{line}: {answer}");
    }
    demo.signal("INT");
    let ended = demo.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

fn is_reachable_in_all_three_ways(server: &Server, name: &str) {
    let host = format!("Host: {name}.localhost");
    let header = format!("X-Tunnel-ID: {name}");
    for (url, arguments) in [
        (server.url(name, "/hello.txt"), vec![]),
        (server.bare_url("/hello.txt"), vec!["--header", &host]),
        (server.bare_url(&format!("/{name}/hello.txt")), vec![]),
        (server.bare_url("/hello.txt"), vec!["--header", &header]),
    ] {
        let answer = visit(&url, &arguments);
        assert_eq!((answer.status, answer.body.as_str()), (200, HELLO), "{url} {arguments:?}");
        assert!(answer.header("Server").unwrap().starts_with("SimpleHTTP"), "{answer:?}");
    }
}

/// The address an agent prints for its first service.
fn printed_url(agent: &Program) -> String {
    agent.line("  ->  ").trim().split_once(' ').unwrap().0.to_owned()
}

#[test]
fn the_banner_leads_with_an_invitation_and_shows_no_place_for_a_token() {
    let folder = Folder::new();
    folder.add_client("alice");
    let settings = "public.domain = 'tunnel.example.com'\npublic.url = 'https://{name}.tunnel.example.com/'\n\
                    tunnel.tls.names = ['other.example']\n";
    let config = folder.write_server_config(settings);
    let start = || {
        let mut command = adit();
        command.arg("server").arg("--config").arg(&config);
        Program::start("adit server", command)
    };
    let (mut first, mut second) = (start(), None);
    let port = first.line("agents dial").rsplit_once(':').unwrap().1.to_owned();
    let at_home = first.line("  at home ");
    assert!(at_home.ends_with(&format!("adit login tunnel.example.com:{port} --invite CODE")), "{at_home}");
    assert!(first.line("  to invite ").ends_with(&format!("adit token invite alice --config {}", config.display())));
    assert!(first.line("  visitors ").ends_with("https://NAME.tunnel.example.com/"), "{first:?}");
    assert!(!first.printed().contains("--token"), "{first:?}");
    first.signal("TERM");
    first.ended();
    folder.write_server_config(&settings.replace("'other.example'", "'another.example'"));
    let renewed = second.insert(start()).line("  certificate ");
    assert!(renewed.contains("renewed just now, for ") && renewed.ends_with("; agents need nothing new"), "{renewed}");
    let mut token = adit();
    token.args(["token", "new", "bob", "--clients", &folder.text("clients.toml")]);
    let ended = run("adit token new", token);
    assert!(ended.stderr.contains("  adit login tunnel.example.com:PORT --id bob --fingerprint sha256:"), "{ended:?}");
    assert!(!ended.stderr.contains("--token") && !ended.stderr.contains("sha256:…"), "{ended:?}");
}

#[test]
fn warnings_come_after_what_the_server_says_of_itself_and_the_demo_has_none() {
    let folder = Folder::new();
    folder.write("clients.toml", "# nobody\n");
    let config = folder.write_server_config("");
    let with_few_files = |command: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n 400; exec \"$0\" {command} 2>&1"), env!("CARGO_BIN_EXE_adit")]);
        shell.env("NO_COLOR", "1");
        Program::start(command, shell)
    };
    let server = with_few_files(&format!("server --config {}", config.display()));
    server.line("400 open files, so `limits.connections` is 300 and not 16384");
    let printed = server.printed();
    let at = |text: &str| printed.find(text).unwrap_or_else(|| panic!("{text}: {printed}"));
    assert!(at("  at home ") < at(" WARN ") && printed.matches("open files").count() == 1, "{printed}");
    assert!(!printed.contains("may open"), "{printed}");
    let demo = with_few_files("demo --port 0");
    demo.line("Ctrl-C ends it");
    assert!(!demo.printed().contains("WARN"), "{}", demo.printed());
}
