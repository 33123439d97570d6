//! Events of the stem `resource`: what a source agent says about its inventory (R2, R6, R9).

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{chain::ChainPoint, digest::Digest, event::events, hash::Hash32, text::count};

events! {
    /// A fact about a source's inventory.
    Resource ResourceEvent<'a> {
        /// A resource is new or different; its state is inline.
        Changed(Changed<'a>) = "changed",
        /// A resource is different; its state stays at the source until a sync asks for it.
        Noticed(Noticed<'a>) = "noticed",
        /// A resource is gone.
        Deleted(Deleted<'a>) = "deleted",
        /// The answer to a sync request begins.
        SyncOpened(SyncOpened) = "sync_opened",
        /// The answer to a sync request is complete.
        SyncClosed(SyncClosed) = "sync_closed",
    }
}

/// A resource is new or different (`resource.changed`).
#[derive(Clone, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Changed<'a> {
    /// The kind, 1 to 128 bytes without `/`.
    #[serde(borrow)]
    #[schemars(regex(pattern = "^[^/]+$"), length(max = 128))]
    pub kind: Cow<'a, str>,
    /// The id inside the kind, 1 to 1024 bytes.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 1024))]
    pub id: Cow<'a, str>,
    /// An opaque revision, 1 to 128 bytes, compared for equality only.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 128))]
    pub revision: Cow<'a, str>,
    /// The resource's state: any JSON value.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Value")]
    pub state: &'a RawValue,
    /// Labels to search by.
    #[serde(default, borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl PartialEq for Changed<'_> {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, &self.id, &self.revision, self.state.get(), &self.labels)
            == (&other.kind, &other.id, &other.revision, other.state.get(), &other.labels)
    }
}

impl Changed<'_> {
    /// `kind/id`.
    pub fn entity(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

/// A resource is different, its state is fetched later (`resource.noticed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Noticed<'a> {
    /// The kind, 1 to 128 bytes without `/`.
    #[serde(borrow)]
    #[schemars(regex(pattern = "^[^/]+$"), length(max = 128))]
    pub kind: Cow<'a, str>,
    /// The id inside the kind, 1 to 1024 bytes.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 1024))]
    pub id: Cow<'a, str>,
    /// The revision that the resource has now, 1 to 128 bytes.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 128))]
    pub revision: Cow<'a, str>,
    /// SHA-256 over the RFC 8785 text of the state that was not sent.
    pub state_hash: Hash32,
    /// The size of that state's JSON text, in bytes.
    #[serde(with = "count")]
    #[schemars(with = "crate::text::Decimal")]
    pub size_bytes: u64,
}

impl Noticed<'_> {
    /// `kind/id`.
    pub fn entity(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

/// A resource is gone (`resource.deleted`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Deleted<'a> {
    /// The kind, 1 to 128 bytes without `/`.
    #[serde(borrow)]
    #[schemars(regex(pattern = "^[^/]+$"), length(max = 128))]
    pub kind: Cow<'a, str>,
    /// The id inside the kind, 1 to 1024 bytes.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = 1024))]
    pub id: Cow<'a, str>,
}

impl Deleted<'_> {
    /// `kind/id`.
    pub fn entity(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

/// Which resources the answer to a sync request covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SyncScope {
    /// What changed since the point that the request named, and what was outstanding.
    Incremental,
    /// Everything the owner has: what is absent between open and close is gone.
    Full,
    /// The resources that the request named.
    Keys,
}

/// The answer to a sync request begins (`resource.sync_opened`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncOpened {
    /// The sync's id, as the request gave it.
    pub sync_id: String,
    /// What the answer covers.
    pub scope: SyncScope,
    /// The last event of the chain before this one: rows of this owner that are not touched after
    /// it are absent from a full answer.
    pub low: ChainPoint,
}

impl SyncOpened {
    /// `sync/<id>`.
    pub fn entity(&self) -> String {
        format!("sync/{}", self.sync_id)
    }
}

/// The answer to a sync request is complete (`resource.sync_closed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SyncClosed {
    /// The sync's id.
    pub sync_id: String,
    /// What the answer covered.
    pub scope: SyncScope,
    /// The `low` of its opening.
    pub low: ChainPoint,
    /// Resources sent.
    #[serde(with = "count")]
    #[schemars(with = "crate::text::Decimal")]
    pub resources: u64,
    /// Deletions sent.
    #[serde(with = "count")]
    #[schemars(with = "crate::text::Decimal")]
    pub deleted: u64,
    /// Bytes of state sent.
    #[serde(with = "count")]
    #[schemars(with = "crate::text::Decimal")]
    pub bytes: u64,
    /// The digest of everything the owner has, as of the event before this one.
    pub digest: Digest,
}

impl SyncClosed {
    /// `sync/<id>`.
    pub fn entity(&self) -> String {
        format!("sync/{}", self.sync_id)
    }
}
