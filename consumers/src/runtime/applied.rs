//! How far the pool is in every log: what others watch to wait until the pool has passed a point.

use std::{collections::BTreeMap, time::Duration};

use bus_schema::Timestamp;
use tokio::sync::watch;

use crate::error::ConsumersError;

/// How far the pool is in one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The last sequence that was committed.
    pub seq: u64,
    /// The largest time at which the log stored a message up to there.
    pub time: Timestamp,
}

/// By stream.
pub type Applied = BTreeMap<String, Reached>;

/// Watches how far the pool is. Clones watch the same pool.
#[derive(Clone, Debug)]
pub struct Progress(watch::Receiver<Applied>);

impl Progress {
    /// A watcher, and the end that the pump moves.
    pub fn channel() -> (watch::Sender<Applied>, Self) {
        let (sender, receiver) = watch::channel(Applied::new());
        (sender, Self(receiver))
    }

    /// How far the pool is in a log now.
    pub fn reached(&self, stream: &str) -> Reached {
        self.0.borrow().get(stream).copied().unwrap_or_default()
    }

    /// How far the pool is in every log now.
    pub fn all(&self) -> Applied {
        self.0.borrow().clone()
    }

    /// Waits for the next commit. None: the service has ended.
    pub async fn moved(&mut self) -> Option<()> {
        self.0.changed().await.ok()
    }

    /// Waits until the pool has taken in a message. Errors: [`ConsumersError::Late`].
    pub async fn passes(&self, stream: &str, seq: u64, wait: Duration) -> Result<(), ConsumersError> {
        let mut watch = self.0.clone();
        let there = watch.wait_for(|applied| applied.get(stream).is_some_and(|reached| reached.seq >= seq));
        match tokio::time::timeout(wait, there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                Err(ConsumersError::Late { stream: stream.to_owned(), seq, wait_ms })
            }
        }
    }

    /// Asks after every commit, and once now, until there is an answer; none when the time is over.
    pub async fn until<T>(&self, wait: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        let mut watch = self.0.clone();
        let asking = async {
            loop {
                watch.mark_unchanged();
                if let Some(answer) = ask() {
                    return Some(answer);
                }
                watch.changed().await.ok()?;
            }
        };
        tokio::time::timeout(wait, asking).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(sender: &watch::Sender<Applied>, seq: u64) {
        let reached = Reached { seq, time: Timestamp::default() };
        sender.send_modify(|applied| {
            applied.insert("S".to_owned(), reached);
        });
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_the_pool_has_passed_its_point() {
        let (sender, progress) = Progress::channel();
        let waiter = tokio::spawn({
            let progress = progress.clone();
            async move { progress.passes("S", 5, Duration::from_secs(10)).await }
        });
        reach(&sender, 4);
        reach(&sender, 6);
        waiter.await.unwrap().unwrap();
        assert_eq!(progress.reached("S").seq, 6);
    }

    #[tokio::test]
    async fn a_waiter_is_told_when_the_time_is_over() {
        let (_sender, progress) = Progress::channel();
        let error = progress.passes("S", 5, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("S:5"), "{error}");
    }
}
