//! The server's process: started, waited for until it answers, started again when it dies, ended.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ManagedError, READY_WAIT, config, file_error, health};
use crate::{Bus, BusError, ConnectOptions};

/// Between two attempts to reach a server that starts.
const ASK_EVERY: Duration = Duration::from_millis(25);
/// How long the server may take to end before it is killed: it closes its files and syncs.
const STOP_WAIT: Duration = Duration::from_secs(15);
/// Pause before the first restart; it doubles up to the second value, and starts anew after a good while.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A server that ran this long counts as healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How much of its output an error repeats, in bytes.
const LAST_WORDS_BYTES: usize = 600;

/// What is started, and how it is recognised.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) launcher: Option<PathBuf>,
    pub(crate) store_dir: PathBuf,
    /// How it is asked whether it answers.
    pub(crate) probe: ConnectOptions,
    /// How it is asked for its health.
    pub(crate) system: ConnectOptions,
    /// The server's name: another server on the port has another.
    pub(crate) name: String,
}

impl Launch {
    fn spawn(&self) -> Result<Child, ManagedError> {
        let out = self.store_dir.join("nats-server.out");
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&out);
        let log = log.map_err(file_error("open", &out))?;
        let again = log.try_clone().map_err(file_error("open", &out))?;
        let mut command = match &self.launcher {
            None => Command::new(&self.binary),
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.arg(super::exec::VERB).arg(std::process::id().to_string()).arg(&self.binary);
                command
            }
        };
        command
            .arg("-c")
            .arg(config::path(&self.store_dir))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(again))
            // A Ctrl-C in the terminal is for the parent, which ends the server in order.
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().map_err(|source| ManagedError::Start { binary: self.binary.clone(), source })
    }

    /// Waits until the server answers as itself.
    async fn ready(&self, child: &mut Child) -> Result<(), ManagedError> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            let answer = Bus::connect(self.probe.clone()).await;
            if let Ok(Some(status)) = child.try_wait() {
                return Err(self.not_ready(format!("it ended with {status}")));
            }
            let trouble = match answer {
                Ok(bus) if bus.server().name == self.name => return Ok(()),
                Ok(_) => "another server answers on its port".to_owned(),
                Err(error @ (BusError::ServerTooOld { .. } | BusError::NoJetStream { .. })) => {
                    return Err(self.not_ready(error.to_string()));
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                return Err(self.not_ready(trouble));
            }
            sleep(ASK_EVERY).await;
        }
    }

    fn not_ready(&self, reason: String) -> ManagedError {
        let log = self.store_dir.join("nats-server.log");
        let words = [self.store_dir.join("nats-server.out"), log.clone()].map(|path| {
            let text = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&text[text.len().saturating_sub(LAST_WORDS_BYTES)..]).into_owned()
        });
        ManagedError::NotReady { reason, last_words: words.concat(), log }
    }
}

/// Keeps one server running.
pub(crate) struct Supervisor {
    launch: Launch,
    child: Child,
    pid: watch::Sender<Option<u32>>,
}

impl Supervisor {
    /// Starts the server and waits until it answers; gives its process id to be watched.
    pub(crate) async fn start(launch: Launch) -> Result<(Self, watch::Receiver<Option<u32>>), ManagedError> {
        let mut child = launch.spawn()?;
        launch.ready(&mut child).await?;
        let (pid, watch) = watch::channel(child.id());
        Ok((Self { launch, child, pid }, watch))
    }

    /// Starts the server again whenever it dies or cannot write any more, until `stop`; then ends it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pause = RESTART_PAUSE.0;
        loop {
            let since = Instant::now();
            let how = tokio::select! {
                () = stop.cancelled() => return self.end().await,
                ended = self.child.wait() => describe(&ended),
                () = health::writes_no_more(&self.launch.system, &self.launch.store_dir) => {
                    self.end().await;
                    "it was ended, because it could not write and there is room again".to_owned()
                }
            };
            self.pid.send_replace(None);
            if since.elapsed() > HEALTHY_AFTER {
                pause = RESTART_PAUSE.0;
            }
            tracing::error!(
                how,
                pause_ms = pause.as_millis() as u64,
                "nats-server ended; it is started again"
            );
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE.1);
            self.restart(&stop).await;
        }
    }

    async fn restart(&mut self, stop: &CancellationToken) {
        match self.launch.spawn() {
            Ok(child) => self.child = child,
            Err(error) => return tracing::error!(%error, "nats-server could not be started again"),
        }
        let ready = self.launch.ready(&mut self.child);
        let ready = tokio::select! {
            () = stop.cancelled() => return,
            ready = ready => ready,
        };
        match ready {
            Ok(()) => {
                self.pid.send_replace(self.child.id());
            }
            Err(error) => {
                tracing::error!(%error, "nats-server was started again and does not come up");
                // It may hang rather than have ended; the loop waits for its end.
                let _ = self.child.start_kill();
            }
        }
    }

    async fn end(&mut self) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended in this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP_WAIT, self.child.wait()).await.is_err() {
            tracing::warn!(wait_s = STOP_WAIT.as_secs(), "nats-server did not end in time; it is killed");
            let _ = self.child.kill().await;
        }
        self.pid.send_replace(None);
    }
}

fn describe(ended: &io::Result<ExitStatus>) -> String {
    match ended {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    }
}
