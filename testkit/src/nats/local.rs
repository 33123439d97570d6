//! A nats-server that is a process of this machine.

use std::{fs, process::Stdio};

use bus::managed;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{Config, OUTPUT};
use crate::{KitError, wait};

#[derive(Debug)]
pub(super) struct Local {
    config: Config,
    child: Child,
    /// For clients, and of the monitoring.
    pub(super) ports: (u16, u16),
}

impl Local {
    pub(super) async fn start(config: Config) -> Result<Self, KitError> {
        // The server chooses its ports, so no two tests can take the same.
        let child = spawn(&config, None)?;
        let (dir, id) = (config.dir.clone(), child.id().unwrap_or_default());
        let said = dir.join(format!("nats-server_{id}.ports"));
        let mut local = Self { config, child, ports: (0, 0) };
        local.ports = wait::until("nats-server says its ports", async || {
            local.is_there()?;
            let text = fs::read_to_string(&said).unwrap_or_default();
            Ok(ports(&text).ok_or(text))
        })
        .await?;
        Ok(local)
    }

    pub(super) fn start_again(&mut self) -> Result<(), KitError> {
        self.child = spawn(&self.config, Some(self.ports))?;
        Ok(())
    }

    pub(super) async fn kill(&mut self) -> Result<(), KitError> {
        self.child.kill().await.map_err(KitError::io("kill", "nats-server"))
    }

    pub(super) async fn stop(&mut self) -> Result<(), KitError> {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|error| KitError::io("end", "nats-server")(error.into()))?;
        }
        self.child.wait().await.map(|_| ()).map_err(KitError::io("wait for", "nats-server"))
    }

    /// Starts it again if it has ended: an outgoing connection of another process may have had its port for a moment.
    pub(super) fn is_there(&mut self) -> Result<(), KitError> {
        match self.child.try_wait().map_err(KitError::io("look at", "nats-server"))? {
            None => Ok(()),
            Some(_) if self.ports != (0, 0) => self.start_again(),
            Some(status) => {
                let said = fs::read_to_string(self.config.dir.join(OUTPUT)).unwrap_or_default();
                Err(KitError::NatsEnded { status, said })
            }
        }
    }
}

fn spawn(config: &Config, ports: Option<(u16, u16)>) -> Result<Child, KitError> {
    let (port, monitor) = ports.map_or((-1, -1), |(port, monitor)| (port.into(), monitor.into()));
    let (port, monitor): (i32, i32) = (port, monitor);
    let path = config.write(&format!(
        "host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\nports_file_dir: {:?}",
        config.dir
    ))?;
    let output = config.dir.join(OUTPUT);
    let output = fs::OpenOptions::new().create(true).append(true).open(&output);
    let output = output.map_err(KitError::io("write", OUTPUT))?;
    let mut command = Command::new(managed::find_binary(None)?);
    command.arg("-c").arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).kill_on_drop(true);
    command.spawn().map_err(KitError::io("start", "nats-server"))
}

/// The client and monitor ports that a server has chosen, once it says them.
fn ports(text: &str) -> Option<(u16, u16)> {
    let said: Value = serde_json::from_str(text).ok()?;
    let port = |of: &str| said[of][0].as_str()?.rsplit(':').next()?.parse().ok();
    Some((port("nats")?, port("monitoring")?))
}
