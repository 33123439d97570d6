//! What each stream must be, as data that `bus` turns into a JetStream configuration and compares
//! with what the server has. Must not know NATS's types.

use crate::{id::Name, subject};

/// How long the server remembers message ids (JetStream's duplicate window), in milliseconds.
/// The projector's (epoch, seq, hash) check covers what comes later.
pub const DUPLICATE_WINDOW_MS: u64 = 120_000;
/// Largest message that Farside sends: below the server's default `max_payload` of 1 MiB, with room for headers.
pub const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// Most messages in one atomic batch (JetStream's own limit).
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// A log that is fuller than this share of its `max_bytes` raises an alarm, in percent.
pub const FULL_ALARM_PERCENT: u64 = 80;
/// Default size limit of a log, in bytes (64 GiB).
pub const LOG_BYTES_MAX: i64 = 64 << 30;

/// What a stream is for; it decides who may write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRole {
    /// The events of one source site, written by its agents.
    SiteLog,
    /// The facts that the target states, written by the lease holder only.
    TargetLog,
    /// What could not be taken in, with the reason.
    DeadLetters,
}

/// One stream: file storage, limits retention, discard new, S2 compression, `deny_delete`,
/// atomic publish allowed, no `max_age`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// What it is for.
    pub role: StreamRole,
    /// The stream's name.
    pub name: String,
    /// The one subject filter it stores.
    pub subjects: String,
    /// Size limit in bytes; a full log refuses new events rather than forget old ones.
    pub bytes_max: i64,
    /// Copies in a NATS cluster: 1 on one machine, 3 across zones.
    pub replicas: usize,
    /// JetStream's duplicate window, in milliseconds.
    pub duplicate_window_ms: u64,
}

impl StreamSpec {
    fn new(role: StreamRole, name: String, subjects: String) -> Self {
        let bytes_max = LOG_BYTES_MAX;
        Self { role, name, subjects, bytes_max, replicas: 1, duplicate_window_ms: DUPLICATE_WINDOW_MS }
    }

    /// The log of a source site.
    pub fn site(site: &Name) -> Self {
        Self::new(StreamRole::SiteLog, subject::site_stream(site), subject::site_events(site))
    }

    /// The log of a target's facts.
    pub fn target(target: &Name) -> Self {
        Self::new(StreamRole::TargetLog, subject::target_stream(target), subject::target_facts(target))
    }

    /// The dead letters of a target.
    pub fn dead_letters(target: &Name) -> Self {
        let (name, subjects) = (subject::dead_letter_stream(target), subject::dead_letters(target));
        Self::new(StreamRole::DeadLetters, name, subjects)
    }
}
