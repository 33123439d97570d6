//! What the tests of several areas share.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout};

pub(crate) mod agent;
pub(crate) mod disk;
pub(crate) mod farside;
#[cfg(target_os = "linux")]
pub(crate) mod handles;
pub(crate) mod kept;
pub(crate) mod log;
pub(crate) mod nats;
pub(crate) mod pip;
pub(crate) mod random;
pub(crate) mod world;

/// How long anything that a test waits for may take; a busy machine needs seconds, and a
/// delivery that a crash swallowed comes again after 10.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` gives something; fails with `what` when it does not within [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_told(what, async || look().await.ok_or_else(String::new)).await
}

/// The same for a look that says what it saw instead, which a failure tells.
pub(crate) async fn eventually_told<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "waited in vain: {what}\n{seen}"),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The value of a future that must not take longer than [`PATIENCE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// The error of something that must fail.
pub(crate) fn refused<T: Debug, E: std::error::Error>(result: Result<T, E>) -> E {
    result.expect_err("it must be refused")
}
