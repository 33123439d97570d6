//! Resources and their history, as the API answers them.

use std::collections::BTreeMap;

use bus_schema::{Hash32, ResourceKey, Revision, TenantId, Timestamp};
use projector::Row;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    AsOfView,
    trail::{EffectView, EntryView},
};

/// One resource; a tombstone if `deleted_at` is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourceView {
    /// `kind/id`.
    pub key: ResourceKey,
    /// The source that wrote it last.
    pub owner: String,
    /// The revision of `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// The state, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<RawValue>>,
    /// SHA-256 of the state's RFC 8785 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<Hash32>,
    /// The tenant that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Labels to search by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `stream:seq` of the last event about it.
    pub place: String,
    /// The source's time of that event.
    pub source_time: Timestamp,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// When the log stored the event that deleted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<Timestamp>,
    /// The row is stale: this revision was announced, and its state has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_revision: Option<Revision>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Timestamp>,
}

impl ResourceView {
    /// Whether a newer state was announced and has not come.
    pub fn is_stale(&self) -> bool {
        self.announced_revision.is_some()
    }
}

impl TryFrom<Row> for ResourceView {
    type Error = serde_json::Error;

    /// Errors: the stored state is not JSON, which the projector never lets in.
    fn try_from(row: Row) -> Result<Self, serde_json::Error> {
        let Row { key, owner, revision, state, state_hash, tenant, labels, place, .. } = row;
        let state = state.map(RawValue::from_string).transpose()?;
        let (announced_revision, stale_since) =
            row.notice.map(|notice| (notice.revision, notice.since)).unzip();
        let (source_time, stored_at, deleted_at) = (row.source_time, row.stored_at, row.deleted_at);
        Ok(Self {
            key,
            owner,
            revision,
            state,
            state_hash,
            tenant,
            labels,
            place,
            source_time,
            stored_at,
            deleted_at,
            announced_revision,
            stale_since,
        })
    }
}

/// Some resources in order of their keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourcePage {
    /// What the page is true as of.
    pub as_of: AsOfView,
    /// The resources.
    pub items: Vec<ResourceView>,
    /// There may be more: ask again with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ResourceKey>,
}

/// One event of an entity's history, as the log has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// `stream:seq`.
    pub place: String,
    /// When the log stored it.
    pub stored_at: Timestamp,
    /// The source's time.
    pub time: Timestamp,
    /// `<stem>.<event>`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
    /// The event's place in its source's chain, `epoch:seq`; absent = unchained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// The sync that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<String>,
    /// The event's data; absent when the message could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Why the message is among the dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// The tenant that the resource belongs to, as the event says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// It is a copy of the dead letter whose original stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<String>,
    /// It is the end of a full answer that did not have the resource, which deleted it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// What it changed.
    #[serde(default)]
    pub effect: EffectView,
}

impl HistoryEntry {
    /// A message, and what it changed.
    pub(crate) fn new(told: EntryView, effect: EffectView) -> Self {
        let EntryView { place, stored_at, time, actor: source, event_type, id, chain, sync, tenant, .. } =
            told;
        let EntryView { redrive_of, data, unreadable, .. } = told;
        let absent = false;
        Self {
            place,
            stored_at,
            time,
            event_type,
            source,
            id,
            chain,
            sync,
            data,
            unreadable,
            tenant,
            redrive_of,
            absent,
            effect,
        }
    }
}

/// An entity's history, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HistoryView {
    /// The events.
    pub items: Vec<HistoryEntry>,
    /// The history is longer than one answer: ask again with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The log was trimmed and tells nothing from before this moment: what the first event changed is not known. Absent = it
    /// was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
}
