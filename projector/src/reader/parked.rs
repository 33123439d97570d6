//! Messages that could not be taken in.

use std::{collections::BTreeMap, ops::RangeInclusive};

use bus_schema::{Hash32, Timestamp};
use redb::ReadableTable;

use super::{Answer, Reader};
use crate::{
    batch::Refusal,
    commit::originals::read_original,
    error::StoreError,
    pending::DeadMessage,
    records::{ParkedRecord, kind_of},
    tables::{self, read_json},
};

/// Messages that are parked for one kind of reason.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedGroup {
    /// How many.
    pub count: u64,
    /// When a log stored the first and the last of them; none = of none of them it is known.
    pub stored: Option<(Timestamp, Timestamp)>,
    /// One of them.
    pub example: ParkedRecord,
}

/// What is known of a message, and the SHA-256 of its original as it is kept, if it is.
pub(crate) type ParkedAndKept = (ParkedRecord, Option<Hash32>);

impl Reader {
    /// How many messages are parked: could not be taken in, nor a copy of them since.
    pub fn dead_letters(&self) -> Result<Answer<u64>, StoreError> {
        self.ask(|snapshot| {
            let count = snapshot.open_table(tables::META)?.get(tables::META_PARKED)?;
            Ok(count.map_or(0, |count| count.value()))
        })
    }

    /// Why a message that was read is parked; none when it is not.
    pub fn parked(&self, stream: &str, seq: u64) -> Result<Answer<Option<Refusal>>, StoreError> {
        let Answer { value, as_of } = self.parked_record(stream, seq)?;
        let parked = value.filter(ParkedRecord::is_parked);
        Ok(Answer { value: parked.map(|ParkedRecord { reason, path, .. }| Refusal { reason, path }), as_of })
    }

    /// What is known of a message that was parked, also when a copy of it was taken in since.
    pub fn parked_record(&self, stream: &str, seq: u64) -> Result<Answer<Option<ParkedRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::PARKED)?;
            let known = table.get((stream, seq))?;
            let known: Option<ParkedRecord> =
                known.map(|known| read_json("a parked message", known.value())).transpose()?;
            Ok(known.filter(|known| !known.is_copy))
        })
    }

    /// The original of a parked message, if the pool has kept it; none as well when something else is known of its place
    /// by now.
    pub fn original(&self, record: &ParkedRecord) -> Result<Answer<Option<DeadMessage>>, StoreError> {
        let place = (record.stream.as_str(), record.seq);
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::PARKED)?;
            let known: Option<ParkedRecord> =
                table.get(place)?.map(|known| read_json("a parked message", known.value())).transpose()?;
            let of = |record: &ParkedRecord| (record.stored_at, record.incarnation);
            if known.is_none_or(|known| of(&known) != of(record)) {
                return Ok(None);
            }
            let kept = snapshot.open_table(tables::ORIGINALS)?.get(place)?;
            kept.map(|kept| read_original(kept.value())).transpose()
        })
    }

    /// How many bytes of originals the pool keeps, by stream, of those that it keeps some of.
    pub fn originals_bytes(&self) -> Result<Answer<BTreeMap<String, u64>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::ORIGINALS_BYTES)?;
            table
                .iter()?
                .map(|entry| {
                    let (stream, bytes) = entry?;
                    Ok((stream.value().to_owned(), bytes.value()))
                })
                .collect()
        })
    }

    /// Messages of a stretch of a log that were not taken in where they stand, in order of their sequences: those that were
    /// parked, and copies that could not be taken in either.
    pub fn parked_between(
        &self,
        stream: &str,
        seqs: RangeInclusive<u64>,
    ) -> Result<Answer<Vec<ParkedRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::PARKED)?;
            let range = table.range::<(&str, u64)>((stream, *seqs.start())..=(stream, *seqs.end()))?;
            range.map(|entry| read_json("a parked message", entry?.1.value())).collect()
        })
    }

    /// Messages that were parked and are `wanted`, behind a place and in order of their places, at most `limit`.
    pub fn parked_after(
        &self,
        after: Option<(&str, u64)>,
        limit: usize,
        mut wanted: impl FnMut(&ParkedRecord) -> bool,
    ) -> Result<Answer<Vec<ParkedRecord>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::PARKED)?;
            let from = after.map_or(("", 0), |(stream, seq)| (stream, seq.saturating_add(1)));
            let mut found = Vec::new();
            for entry in table.range::<(&str, u64)>(from..)? {
                if found.len() >= limit {
                    break;
                }
                let record: ParkedRecord = read_json("a parked message", entry?.1.value())?;
                found.extend(Some(record).filter(|record| !record.is_copy && wanted(record)));
            }
            Ok(found)
        })
    }

    /// All that is known of messages that were not taken in where they stand, copies among them, behind a place and in
    /// order of their places, at most `limit`.
    pub(crate) fn parked_and_kept(
        &self,
        after: Option<(&str, u64)>,
        limit: usize,
    ) -> Result<Answer<Vec<ParkedAndKept>>, StoreError> {
        self.ask(|snapshot| {
            let (table, originals) =
                (snapshot.open_table(tables::PARKED)?, snapshot.open_table(tables::ORIGINALS)?);
            let from = after.map_or(("", 0), |(stream, seq)| (stream, seq.saturating_add(1)));
            let known = table.range::<(&str, u64)>(from..)?.take(limit).map(|entry| {
                let record: ParkedRecord = read_json("a parked message", entry?.1.value())?;
                let original = originals.get((record.stream.as_str(), record.seq))?;
                Ok((record, original.map(|original| Hash32::of(original.value()))))
            });
            known.collect()
        })
    }

    /// The first parked message behind a place that is `wanted` and whose original the pool has not kept.
    pub fn parked_without_original(
        &self,
        after: (&str, u64),
        mut wanted: impl FnMut(&ParkedRecord) -> bool,
    ) -> Result<Answer<Option<ParkedRecord>>, StoreError> {
        self.ask(|snapshot| {
            let (table, originals) =
                (snapshot.open_table(tables::PARKED)?, snapshot.open_table(tables::ORIGINALS)?);
            let (stream, seq) = after;
            for entry in table.range::<(&str, u64)>((stream, seq.saturating_add(1))..=(stream, u64::MAX))? {
                let record: ParkedRecord = read_json("a parked message", entry?.1.value())?;
                if !record.is_copy && wanted(&record) && originals.get((stream, record.seq))?.is_none() {
                    return Ok(Some(record));
                }
            }
            Ok(None)
        })
    }

    /// Parked messages by the kind of their reasons (what stands in quotes, and numbers, make no difference), those
    /// with the most first. At most `limit` kinds, and how many messages are of others.
    pub fn parked_groups(&self, limit: usize) -> Result<Answer<(Vec<ParkedGroup>, u64)>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::PARKED)?;
            let (mut groups, mut others) = (BTreeMap::<String, ParkedGroup>::new(), 0);
            for entry in table.iter()? {
                let record: ParkedRecord = read_json("a parked message", entry?.1.value())?;
                if !record.is_parked() {
                    continue;
                }
                let kind = kind_of(&record.reason);
                if let Some(group) = groups.get_mut(&kind) {
                    group.add(&record);
                } else if groups.len() < limit {
                    groups.insert(kind, ParkedGroup::of(record));
                } else {
                    others += 1;
                }
            }
            let mut groups: Vec<_> = groups.into_values().collect();
            groups.sort_by_key(|group| std::cmp::Reverse(group.count));
            Ok((groups, others))
        })
    }
}

impl ParkedGroup {
    fn of(example: ParkedRecord) -> Self {
        Self { count: 1, stored: example.stored_at.map(|at| (at, at)), example }
    }

    fn add(&mut self, record: &ParkedRecord) {
        self.count += 1;
        if let Some(at) = record.stored_at {
            let (first, last) = self.stored.unwrap_or((at, at));
            self.stored = Some((first.min(at), last.max(at)));
        }
    }
}
