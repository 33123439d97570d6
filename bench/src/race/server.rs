//! A nats-server as a user installs it, on loopback and without accounts: the same for everybody in the race.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::process::{Child, Command};

use crate::Outcome;

/// How long it may take to start with an empty store.
const START_MAX: Duration = Duration::from_secs(20);

/// Logs state how large they may become, and the server adds that up: it is no limit here.
const STORE_BYTES_MAX: u64 = 1 << 50;

/// What is synced to the disk, and when.
#[derive(Clone, Copy)]
pub(crate) enum Sync {
    /// What is acknowledged.
    Always,
    /// As nats-server does without a word in its configuration: everything, every two minutes.
    AsInstalled,
}

/// One that runs; it is ended when this is dropped.
pub(crate) struct PlainServer {
    /// Where it listens.
    pub(crate) url: String,
    child: Child,
}

impl PlainServer {
    /// Starts one with its store in a directory of its own.
    pub(crate) async fn start(directory: &Path, sync: Sync) -> Outcome<Self> {
        std::fs::create_dir_all(directory)?;
        // Free a moment ago, and nobody else starts servers while figures are taken.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let sync = match sync {
            Sync::Always => "sync_interval: always, ",
            Sync::AsInstalled => "",
        };
        let store = directory.display();
        let config = format!(
            "host: 127.0.0.1\nport: {port}\nlog_file: \"{store}/nats-server.log\"\n\
             jetstream {{ {sync}store_dir: \"{store}\", max_file_store: {STORE_BYTES_MAX} }}\n"
        );
        let path = directory.join("nats-server.conf");
        std::fs::write(&path, config)?;
        let child = Command::new(bus::managed::find_binary(None)?)
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let server = Self { url: format!("nats://127.0.0.1:{port}"), child };
        server.answers().await?;
        Ok(server)
    }

    async fn answers(&self) -> Outcome<()> {
        let start = Instant::now();
        let mut again = tokio::time::interval(Duration::from_millis(50));
        loop {
            again.tick().await;
            match async_nats::connect(&self.url).await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START_MAX => return Err(error.into()),
                Err(_) => {}
            }
        }
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        self.child.kill().await?;
        Ok(())
    }
}
