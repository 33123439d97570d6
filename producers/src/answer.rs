//! The commands that an agent serves, read from the bus. One subject per cluster reaches every agent of
//! that cluster; each answers only what names it.

use bus::Request;
use bus_schema::{
    Name,
    command::resource::{
        DIGEST, DigestRequest, READ, ReadReply, ReadRequest, ReadResource, SYNC, SyncRequest,
    },
};
use serde::de::DeserializeOwned;

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
}

impl Ask {
    /// Reads a command; none = it is for another agent, or nothing that this one knows.
    pub(crate) fn read(request: &Request, agent: &Name) -> Option<Self> {
        let verb = request.subject.rsplit('.').next().unwrap_or_default();
        let ask = match verb {
            SYNC => parse(request).map(Self::Sync),
            READ => parse(request).map(Self::Read),
            DIGEST => parse(request).map(Self::Digest),
            _ => None,
        }?;
        (ask.agent() == agent).then_some(ask)
    }

    const fn agent(&self) -> &Name {
        match self {
            Self::Sync(request) => &request.agent,
            Self::Read(request) => &request.agent,
            Self::Digest(request) => &request.agent,
        }
    }

    /// The lease token, where the command carries one.
    pub(crate) const fn lease(&self) -> Option<u64> {
        match self {
            Self::Sync(request) => Some(request.lease),
            Self::Read(request) => Some(request.lease),
            Self::Digest(_) => None,
        }
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
