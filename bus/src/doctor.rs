//! What a server's monitor says about its durability: JetStream acknowledges before it syncs to disk
//! unless it is told otherwise, and a client cannot see that.

use std::{io, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long the monitor may take.
const MONITOR_WAIT: Duration = Duration::from_secs(3);
/// Largest answer that is read; `/varz` has some 5 KiB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Whether the server syncs every message to disk before it acknowledges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAlways {
    /// It does.
    Yes,
    /// It does not; what was acknowledged within this time can be lost with the power.
    No {
        /// The server's `sync_interval`.
        interval: Duration,
    },
    /// It cannot be told, which counts as not OK.
    Unknown {
        /// Why, and what to do.
        reason: String,
    },
}

/// Asks a monitor URL (`http://127.0.0.1:8222`) whether the server syncs always.
pub async fn sync_always(monitor_url: &str) -> SyncAlways {
    let unknown = |reason: String| SyncAlways::Unknown { reason };
    let Some(address) = monitor_url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/')) else {
        return unknown(format!(
            "{monitor_url:?} is no monitor URL; write http://host:port, as in `http_port`"
        ));
    };
    match timeout(MONITOR_WAIT, get(address, "/varz")).await {
        Ok(Ok(answer)) => judge(&answer),
        Ok(Err(e)) => {
            unknown(format!("cannot ask the monitor at {address}: {e}; set `http_port` in the server"))
        }
        Err(_) => unknown(format!("the monitor at {address} did not answer in {} s", MONITOR_WAIT.as_secs())),
    }
}

/// One HTTP/1.0 GET without a redirect or a chunked body, which is all that the monitor needs: a
/// client library would be the largest part of this room.
async fn get(address: &str, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

#[derive(Deserialize)]
struct Varz {
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Default, Deserialize)]
struct JetStream {
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    sync_always: bool,
    /// In nanoseconds.
    #[serde(default)]
    sync_interval: u64,
}

fn judge(answer: &[u8]) -> SyncAlways {
    let unknown = |reason: &str| SyncAlways::Unknown { reason: reason.to_owned() };
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| &answer[at + 4..]);
    if !answer.starts_with(b"HTTP/1.") || !answer[8..].starts_with(b" 200") {
        return unknown("what answers is no nats-server monitor; name its `http_port`");
    }
    match serde_json::from_slice::<Varz>(body.unwrap_or_default()).map(|varz| varz.jetstream.config) {
        Ok(Some(Config { sync_always: true, .. })) => SyncAlways::Yes,
        Ok(Some(config)) => SyncAlways::No { interval: Duration::from_nanos(config.sync_interval) },
        Ok(None) => unknown("the server has no JetStream; enable it"),
        Err(_) => unknown("the monitor's answer cannot be read; is it nats-server 2.11 or newer?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_a_yes() {
        let judge = |body: &str| judge(format!("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{body}").as_bytes());
        let config = r#"{"jetstream":{"config":{"sync_interval":120000000000,"sync_always":true}}}"#;
        assert_eq!(judge(config), SyncAlways::Yes);
        let config = r#"{"jetstream":{"config":{"sync_interval":120000000000}}}"#;
        assert_eq!(judge(config), SyncAlways::No { interval: Duration::from_secs(120) });
        for unknown in ["{}", r#"{"jetstream":{}}"#, "<html>", ""] {
            assert!(matches!(judge(unknown), SyncAlways::Unknown { .. }), "{unknown}");
        }
        assert!(matches!(super::judge(b"SSH-2.0"), SyncAlways::Unknown { .. }));
    }
}
