//! The outbox: events that are ready for the wire, in order, until the log has acknowledged them; and
//! the boundary of the batch that is on its way, so that it is retried as it was. Acknowledged, they stay in
//! their rows as the journal's ([`super::journal`]).

use std::ops::RangeInclusive;

use bytes::Bytes;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use super::{LedgerError, Reading, Rows, Writing, json, to_json};

pub(super) const OUTBOX: Rows<(&str, u64)> = TableDefinition::new("outbox");

/// An event as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// Subject, headers, message id.
    pub(crate) head: Head,
    /// The payload.
    pub(crate) body: Bytes,
}

/// All of a message but its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The NATS subject.
    pub(crate) subject: String,
    /// The headers.
    pub(crate) headers: Vec<(String, String)>,
    /// `Nats-Msg-Id`.
    pub(crate) message_id: String,
}

impl Parcel {
    fn to_bytes(&self) -> Result<Vec<u8>, LedgerError> {
        let head = to_json(&self.head, "outbox")?;
        let mut bytes = Vec::with_capacity(4 + head.len() + self.body.len());
        bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.body);
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        let damaged = || LedgerError::Row { table: "outbox" };
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (head, body) = rest.split_at_checked(length).ok_or_else(damaged)?;
        Ok(Self { head: json(head, "outbox")?, body: Bytes::copy_from_slice(body) })
    }
}

/// A run of events that go to the log together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cut {
    /// The first event.
    pub(crate) first: u64,
    /// The last event.
    pub(crate) last: u64,
    /// One atomic batch, or one by one.
    pub(crate) batch: bool,
}

/// How much is in a run of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Events.
    pub(crate) events: u64,
    /// Bytes of them.
    pub(crate) bytes: u64,
}

impl Writing<'_> {
    /// Puts an event into a row behind all others; returns its size in bytes.
    pub(crate) fn put_parcel(
        &mut self,
        cluster: &str,
        row: u64,
        parcel: &Parcel,
    ) -> Result<u64, LedgerError> {
        let bytes = parcel.to_bytes()?;
        self.outbox.insert((cluster, row), bytes.as_slice())?;
        Ok(bytes.len() as u64)
    }

    /// Drops a run of rows.
    pub(crate) fn drop_parcels(
        &mut self,
        cluster: &str,
        rows: RangeInclusive<u64>,
    ) -> Result<(), LedgerError> {
        self.outbox.retain_in((cluster, *rows.start())..=(cluster, *rows.end()), |_, _| false)?;
        Ok(())
    }
}

impl Reading {
    /// The events in a run of rows, until `each` says no. `each` gets row and size.
    pub(crate) fn each_parcel(
        &self,
        cluster: &str,
        rows: RangeInclusive<u64>,
        mut each: impl FnMut(u64, u64) -> bool,
    ) -> Result<(), LedgerError> {
        for row in self.outbox.range((cluster, *rows.start())..=(cluster, *rows.end()))? {
            let (key, value) = row?;
            if !each(key.value().1, value.value().len() as u64) {
                break;
            }
        }
        Ok(())
    }

    /// The events in a run of rows.
    pub(crate) fn parcels(
        &self,
        cluster: &str,
        rows: RangeInclusive<u64>,
    ) -> Result<Vec<Parcel>, LedgerError> {
        let rows = self.outbox.range((cluster, *rows.start())..=(cluster, *rows.end()))?;
        rows.map(|row| Parcel::from_bytes(row?.1.value())).collect()
    }

    /// How much is in a run of rows.
    pub(crate) fn sum(&self, cluster: &str, rows: RangeInclusive<u64>) -> Result<Waiting, LedgerError> {
        let mut sum = Waiting::default();
        self.each_parcel(cluster, rows, |_, bytes| {
            sum.events += 1;
            sum.bytes += bytes;
            true
        })?;
        Ok(sum)
    }
}
