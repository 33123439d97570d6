//! What a server's monitor says about its durability.

use std::time::Duration;

/// Whether the server syncs every message to disk before it acknowledges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncAlways {
    /// It does.
    Yes,
    /// It does not; acknowledged events of up to this long can be lost with the power.
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
    let _ = monitor_url;
    unimplemented!()
}
