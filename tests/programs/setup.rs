//! What a self-hoster sets up: a folder with configuration files, a server, an agent, and a local application.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::processes::{DEADLINE, Program, adit, run, tool, until};

/// What `site` serves as `/hello.txt`.
pub(crate) const HELLO: &str = "hello from home\n";

/// A folder that is removed after the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same, as an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `adit token new`; gives the token.
    pub(crate) fn add_client(&self, id: &str) -> String {
        let mut command = adit();
        command.args(["token", "new", id, "--clients", &self.text("clients.toml")]);
        let ended = run("adit token new", command);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.stdout.trim_end().to_owned()
    }

    /// Lists the names that a client may claim, as an operator would by hand.
    pub(crate) fn allow_names(&self, id: &str, names: &[&str]) {
        let file = self.path("clients.toml");
        let section = format!("[clients.{id}]\n");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&section), "{text}");
        fs::write(&file, text.replace(&section, &format!("{section}names = {names:?}\n"))).unwrap();
    }

    /// Writes `server.toml`: free ports, everything in this folder, and these settings.
    pub(crate) fn write_server_config(&self, settings: &str) -> PathBuf {
        let base = "clients = 'clients.toml'\ntunnel.listen = '127.0.0.1:0'\ntunnel.tls.dir = 'certs'\n\
                    public.http = '127.0.0.1:0'\n\
                    admin.listen = '127.0.0.1:0'\n";
        self.write("server.toml", &format!("{base}{settings}"))
    }
}

/// An address of this machine at which nobody listens: nobody else binds ports of this one of the loopback network.
pub(crate) fn unused_address() -> String {
    TcpListener::bind("127.0.3.3:0").unwrap().local_addr().unwrap().to_string()
}

/// A running `adit server`.
pub(crate) struct Server {
    pub(crate) program: Program,
    /// Where agents dial.
    pub(crate) tunnel: String,
    /// Where visitors connect.
    pub(crate) public: String,
    pub(crate) fingerprint: String,
}

impl Server {
    /// Starts it with these settings, written as `key.path = value`.
    pub(crate) fn start(folder: &Folder, settings: &str) -> Self {
        let config = folder.write_server_config(settings);
        Self::start_command(serve(&config))
    }

    /// Starts it once more on the ports it had.
    pub(crate) fn start_again(folder: &Folder, tunnel: &str, public: &str) -> Self {
        let mut command = serve(&folder.path("server.toml"));
        command.arg("--set").arg(format!("tunnel.listen={tunnel}"));
        command.arg("--set").arg(format!("public.http={public}"));
        Self::start_command(command)
    }

    pub(crate) fn start_command(command: Command) -> Self {
        let program = Program::start("adit server", command);
        let after = |label: &str| program.line(label).split_once(label).unwrap().1.trim().to_owned();
        let tunnel = after("agents dial");
        let url = after("visitors");
        let port = url.strip_prefix("http://NAME.localhost:").and_then(|rest| rest.strip_suffix('/')).unwrap();
        let public = format!("127.0.0.1:{port}");
        let fingerprint = after("  fingerprint ");
        Self { program, tunnel, public, fingerprint }
    }

    /// A page of a tunnel, by its subdomain.
    pub(crate) fn url(&self, name: &str, path: &str) -> String {
        let (_, port) = self.public.split_once(':').unwrap();
        format!("http://{name}.localhost:{port}{path}")
    }

    /// A page of the bare address.
    pub(crate) fn bare_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// `adit http` for this server and this local port, still without a token.
    pub(crate) fn http_command(&self, id: &str, local: u16) -> Command {
        let mut command = adit();
        command.args(["http", &local.to_string(), "--server", &self.tunnel, "--id", id]);
        command.args(["--fingerprint", &self.fingerprint]);
        command
    }
}

/// `adit server --config FILE`.
pub(crate) fn serve(config: &Path) -> Command {
    let mut command = adit();
    command.arg("server").arg("--config").arg(config);
    command
}

/// Starts an agent and waits until it is connected.
pub(crate) fn start_agent(command: Command) -> Program {
    let agent = Program::start("the agent", command);
    // Where it can be reached; a log of everything has lines that say "connected", too.
    agent.line("  ->  ");
    agent
}

/// A local application.
pub(crate) struct Application {
    pub(crate) program: Program,
    pub(crate) port: u16,
}

/// Python's web server, over a folder of this test's folder with `hello.txt` in it.
pub(crate) fn python_site(folder: &Folder) -> Application {
    fs::create_dir_all(folder.path("site")).unwrap();
    folder.write("site/hello.txt", HELLO);
    let mut command = tool("python3");
    // Unbuffered, so that it says its port at once.
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", &folder.text("site")]);
    application("python3 -m http.server", command, " port ")
}

/// One of the applications in `tests/programs/apps`; it prints `port N`.
pub(crate) fn python_app(name: &str) -> Application {
    let mut command = tool("python3");
    command.arg("-u").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/apps").join(name));
    application(name, command, "port ")
}

fn application(name: &str, command: Command, before_port: &str) -> Application {
    let program = Program::start(name, command);
    let line = program.line(before_port);
    let digits = line.split_once(before_port).unwrap().1.split(' ').next().unwrap();
    Application { port: digits.parse().unwrap(), program }
}

/// nginx over the folder `site`, with `PUT` under `/uploads/`.
pub(crate) fn nginx(folder: &Folder) -> Application {
    fs::create_dir_all(folder.path("site/uploads")).unwrap();
    // nginx neither takes any free port nor says which: it gets one that was free a moment ago.
    let port = unused_address().rsplit_once(':').unwrap().1.parse().unwrap();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|kind| format!("{kind}_temp_path {};", folder.text(kind))).join("\n");
    let (site, pid) = (folder.text("site"), folder.text("nginx.pid"));
    let config = folder.write(
        "nginx.conf",
        &format!(
            "daemon off; master_process off; pid {pid}; error_log stderr notice;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; client_max_body_size 0;\n{temporary}\n\
             server {{ listen 127.0.0.1:{port}; root {site};\n\
             location /uploads/ {{ dav_methods PUT; }} }} }}\n"
        ),
    );
    let mut command = tool("nginx");
    command.args(["-e", "stderr", "-p", &folder.text(""), "-c"]).arg(config);
    let program = Program::start("nginx", command);
    until("nginx listens", DEADLINE, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    Application { program, port }
}

/// A whole set-up: alice's site on the internet.
pub(crate) struct Scene {
    pub(crate) agent: Program,
    pub(crate) server: Server,
    pub(crate) site: Application,
    pub(crate) token: String,
    pub(crate) folder: Folder,
}

impl Scene {
    /// Python's web server behind `adit http` as alice, at a server with these settings.
    pub(crate) fn with(settings: &str) -> Self {
        let folder = Folder::new();
        let site = python_site(&folder);
        Self::of(folder, site, settings)
    }

    /// The same with another local application.
    pub(crate) fn of(folder: Folder, site: Application, settings: &str) -> Self {
        let token = folder.add_client("alice");
        let server = Server::start(&folder, settings);
        let mut command = server.http_command("alice", site.port);
        command.arg("-v").env("ADIT_TOKEN", &token);
        let agent = start_agent(command);
        Self { agent, server, site, token, folder }
    }
}
