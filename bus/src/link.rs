//! The state of the link as the client library reports it, and what the server denied.

use std::time::SystemTime;

use async_nats::{Event, ServerError};
use bus_schema::Timestamp;
use tokio::sync::{broadcast, watch};

/// Denials that a slow listener may be behind; more than that and it falls back to its deadline.
const DENIALS_KEPT: usize = 64;

/// Whether the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It stands; `generation` counts the connects from 1, so a change means that something may have been missed.
    Up {
        /// Counts the connects, from 1.
        generation: u64,
    },
    /// It is lost and is being made again.
    Down {
        /// When it was lost.
        since: Timestamp,
    },
}

/// A subject that the server denied to this connection.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    pub(crate) subject: String,
    pub(crate) reason: String,
}

/// What the client library's events are turned into.
#[derive(Debug)]
pub(crate) struct LinkWatch {
    state: watch::Sender<LinkState>,
    connects: watch::Sender<u64>,
    denials: broadcast::Sender<Denial>,
    silent_since: watch::Sender<Option<Timestamp>>,
}

impl LinkWatch {
    /// A link that counts as standing: it is made for a connection that is about to be reported.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::channel(LinkState::Up { generation: 1 }).0,
            connects: watch::channel(0).0,
            denials: broadcast::channel(DENIALS_KEPT).0,
            silent_since: watch::channel(None).0,
        }
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Since when publishes have been waiting for acknowledgements in vain although the link stands.
    pub(crate) fn silent_since(&self) -> Option<Timestamp> {
        *self.silent_since.borrow()
    }

    /// A publish was acknowledged, or was not within its time.
    pub(crate) fn acknowledged(&self, acknowledged: bool) {
        self.silent_since.send_modify(|since| {
            *since = if acknowledged { None } else { Some(since.unwrap_or_else(now)) };
        });
    }

    /// Listens to denials from now on; subscribe before sending what may be denied.
    pub(crate) fn denials(&self) -> Denials {
        Denials(self.denials.subscribe())
    }

    /// Takes in one event of the client library.
    pub(crate) fn apply(&self, event: Event) {
        match event {
            Event::Connected => {
                self.connects.send_modify(|connects| *connects += 1);
                let now = LinkState::Up { generation: *self.connects.borrow() };
                self.state.send_if_modified(|state| std::mem::replace(state, now) != now);
            }
            Event::Disconnected | Event::Closed => {
                self.state.send_if_modified(|state| {
                    let was_up = matches!(state, LinkState::Up { .. });
                    if was_up {
                        *state = LinkState::Down { since: now() };
                    }
                    was_up
                });
            }
            Event::ServerError(ServerError::Other(text)) => self.deny(text),
            _ => {}
        }
    }

    fn deny(&self, text: String) {
        let Some(subject) = denied_subject(&text) else { return };
        let denial = Denial { subject: subject.to_owned(), reason: text };
        // Nobody listening is fine: the denial was of something that nobody waits for.
        let _ = self.denials.send(denial);
    }
}

/// A listener to denials.
#[derive(Debug)]
pub(crate) struct Denials(broadcast::Receiver<Denial>);

impl Denials {
    /// Waits for the denial of a subject that `concerns` says yes to; for ever if there is none.
    pub(crate) async fn of(&mut self, concerns: impl Fn(&str) -> bool) -> Denial {
        loop {
            match self.0.recv().await {
                Ok(denial) if concerns(&denial.subject) => return denial,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// `Permissions Violation for Publish to "far.v1.x"` → `far.v1.x`.
fn denied_subject(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("ermissions Violation for ")?;
    rest.split('"').nth(1)
}

/// The present time by the system's clock.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_counts_connects_and_the_first_is_one() {
        let link = LinkWatch::new();
        let state = link.state();
        assert_eq!(*state.borrow(), LinkState::Up { generation: 1 });
        link.apply(Event::Connected);
        assert!(!state.has_changed().unwrap(), "the first connect was counted already");
        link.apply(Event::Disconnected);
        assert!(matches!(*state.borrow(), LinkState::Down { .. }));
        link.apply(Event::Connected);
        assert_eq!(*state.borrow(), LinkState::Up { generation: 2 });
    }

    #[test]
    fn a_denial_names_its_subject() {
        let text = "Permissions Violation for Publish to \"far.v1.x\"";
        assert_eq!(denied_subject(text), Some("far.v1.x"));
        assert_eq!(
            denied_subject("Permissions Violation for Subscription to \"a.>\" using queue \"q\""),
            Some("a.>")
        );
        assert_eq!(denied_subject("Stale Connection"), None);
    }
}
