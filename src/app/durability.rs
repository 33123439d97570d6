//! Whether a NATS that is not our own keeps what it acknowledges: asked once at the start, told in the log.

use bus::doctor::{SyncAlways, sync_always};

/// The one line that makes acknowledged mean kept.
pub(crate) const SYNC_ADVICE: &str = "add 'sync_interval: always' to the 'jetstream { … }' block of the server's configuration, and restart it";

/// Asks the server's monitor, and warns unless the answer is a clear yes.
pub(super) async fn ask(monitor_url: Option<String>) {
    let Some(url) = monitor_url else {
        tracing::info!(
            "whether NATS syncs every message to disk is unknown: a client cannot see it; set nats.monitor_url and ask 'farside doctor'"
        );
        return;
    };
    match sync_always(&url).await {
        SyncAlways::Yes => tracing::info!("NATS syncs every message to disk before it acknowledges it"),
        SyncAlways::No { interval } => tracing::warn!(
            advice = SYNC_ADVICE,
            "NATS acknowledges before the disk has a message: up to {} s of acknowledged events are lost with the power",
            interval.as_secs()
        ),
        SyncAlways::Unknown { reason } => {
            tracing::warn!(
                advice = SYNC_ADVICE,
                "whether NATS syncs every message to disk is unknown: {reason}"
            );
        }
    }
}
