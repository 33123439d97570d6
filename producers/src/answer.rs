//! The commands that an agent serves, read from the bus. One subject per cluster reaches every agent of
//! that cluster; each answers only what names it.

use bus::Request;
use bus_schema::{
    Source, Stem, Timestamp,
    command::{
        agent::{REPLAY, Replay},
        resource::{DIGEST, DigestRequest, READ, ReadReply, ReadRequest, ReadResource, SYNC, SyncRequest},
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{resource::Found, sequencer::Sequencer};

/// A command for this agent.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Send what is missing.
    Sync(SyncRequest),
    /// Read the source.
    Read(ReadRequest),
    /// Descend through the digest.
    Digest(DigestRequest),
    /// Send again what the log has lost.
    Replay(Replay),
}

impl Ask {
    /// Reads a command; none = it is for another agent, or nothing that this one knows.
    pub(crate) fn read(request: &Request, own: &Source) -> Option<Self> {
        let mut parts = request.subject.rsplit('.');
        let (verb, stem) = (parts.next()?, parts.next()?.parse().ok()?);
        let ask = match (stem, verb) {
            (Stem::Resource, SYNC) => parse(request).map(Self::Sync),
            (Stem::Resource, READ) => parse(request).map(Self::Read),
            (Stem::Resource, DIGEST) => parse(request).map(Self::Digest),
            (Stem::Agent, REPLAY) => parse(request).map(Self::Replay),
            _ => None,
        }?;
        ask.names(own).then_some(ask)
    }

    fn names(&self, own: &Source) -> bool {
        match self {
            Self::Sync(request) => request.agent == own.agent,
            Self::Read(request) => request.agent == own.agent,
            Self::Digest(request) => request.agent == own.agent,
            Self::Replay(request) => request.source == *own,
        }
    }

    /// Under which lease the target speaks, where the command says so.
    pub(crate) const fn tenure(&self) -> Option<Tenure> {
        let (log, token) = match self {
            Self::Sync(request) => (request.lease_log, request.lease),
            Self::Read(request) => (request.lease_log, request.lease),
            Self::Replay(request) => (request.lease_log, request.lease),
            Self::Digest(_) => return None,
        };
        Some(Tenure { log, token })
    }
}

/// A lease as a command names it. The greater one is the later: a token is a sequence of its log, and of two
/// logs the one that was made later counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Tenure {
    /// When the log was made; none = it is not said.
    log: Option<Timestamp>,
    /// The fencing token.
    token: u64,
}

impl Tenure {
    /// Why a command under this lease is refused, when one under `seen` came before; none = it is not.
    pub(crate) fn stale(&self, seen: &Self) -> Option<String> {
        let Self { log, token } = self;
        let told =
            |log: Option<Timestamp>| log.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string());
        let older = if *log == seen.log {
            format!("the lease token {token} is older than {}", seen.token)
        } else {
            format!(
                "the lease is of a target log made at {}, the last one was of {}",
                told(*log),
                told(seen.log)
            )
        };
        (self < seen).then(|| format!("{older}: another target has taken over; stop this one"))
    }
}

fn parse<T: DeserializeOwned>(request: &Request) -> Option<T> {
    let parsed = serde_json::from_slice(&request.body);
    parsed
        .inspect_err(|error| {
            tracing::warn!(%error, subject = request.subject, "a command cannot be read and stays unanswered");
        })
        .ok()
}

/// The answer to a read: what the source had, at the place in the chain that has it all.
pub(crate) fn read_reply(request: &ReadRequest, found: &Found, sequencer: &Sequencer) -> ReadReply {
    let resources = request.keys.iter().map(|key| {
        let record = found.records.iter().find(|record| record.key == *key);
        let found = record.map(|record| (record.revision.clone(), record.state_hash));
        ReadResource { key: key.clone(), found }
    });
    ReadReply::Read { resources: resources.collect(), at: sequencer.chain().at() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_within_one_log_and_the_later_log_counts() {
        let of = |log: Option<i64>, token| Tenure { log: log.map(Timestamp::from_unix_ms), token };
        assert_eq!(of(Some(5), 10).stale(&of(Some(5), 10)), None);
        assert!(of(Some(5), 9).stale(&of(Some(5), 10)).unwrap().contains("token 9 is older than 10"));
        assert_eq!(of(Some(6), 1).stale(&of(Some(5), 10)), None, "the log was made anew");
        assert!(of(Some(5), 99).stale(&of(Some(6), 1)).unwrap().contains("target log made at"));
        assert_eq!(of(Some(5), 1).stale(&of(None, 10)), None);
        assert!(of(None, 9).stale(&of(None, 10)).is_some());
    }
}
