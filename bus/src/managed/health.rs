//! Whether the server can write its store. One that failed to write a stream answers no publish to it any
//! more, however much room there is, until it is started again; only its health says so.

use std::{path::Path, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use crate::{Bus, ConnectOptions};

/// How often the server is asked.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Where a server tells the system account about its health.
const SUBJECT: &str = "$SYS.REQ.SERVER.PING.HEALTHZ";
/// What the health of a server says of a stream that it failed to write.
const WRITE_ERROR: &str = "write error";
/// With less room than this a server that is started again would fail again: two blocks of a log, in bytes.
const ROOM_BYTES_MIN: u64 = 16 << 20;

#[derive(Deserialize)]
struct Answer {
    data: Health,
}

#[derive(Deserialize)]
struct Health {
    #[serde(default)]
    error: String,
}

/// Waits until the server has failed to write and its disk has room (again): it is to be started again.
pub(crate) async fn writes_no_more(system: &ConnectOptions, store_dir: &Path) {
    let (mut bus, mut said) = (None, false);
    loop {
        sleep(ASK_EVERY).await;
        if bus.is_none() {
            bus = Bus::connect(system.clone()).await.ok();
        }
        let Some(bus) = &bus else { continue };
        let Some(error) = write_error(bus).await else { continue };
        if has_room(store_dir) {
            return;
        }
        if !said {
            tracing::error!(error, store = %store_dir.display(), "nats-server cannot write its store; make room on its disk: it is started again then, nothing acknowledged is lost");
        }
        said = true;
    }
}

async fn write_error(bus: &Bus) -> Option<String> {
    let answer = bus.request::<_, Answer>(SUBJECT, &json!({}), ANSWER_WAIT).await;
    let answer = answer.inspect_err(|error| tracing::debug!(%error, "nats-server does not tell its health"));
    answer.ok().map(|answer| answer.data.error).filter(|error| error.contains(WRITE_ERROR))
}

fn has_room(store_dir: &Path) -> bool {
    let disk = rustix::fs::statvfs(store_dir);
    disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM_BYTES_MIN)
}
