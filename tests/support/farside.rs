//! The real binary: `farside up` on a directory of its own, and any verb against it. Ended by its process
//! id when the test ends; its nats-server ends with it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use bus::{Bus, ConnectOptions, Credentials};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, eventually, nats::free_port};

/// What a verb said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// The answer of a verb with `-o json`.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs the binary without anything of this process's own configuration.
pub(crate) fn farside(dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Said {
    said(command(dir).args(arguments))
}

fn said(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// The binary in this directory, without anything of this process's own configuration.
pub(crate) fn command(dir: &Path) -> Command {
    command_under(&[], dir)
}

/// The binary, run by another command.
fn command_under(prefix: &[String], dir: &Path) -> Command {
    let words: Vec<_> = prefix.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_farside")]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    clean(&mut command, dir);
    command
}

/// Takes this process's own configuration out of a command.
fn clean<'a>(command: &'a mut Command, dir: &Path) -> &'a mut Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FARSIDE_")) {
        if name != "FARSIDE_NATS_SERVER" {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).stdin(Stdio::null())
}

/// Runs lines of a page in this directory, as somebody would who has `farside` on the path.
pub(crate) fn shell(dir: &Path, lines: &str) -> Said {
    let bin = Path::new(env!("CARGO_BIN_EXE_farside")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-euc", lines]).env("PATH", path);
    said(clean(&mut shell, dir))
}

/// The file of an agent that runs as a process of its own beside its source.
pub(crate) const AGENT: &str = r#"
    name = "inv"
    ledger = "inv.redb"
    heartbeat_s = 1
    [[clusters]]
    name = "dc1"
    source = { adapter = "directory", path = "source" }
    keys = [{ id = "ak", tenant = "acme", secret_file = "ak.secret" }]
"#;

/// A running `farside up`.
pub(crate) struct Up {
    dir: TempDir,
    child: Child,
    address: String,
}

impl Up {
    /// Starts it with this configuration (data directory and address are set), and waits until it listens.
    pub(crate) fn start(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
        fs::write(dir.path().join("farside.toml"), config).unwrap();
        Self::start_in(dir)
    }

    /// Starts it with one agent, `inv` of the cluster `dc1`, that reads the files below `source`.
    pub(crate) fn with_agent(sources: &[(&str, &str)]) -> Self {
        Self::with_agent_and("", sources)
    }

    /// The same, with more in the configuration's table `service`.
    pub(crate) fn with_agent_and(service: &str, sources: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("fs").tempdir().unwrap();
        let agent = r#"
            [service.schedule]
            every = "1h"
            [[agent.resource]]
            name = "inv"
            ledger = "inv.redb"
            heartbeat_s = 1
            [[agent.resource.clusters]]
            name = "dc1"
            [agent.resource.clusters.source]
            adapter = "directory"
            path = "source"
            [[agent.resource.clusters.keys]]
            id = "ak-dc1"
            tenant = "acme"
            secret_file = "ak.secret"
        "#;
        let config = format!("[service]\n{service}\n{agent}");
        with_files(dir.path(), &[("farside.toml", &config), ("ak.secret", "correct horse battery staple")]);
        private(&dir.path().join("ak.secret"));
        with_files(dir.path(), sources);
        Self::start_in(dir)
    }

    /// Starts it in a directory that holds a `farside.toml`.
    pub(crate) fn start_in(dir: TempDir) -> Self {
        Self::start_as("up", dir)
    }

    /// Starts `farside up` or `farside serve` in a directory that holds a `farside.toml`.
    pub(crate) fn start_as(verb: &str, dir: TempDir) -> Self {
        Self::start_under(&[], verb, dir)
    }

    /// The same, run by another command.
    pub(crate) fn start_under(prefix: &[String], verb: &str, dir: TempDir) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.path().join("up.log")).unwrap();
        let mut child = command_under(prefix, dir.path())
            // Who runs it may run it in another directory.
            .arg("-c")
            .arg(dir.path().join("farside.toml"))
            .args([verb, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        let address = address.unwrap_or_else(|| panic!("it did not come up: {}", log_of(dir.path())));
        Self { dir, child, address }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `host:port` of the HTTP API.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// `nats://host:port` of the managed server.
    pub(crate) fn nats_url(&self) -> String {
        let file = fs::read_to_string(self.dir().join("data/nats.json")).unwrap();
        let said: Value = serde_json::from_str(&file).unwrap();
        said["url"].as_str().unwrap().to_owned()
    }

    /// The same with the name and the password of the publishers.
    pub(crate) fn publisher_url(&self) -> String {
        fs::read_to_string(self.dir().join("data/nats/keys/publisher.url")).unwrap().trim().to_owned()
    }

    /// A connection of its own to the managed server, with the service's key.
    pub(crate) async fn bus(&self) -> Bus {
        let seed = self.dir().join("data/nats/keys/service.nk");
        let options = ConnectOptions {
            servers: self.nats_url(),
            credentials: Credentials::NkeySeedFile(seed),
            ..ConnectOptions::default()
        };
        Bus::connect(options).await.unwrap()
    }

    /// A verb over the local socket.
    pub(crate) fn verb(&self, arguments: &[impl AsRef<OsStr>]) -> Said {
        farside(self.dir(), arguments)
    }

    /// A verb that must succeed, with `-o json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let said = self.verb(&[&["-o", "json"], arguments].concat());
        assert!(said.code == Some(0), "{arguments:?}: {said:?}\n{}", log_of(self.dir()));
        said.json()
    }

    /// Publishes a resource and waits until it is in the pool; answers its place.
    pub(crate) fn publish(&self, cluster: &str, key: &str, revision: &str, labels: &str) -> String {
        let (kind, id) = key.split_once('/').unwrap();
        let data = format!(
            r#"{{"kind":"{kind}","id":"{id}","revision":"{revision}","state":{{"r":"{revision}"}},"labels":{labels}}}"#
        );
        let said = self.json(&["publish", cluster, "resource.changed", "--data", &data, "--applied"]);
        said["place"].as_str().unwrap().to_owned()
    }

    /// What `GET path` over TCP answers: status and body.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        self.http("GET", path, headers, "")
    }

    /// A request over TCP.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String) {
        http(TcpStream::connect(&self.address).unwrap(), method, path, headers, body)
    }

    /// Lets it stand still until [`Up::go_on`].
    pub(crate) fn stand_still(&self) {
        kill_process(pid(&self.child), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        kill_process(pid(&self.child), Signal::CONT).unwrap();
    }

    /// The operator token that was made on the first run.
    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.dir().join("data/operator.token")).unwrap()
    }

    /// Asks it to end, and waits until it has; the directory stays.
    pub(crate) fn stop(mut self) -> (ExitStatus, TempDir) {
        terminate(&self.child);
        let status = self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (status, dir)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request over a connection of its own: status and body.
fn http(
    mut stream: TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A `farside serve` whose NATS is not there.
pub(crate) struct Waiting {
    child: Child,
    address: String,
}

impl Waiting {
    /// Starts it there, with nobody at the address of its NATS.
    pub(crate) fn start(dir: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let log = fs::File::create(dir.join("up.log")).unwrap();
        let nobody = format!("nats://127.0.0.1:{}", free_port());
        let mut command = command(dir);
        command.args(["serve", "--listen", &address, "--nats", &nobody]).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap(), address }
    }

    /// What `GET path` answers, once it listens.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let listens = async || TcpStream::connect(&self.address).ok();
        http(eventually("it listens", listens).await, "GET", path, &[], "")
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        terminate(&self.child);
        self.child.wait().unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `farside agent` beside its source; ended like a crash when dropped.
pub(crate) struct AgentProcess(Child);

impl AgentProcess {
    pub(crate) fn start(dir: &Path, arguments: &[&str]) -> Self {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("agent.log")).unwrap();
        let mut command = command(dir);
        command.args(["agent", "resource"]).args(arguments).stdout(Stdio::null()).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> ExitStatus {
        terminate(&self.0);
        self.0.wait().unwrap()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks a process to end.
pub(crate) fn terminate(child: &Child) {
    let _ = kill_process(pid(child), Signal::TERM);
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

/// What farside has logged in this directory.
pub(crate) fn log_of(dir: &Path) -> String {
    fs::read_to_string(dir.join("up.log")).unwrap_or_default()
}

/// Makes a file its owner's alone, as a secret has to be.
pub(crate) fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A directory with these files in it.
pub(crate) fn with_files(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir.to_owned()
}
