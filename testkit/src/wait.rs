//! Waiting for the thing itself, for a bounded time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

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
    let mut last = "nothing".to_owned();
    while let Ok(looked) = timeout_at(deadline, look()).await {
        match looked? {
            Ok(found) => return Ok(found),
            Err(seen) => last = seen,
        }
        sleep(LOOK_EVERY).await;
    }
    Err(KitError::Timeout { what: what.to_owned(), seconds: PATIENCE.as_secs(), last })
}
