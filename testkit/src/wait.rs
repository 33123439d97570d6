//! Waiting for the thing itself, for a bounded time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::KitError;

/// How long anything may take: a busy machine needs seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` is there. Errors: [`KitError::Timeout`] with what it saw last; what `look` cannot go on after.
pub(crate) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Result<T, String>, KitError>,
) -> Result<T, KitError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= deadline => {
                let (what, seconds) = (what.to_owned(), PATIENCE.as_secs());
                return Err(KitError::Timeout { what, seconds, last });
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}
