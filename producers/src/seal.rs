//! An event on its way into the outbox: what it says, and how it becomes a chained message in the
//! binary form of CloudEvents.

use bus_schema::{
    EventSubject, Hash32, Name, Source, Stem, TenantId, Timestamp,
    chain::{Link, Sealed},
    envelope::SPECVERSION,
    event::{
        agent::AgentEvent,
        key::KeyEvent,
        resource::{Changed, Deleted, Noticed, ResourceEvent, SyncClosed, SyncOpened},
    },
    token,
};
use uuid::Uuid;

use crate::{
    ledger::{
        LedgerError,
        inventory::Item,
        outbox::{Head, Parcel},
    },
    resource::Record,
};

/// What an event says.
#[derive(Clone, Debug)]
pub(crate) struct Saying {
    stem: Stem,
    event: &'static str,
    entity: String,
    body: Vec<u8>,
    tenant: Option<TenantId>,
}

/// A change of the ledger: what is said (if anything), and what is known afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    /// The event; none = the ledger changes in silence.
    pub(crate) saying: Option<Saying>,
    /// What becomes of the inventory.
    pub(crate) effect: Effect,
}

/// What becomes of the inventory.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// A resource is what it is now; the sequence is filled in when the event gets one.
    Put { key: String, before: Option<Item>, now: Item },
    /// A resource is gone.
    Remove { key: String, before: Item },
}

fn unwritable(_: serde_json::Error) -> LedgerError {
    LedgerError::Row { table: "outbox" }
}

impl Saying {
    fn resource(event: &ResourceEvent<'_>, tenant: Option<TenantId>) -> Result<Self, LedgerError> {
        let body = event.data().map_err(unwritable)?;
        let (event, entity) = (event.name(), event.entity());
        Ok(Self { stem: Stem::Resource, event, entity, body, tenant })
    }

    pub(crate) fn changed(record: &Record) -> Result<Self, LedgerError> {
        let state = serde_json::from_str(&record.state).map_err(unwritable)?;
        let labels = record.labels.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let changed = Changed {
            kind: record.key.kind().into(),
            id: record.key.id().into(),
            revision: record.revision.as_str().into(),
            state,
            labels,
        };
        Self::resource(&ResourceEvent::Changed(changed), record.tenant.clone())
    }

    pub(crate) fn noticed(key: &str, item: &Item, tenant: Option<TenantId>) -> Result<Self, LedgerError> {
        let (kind, id) = key.split_once('/').unwrap_or((key, ""));
        let noticed = Noticed {
            kind: kind.into(),
            id: id.into(),
            revision: item.revision.as_str().into(),
            state_hash: item.state_hash,
            size_bytes: item.size_bytes,
        };
        Self::resource(&ResourceEvent::Noticed(noticed), tenant)
    }

    pub(crate) fn deleted(key: &str) -> Result<Self, LedgerError> {
        let (kind, id) = key.split_once('/').unwrap_or((key, ""));
        Self::resource(&ResourceEvent::Deleted(Deleted { kind: kind.into(), id: id.into() }), None)
    }

    pub(crate) fn sync_opened(opened: SyncOpened) -> Result<Self, LedgerError> {
        Self::resource(&ResourceEvent::SyncOpened(opened), None)
    }

    pub(crate) fn sync_closed(closed: SyncClosed) -> Result<Self, LedgerError> {
        Self::resource(&ResourceEvent::SyncClosed(closed), None)
    }

    pub(crate) fn agent(event: &AgentEvent) -> Result<Self, LedgerError> {
        let body = event.data().map_err(unwritable)?;
        Ok(Self { stem: Stem::Agent, event: event.name(), entity: event.entity(), body, tenant: None })
    }

    pub(crate) fn key(event: &KeyEvent) -> Result<Self, LedgerError> {
        let body = event.data().map_err(unwritable)?;
        Ok(Self { stem: Stem::Key, event: event.name(), entity: event.entity(), body, tenant: None })
    }

    /// The payload, in bytes.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// About what it takes in the outbox, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        const HEADERS: usize = 700;
        (self.body.len() + self.entity.len() * 2 + HEADERS) as u64
    }

    /// Makes the message. `link` = its place in the chain; none = unchained (heartbeats).
    pub(crate) fn seal(
        self,
        source: &Source,
        link: Option<Link>,
        sync: Option<&str>,
        now: Timestamp,
    ) -> (Parcel, Hash32) {
        let id = Uuid::now_v7().to_string();
        let (site, cluster) = (source.pool.site.as_str(), source.pool.cluster.as_str());
        let token = token::of(&self.entity);
        let subject = EventSubject { site, cluster, stem: self.stem, token: &token, event: self.event };
        let (subject, event_type) = (subject.to_string(), format!("{}.{}", self.stem, self.event));
        let (source_text, time) = (source.to_string(), now.to_string());
        let mut headers = vec![
            header("ce-specversion", SPECVERSION),
            header("ce-id", &id),
            header("ce-source", &source_text),
            header("ce-type", &event_type),
            header("ce-time", &time),
            header("ce-datacontenttype", "application/json"),
        ];
        let mut hash = Hash32::ZERO;
        if let Some(link) = link {
            headers.push(header("ce-farepoch", &link.at.epoch.to_string()));
            headers.push(header("ce-farseq", &link.at.seq.to_string()));
            headers.push(header("ce-farprev", &link.prev.to_string()));
            let (source, id, event_type, subject, time) =
                (&*source_text, &*id, &*event_type, &*subject, &*time);
            hash = Sealed { source, id, event_type, subject, time, link, body: &self.body }.hash();
        }
        headers.extend(sync.map(|sync| header("ce-farsync", sync)));
        headers.extend(self.tenant.map(|tenant| header("ce-fartenant", &tenant.to_string())));
        let head = Head { subject, headers, message_id: format!("{cluster}/{id}") };
        (Parcel { head, body: self.body.into() }, hash)
    }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// The name under which an agent speaks for a cluster's resources.
pub(crate) fn source(pool: bus_schema::PoolId, agent: &Name) -> Source {
    Source { pool, stem: Stem::Resource, agent: agent.clone() }
}
