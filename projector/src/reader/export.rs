//! The export: what two pools must have in common to be called equal, byte for byte.

use std::io::Write;

use bus_schema::{Hash32, PoolId, Timestamp, canonical};
use redb::ReadableTable;
use serde::Serialize;

use super::{Answer, Reader};
use crate::{
    error::StoreError,
    row::{Notice, Order, Row},
    tables::{Db, damaged},
};

/// One line of an export.
#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    owner: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_hash: Option<Hash32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    labels: &'a std::collections::BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<String>,
    place: &'a str,
    source_time: Timestamp,
    stored_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notice: Option<NoticeLine<'a>>,
}

#[derive(Serialize)]
struct NoticeLine<'a> {
    revision: &'a str,
    state_hash: Hash32,
    /// Decimal, as everywhere on the bus.
    size_bytes: String,
    since: Timestamp,
}

impl Reader {
    /// Writes every row (tombstones too) as one RFC 8785 JSON object per line, sorted by key; answers
    /// how many. Equal logs give equal bytes, whatever way led to them: lived through, cut into other
    /// batches, or built again.
    pub fn export(&self, pool: &PoolId, to: &mut dyn Write) -> Result<Answer<u64>, StoreError> {
        let mut failed = None;
        let answer = self.ask(|snapshot| {
            let mut count = 0;
            let Some(pool) = snapshot.pool(pool)? else { return Ok(count) };
            for entry in pool.rows.iter()? {
                let (key, stored) = entry?;
                let line = line(&snapshot.show(&pool, key.value(), stored.value())?)?;
                if let Err(error) = to.write_all(line.as_bytes()) {
                    failed = Some(error);
                    break;
                }
                count += 1;
            }
            Ok(count)
        })?;
        failed.map_or(Ok(answer), |error| Err(StoreError::Export(error)))
    }
}

/// A row's line, with its end.
pub(crate) fn line(row: &Row) -> Db<String> {
    let state: Option<serde_json::Value> =
        row.state.as_deref().map(serde_json::from_str).transpose().map_err(|_| damaged("a state"))?;
    let (epoch, seq) = match row.order {
        Order::Chained(at) => (Some(at.epoch.to_string()), Some(at.seq.to_string())),
        Order::Unchained { .. } => (None, None),
    };
    let line = Line {
        key: row.key.as_str(),
        owner: &row.owner,
        revision: row.revision.as_ref().map(|revision| revision.as_str()),
        state,
        state_hash: row.state_hash,
        tenant: row.tenant.as_ref().map(ToString::to_string),
        labels: &row.labels,
        epoch,
        seq,
        place: &row.place,
        source_time: row.source_time,
        stored_at: row.stored_at,
        deleted_at: row.deleted_at,
        notice: row.notice.as_ref().map(notice),
    };
    let mut text = canonical::text(&line).map_err(|_| damaged("a row"))?;
    text.push('\n');
    Ok(text)
}

fn notice(notice: &Notice) -> NoticeLine<'_> {
    NoticeLine {
        revision: notice.revision.as_str(),
        state_hash: notice.state_hash,
        size_bytes: notice.size_bytes.to_string(),
        since: notice.since,
    }
}
