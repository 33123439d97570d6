//! A row as it stands in the file: a head of fixed size, what is optional, and a tail that a batch can
//! make without knowing what was there before.
//!
//! ```text
//! flags 1 | owner 4 | epoch or incarnation 8 | chain seq 8 | log 2 | stream seq 8 | stored at 8 |
//! source time 8 | item 16 | state hash 32
//! notice, if flagged: since 8 | size 8 | hash 32 | revision 1+n
//! deletion, if flagged: deleted at 8
//! tail: tenant 1+n | labels 2 + (name 2+n, value 2+n)* | revision 1+n | state, the rest
//! ```
//! Numbers are little-endian.

use std::borrow::Cow;

use bus_schema::{Epoch, Hash32, ResourceKey, Timestamp, chain::ChainPoint, digest::Node};

use crate::{
    row::{Notice, Order, Row},
    tables::{Db, damaged},
};

const HAS_STATE: u8 = 1;
const DELETED: u8 = 2;
const NOTICED: u8 = 4;
const CHAINED: u8 = 8;

/// What every row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The number of the owner that wrote it last.
    pub(crate) owner: u32,
    /// Whether `epoch` and `chain_seq` are a place in the owner's chain.
    pub(crate) chained: bool,
    /// The epoch; of an unchained row, the log's incarnation.
    pub(crate) epoch: u64,
    /// The place in the chain; 0 for an unchained row.
    pub(crate) chain_seq: u64,
    /// The number of the log.
    pub(crate) log: u16,
    /// The stream sequence.
    pub(crate) seq: u64,
    /// When the log stored the event.
    pub(crate) stored_at: i64,
    /// The source's time.
    pub(crate) source_time: i64,
    /// What stands in the owner's digest; zero for a tombstone.
    pub(crate) item: Node,
    /// The hash of the state that is there; zero for none.
    pub(crate) state_hash: Hash32,
    /// Whether the tail holds a revision and a state.
    pub(crate) has_state: bool,
    /// When the log stored the deletion.
    pub(crate) deleted_at: Option<i64>,
}

/// An announced state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CellNotice {
    pub(crate) since: i64,
    pub(crate) size_bytes: u64,
    pub(crate) state_hash: Hash32,
    pub(crate) revision: Box<str>,
}

/// A row, borrowed from where it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Cell<'a> {
    pub(crate) head: Head,
    pub(crate) notice: Option<CellNotice>,
    pub(crate) tail: Cow<'a, [u8]>,
}

/// The tail of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail<'a>(pub(crate) &'a [u8]);

/// The tail of a row without state, tenant and labels.
pub(crate) const EMPTY_TAIL: Tail<'static> = Tail(&[0, 0, 0, 0]);

/// A tail's parts.
pub(crate) struct TailParts<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    pub(crate) revision: &'a str,
    pub(crate) state: &'a str,
}

impl<'a> Tail<'a> {
    /// Bytes of a tail without labels, beside its texts.
    pub(crate) const FIXED_BYTES: usize = 4;

    /// Writes a tail behind what `to` holds.
    pub(crate) fn write<'t>(
        to: &mut Vec<u8>,
        tenant: &str,
        labels: impl ExactSizeIterator<Item = (&'t str, &'t str)>,
        revision: &str,
        state: &str,
    ) {
        to.push(tenant.len() as u8);
        to.extend_from_slice(tenant.as_bytes());
        to.extend_from_slice(&(labels.len() as u16).to_le_bytes());
        for (name, value) in labels {
            for text in [name, value] {
                to.extend_from_slice(&(text.len() as u16).to_le_bytes());
                to.extend_from_slice(text.as_bytes());
            }
        }
        to.push(revision.len() as u8);
        to.extend_from_slice(revision.as_bytes());
        to.extend_from_slice(state.as_bytes());
    }

    /// Takes the tail apart.
    pub(crate) fn parts(self) -> Db<TailParts<'a>> {
        self.split().ok_or_else(|| damaged("a row"))
    }

    /// The part of the tail that the indexes of tenants and labels know, as bytes.
    pub(crate) fn indexed(self) -> Db<&'a [u8]> {
        let (indexed, _) = self.cut().ok_or_else(|| damaged("a row"))?;
        Ok(indexed)
    }

    /// The revision.
    pub(crate) fn revision(self) -> Db<&'a str> {
        let (_, mut rest) = self.cut().ok_or_else(|| damaged("a row"))?;
        rest.short_text().ok_or_else(|| damaged("a row"))
    }

    /// Cuts the tail between labels and revision.
    fn cut(self) -> Option<(&'a [u8], Fields<'a>)> {
        let mut fields = Fields(self.0);
        let tenant_bytes = usize::from(fields.take::<1>()?[0]);
        fields.bytes(tenant_bytes)?;
        let count = fields.u16()?;
        for _ in 0..2 * u32::from(count) {
            let length = usize::from(fields.u16()?);
            fields.bytes(length)?;
        }
        Some((&self.0[..self.0.len() - fields.0.len()], fields))
    }

    fn split(self) -> Option<TailParts<'a>> {
        let mut fields = Fields(self.0);
        let tenant = fields.short_text()?;
        let count = fields.u16()?;
        let mut labels = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            labels.push((fields.text()?, fields.text()?));
        }
        let revision = fields.short_text()?;
        let state = std::str::from_utf8(fields.0).ok()?;
        Some(TailParts { tenant, labels, revision, state })
    }
}

impl<'a> Cell<'a> {
    /// Reads a row.
    pub(crate) fn read(bytes: &'a [u8]) -> Db<Self> {
        Self::split(bytes).ok_or_else(|| damaged("a row"))
    }

    fn split(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let flags = fields.take::<1>()?[0];
        let mut head = Head {
            owner: u32::from_le_bytes(fields.take()?),
            chained: flags & CHAINED != 0,
            epoch: fields.u64()?,
            chain_seq: fields.u64()?,
            log: fields.u16()?,
            seq: fields.u64()?,
            stored_at: fields.i64()?,
            source_time: fields.i64()?,
            item: Node(u128::from_le_bytes(fields.take()?)),
            state_hash: Hash32(fields.take()?),
            has_state: flags & HAS_STATE != 0,
            deleted_at: None,
        };
        let mut notice = None;
        if flags & NOTICED != 0 {
            let (since, size_bytes, state_hash) = (fields.i64()?, fields.u64()?, Hash32(fields.take()?));
            notice =
                Some(CellNotice { since, size_bytes, state_hash, revision: fields.short_text()?.into() });
        }
        if flags & DELETED != 0 {
            head.deleted_at = Some(fields.i64()?);
        }
        Some(Self { head, notice, tail: Cow::Borrowed(fields.0) })
    }

    /// Writes the row over what `to` held.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let Self { head, notice, tail } = self;
        to.clear();
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        to.push(
            flag(head.has_state, HAS_STATE)
                | flag(head.deleted_at.is_some(), DELETED)
                | flag(notice.is_some(), NOTICED)
                | flag(head.chained, CHAINED),
        );
        to.extend_from_slice(&head.owner.to_le_bytes());
        to.extend_from_slice(&head.epoch.to_le_bytes());
        to.extend_from_slice(&head.chain_seq.to_le_bytes());
        to.extend_from_slice(&head.log.to_le_bytes());
        to.extend_from_slice(&head.seq.to_le_bytes());
        to.extend_from_slice(&head.stored_at.to_le_bytes());
        to.extend_from_slice(&head.source_time.to_le_bytes());
        to.extend_from_slice(&head.item.0.to_le_bytes());
        to.extend_from_slice(&head.state_hash.0);
        if let Some(notice) = notice {
            to.extend_from_slice(&notice.since.to_le_bytes());
            to.extend_from_slice(&notice.size_bytes.to_le_bytes());
            to.extend_from_slice(&notice.state_hash.0);
            to.push(notice.revision.len() as u8);
            to.extend_from_slice(notice.revision.as_bytes());
        }
        if let Some(deleted_at) = head.deleted_at {
            to.extend_from_slice(&deleted_at.to_le_bytes());
        }
        to.extend_from_slice(tail);
    }

    /// The tail, to be taken apart.
    pub(crate) fn tail(&self) -> Tail<'_> {
        Tail(&self.tail)
    }

    /// Whether the row counts in its owner's digest: everything but a tombstone does.
    pub(crate) fn is_live(&self) -> bool {
        self.head.deleted_at.is_none()
    }

    /// What the pool believes that the source has: the announced revision and state hash of a stale row, else those of
    /// its state; none for a tombstone. As [`Row::current`].
    pub(crate) fn current(&self) -> Db<Option<(&str, Hash32)>> {
        match &self.notice {
            _ if !self.is_live() => Ok(None),
            Some(notice) => Ok(Some((&notice.revision, notice.state_hash))),
            None if self.head.has_state => Ok(Some((self.tail().revision()?, self.head.state_hash))),
            None => Ok(None),
        }
    }

    /// The row as it is shown.
    pub(crate) fn show(&self, key: &str, owner: &str, stream: &str) -> Option<Row> {
        let parts = self.tail().split()?;
        let Head { epoch, chain_seq, seq, .. } = self.head;
        let order = if self.head.chained {
            Order::Chained(ChainPoint { epoch: Epoch(epoch), seq: chain_seq })
        } else {
            Order::Unchained { incarnation: epoch as u32, seq }
        };
        let has_state = self.head.has_state;
        Some(Row {
            key: key.parse::<ResourceKey>().ok()?,
            owner: owner.to_owned(),
            revision: if has_state { Some(parts.revision.parse().ok()?) } else { None },
            state: has_state.then(|| parts.state.to_owned()),
            state_hash: has_state.then_some(self.head.state_hash),
            tenant: if parts.tenant.is_empty() { None } else { Some(parts.tenant.parse().ok()?) },
            labels: parts.labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            order,
            place: format!("{stream}:{seq}"),
            source_time: Timestamp::from_unix_ms(self.head.source_time),
            stored_at: Timestamp::from_unix_ms(self.head.stored_at),
            deleted_at: self.head.deleted_at.map(Timestamp::from_unix_ms),
            notice: match &self.notice {
                None => None,
                Some(notice) => Some(Notice {
                    revision: notice.revision.parse().ok()?,
                    state_hash: notice.state_hash,
                    size_bytes: notice.size_bytes,
                    since: Timestamp::from_unix_ms(notice.since),
                }),
            },
        })
    }
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn short_text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.take::<1>()?[0]);
        std::str::from_utf8(self.bytes(length)?).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.bytes(length)?).ok()
    }
}
