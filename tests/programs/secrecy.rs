//! Nothing secret in what the programs print, however much they are asked to print.

use crate::processes::run;
use crate::setup::{Folder, HELLO, Server, python_site, serve, start_agent};
use crate::visitor::visit;

const VISITORS_SECRETS: [&str; 4] = ["query-secret", "bearer-secret", "cookie-secret", "body-secret"];

#[test]
fn the_log_at_level_debug_holds_no_secrets() {
    nothing_secret_is_printed("debug", &[]);
}

#[test]
fn the_log_of_everything_holds_no_secrets() {
    // Of the libraries, too.
    nothing_secret_is_printed("trace", &[("RUST_LOG", "trace")]);
}

fn nothing_secret_is_printed(level: &str, environment: &[(&str, &str)]) {
    let folder = Folder::new();
    let site = python_site(&folder);
    let token = folder.add_client("alice");
    folder.add_client("bob");
    let config = folder.write_server_config(&format!("log.level = '{level}'\nlog.access = true\n"));
    let mut command = serve(&config);
    command.envs(environment.iter().copied());
    let server = Server::start_command(command);

    let mut refused = server.http_command("bob", site.port);
    refused.args(["-vv", "--token", &token]).envs(environment.iter().copied());
    let refused = run("adit http", refused);
    assert_eq!(refused.code, Some(77), "{refused:?}");

    let mut command = server.http_command("alice", site.port);
    command.args(["-vv", "--token", &token]).envs(environment.iter().copied());
    let mut agent = start_agent(command);
    let url = server.url("alice", "/hello.txt?password=query-secret");
    let headers = ["--header", "Authorization: Bearer bearer-secret", "--header", "Cookie: session=cookie-secret"];
    assert_eq!(visit(&url, &headers).body, HELLO);
    let with_body = [&headers[..], &["--data", "body-secret"]].concat();
    assert_eq!(visit(&url, &with_body).status, 501, "python's web server knows no POST");

    let unknown = visit(&server.url("nobody", "/hello.txt?password=query-secret"), &headers);
    assert_eq!(unknown.status, 404);

    // The access log's line comes when the answer has been sent.
    server.program.lines("path=\"/hello.txt\"", 2);
    agent.signal("TERM");
    let agent = agent.ended();
    let printed = format!("{}\n{refused:?}\n{agent:?}", server.program.printed());
    assert!(printed.contains("DEBUG"), "{printed}");
    if let Some(found) = VISITORS_SECRETS.iter().find(|secret| printed.contains(*secret)) {
        panic!("`{found}` was printed:\n{printed}");
    }
    if let Some(found) = token_in(&printed) {
        panic!("`{found}` was printed:\n{printed}");
    }
}

/// Anything that looks like a token, whole or in part.
fn token_in(text: &str) -> Option<&str> {
    text.match_indices("adit_").map(|(at, prefix)| &text[at + prefix.len()..]).find_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(rest.len());
        (end >= 20).then_some(&rest[..end])
    })
}

#[test]
fn a_token_would_be_found() {
    let token = Folder::new().add_client("alice");
    assert_eq!(token_in(&format!("x=\"{token}\"")), token.strip_prefix("adit_"));
    assert_eq!(token_in("adit_http adit_ adit_this_is_no_token"), None);
}
