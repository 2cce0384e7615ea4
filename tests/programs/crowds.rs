//! More visitors than the process may have files.

use std::net::TcpStream;

use crate::processes::tool;
use crate::setup::{Folder, Server, serve, start_agent};

#[test]
fn visitors_leave_file_descriptors_for_agents() {
    let folder = Folder::new();
    let token = folder.add_client("alice");
    let config = folder.write_server_config("timeouts.head = '5m'\n");
    let whole = serve(&config);
    let mut command = tool("sh");
    command.args(["-c", "ulimit -n 128 && exec \"$@\"", "sh"]).arg(whole.get_program()).args(whole.get_args());
    for (key, value) in whole.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let server = Server::start_command(command);
    server.program.line("128 open files, so `limits.connections` is 96 and not 16384");
    let visitors: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&server.public).unwrap()).collect();
    let mut agent = server.http_command("alice", 1);
    agent.env("ADIT_TOKEN", token);
    start_agent(agent);
    drop(visitors);
}
