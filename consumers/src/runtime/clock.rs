//! The present time, read at the edge only: everything inside takes it as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use bus_schema::Timestamp;

/// Now, by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
