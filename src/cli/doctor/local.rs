//! What the doctor sees of this machine: disk, permissions, port, and whether farside itself answers.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use console::view::StatusView;
use tokio::net::TcpListener;

use super::{Finding, Verdict};
use crate::{
    cli::{ClientError, Context, render::count},
    config::{Config, Size},
};

/// Less free space than this is an alarm, in bytes: a log of a busy site fills a gigabyte in an hour.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Less free space than this part of the disk is an alarm, in percent.
const FREE_PERCENT_MIN: u64 = 5;

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let answer = context.client.get::<StatusView>("/v1/status").await;
    let mut findings = vec![disk(&context.config.data_dir)];
    findings.extend(permissions(&context.config));
    let runs = !matches!(answer, Err(ClientError::Unreachable { .. }));
    findings.push(port(&context.config, runs).await);
    findings.push(service(answer));
    findings
}

fn disk(data_dir: &Path) -> Finding {
    let check = "disk";
    // A directory that is not made yet will lie where its nearest ancestor is.
    let there = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let disk = match rustix::fs::statvfs(there) {
        Ok(disk) => disk,
        Err(error) => {
            let found = format!("cannot measure {}: {error}", there.display());
            return Finding::not_ok(check, Verdict::Unknown, found, "look at the data directory yourself");
        }
    };
    let (free, all) =
        (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize));
    let percent = free.saturating_mul(100) / all.max(1);
    let found = format!("{} free ({percent} %) where {} lies", Size(free), data_dir.display());
    if free < FREE_BYTES_MIN || percent < FREE_PERCENT_MIN {
        return Finding::not_ok(
            check,
            Verdict::Warn,
            found,
            "make room: a full disk stops the log, and with it the agents' outboxes fill",
        );
    }
    Finding::ok(check, found)
}

fn permissions(config: &Config) -> Vec<Finding> {
    let keys = config.nats_dir().join("keys");
    let mut private = vec![config.data_dir.clone(), config.token_file(), config.socket(), config.pool_file()];
    private.extend([keys.join("service.nk"), keys.join("agents")]);
    private.extend(config.nats.nkey_seed_file.clone());
    private.extend(config.nats.creds_file.clone());
    private.extend(config.nats.password_file.clone());
    let open: Vec<(PathBuf, u32)> =
        private.into_iter().filter_map(|path| Some((path.clone(), open_to_others(&path)?))).collect();
    let check = "permissions";
    if open.is_empty() {
        return vec![Finding::ok(check, "data, keys, token and socket are private")];
    }
    open.into_iter()
        .map(|(path, mode)| {
            let found = format!("{} is open to others (mode {mode:03o})", path.display());
            Finding::not_ok(check, Verdict::Fail, found, format!("chmod go= {}", path.display()))
        })
        .collect()
}

/// The mode of a file that is there and that others may use; a private directory above it protects it too.
fn open_to_others(path: &Path) -> Option<u32> {
    let mode = |path: &Path| Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777);
    let own = mode(path).filter(|mode| mode & 0o077 != 0)?;
    let shielded = path.parent().and_then(mode).is_some_and(|above| above & 0o077 == 0);
    (!shielded).then_some(own)
}

async fn port(config: &Config, farside_runs: bool) -> Finding {
    let (check, address) = ("port", config.console.listen);
    if !address.ip().is_loopback() {
        let advice = "listen on 127.0.0.1 and put a TLS proxy before it";
        return Finding::not_ok(
            check,
            Verdict::Fail,
            format!("{address} is off loopback, where the console refuses to listen"),
            advice,
        );
    }
    match TcpListener::bind(address).await {
        Ok(_) => Finding::ok(check, format!("{address} is free")),
        Err(_) if farside_runs => Finding::ok(check, format!("{address} is in use while farside runs")),
        Err(error) => {
            let advice =
                "stop the program that has it ('ss -ltnp' names it), or choose another with --listen";
            Finding::not_ok(check, Verdict::Fail, format!("{address}: {error}"), advice)
        }
    }
}

fn service(answer: Result<StatusView, ClientError>) -> Finding {
    let check = "farside";
    match answer {
        Ok(status) if status.alarms.is_empty() => {
            Finding::ok(check, format!("farside {} answers", status.version))
        }
        Ok(status) => {
            let alarms = count(status.alarms.len() as u64, "alarm");
            let found = format!("farside {} answers, with {alarms}", status.version);
            Finding::not_ok(check, Verdict::Warn, found, "look at 'farside status'")
        }
        Err(error @ ClientError::Unreachable { .. }) => {
            Finding::not_ok(check, Verdict::Warn, "it does not run here", error.to_string())
        }
        Err(error) => Finding::not_ok(check, Verdict::Fail, error.to_string(), "look at its log"),
    }
}
