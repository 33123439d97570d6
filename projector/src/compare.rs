//! Compares two stores, for the parity of a rebuild.

use bus_schema::{PoolId, Timestamp};
use serde::Serialize;

use crate::{
    error::StoreError,
    owner::Owner,
    reader::{Answer, Filter, Reader, line},
    row::{Order, Row},
    tables::Db,
};

/// Most differences that one comparison names.
pub const DIFFERENCES_MAX: usize = 1_000;
/// Rows of one step.
const STEP_ROWS: usize = 1_000;
/// Syncs and confirmations that are compared, newest first.
const RECORDS_MAX: usize = 10_000;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Whether what users and tenants see differs, or only what is known about a source.
    pub of: Of,
    /// The pool, or `target` for what the target log holds.
    pub pool: String,
    /// What differs, for example `row Pod/web`.
    pub what: String,
    /// What the left store has; absent = nothing.
    pub left: Option<String>,
    /// What the right store has; absent = nothing.
    pub right: Option<String>,
}

/// What a difference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Resources, keys, tenants, volumes, images, syncs, confirmations.
    Content,
    /// How a source is known: its place in its chain, its last sync, what is missing; and where the log has an event.
    Source,
}

/// What differs between two stores that have read the same logs up to the same positions: at most
/// [`DIFFERENCES_MAX`] entries, resources first. Not compared: the outbox, what depends on when a person
/// released a held window in relation to other logs, the log's incarnation, and how often what was read.
pub fn diff(left: &Reader, right: &Reader) -> Result<Vec<Difference>, StoreError> {
    let mut found = Found::default();
    let pools = |reader: &Reader| -> Result<Vec<PoolId>, StoreError> {
        Ok(reader.pools()?.value.into_iter().map(|pool| pool.pool).collect())
    };
    let (left_pools, right_pools) = (pools(left)?, pools(right)?);
    for pool in &left_pools {
        if right_pools.contains(pool) {
            diff_pool(left, right, pool, &mut found)?;
        } else {
            found.note(pool, "pool", Some(pool.to_string()), None);
        }
    }
    for pool in right_pools.iter().filter(|pool| !left_pools.contains(pool)) {
        found.note(pool, "pool", None, Some(pool.to_string()));
    }
    found.records(&"target", "tenants", left.tenants(), right.tenants())?;
    found.records(&"target", "issued keys", left.issued_keys(), right.issued_keys())?;
    Ok(found.differences)
}

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
}

impl Found {
    fn note(&mut self, pool: &dyn ToString, what: &str, left: Option<String>, right: Option<String>) {
        self.add(Of::Content, pool, what, left, right);
    }

    fn add(&mut self, of: Of, pool: &dyn ToString, what: &str, left: Option<String>, right: Option<String>) {
        if left != right && self.differences.len() < DIFFERENCES_MAX {
            let (pool, what) = (pool.to_string(), what.to_owned());
            self.differences.push(Difference { of, pool, what, left, right });
        }
    }

    fn is_full(&self) -> bool {
        self.differences.len() >= DIFFERENCES_MAX
    }

    fn records<T: Serialize>(
        &mut self,
        pool: &dyn ToString,
        what: &str,
        left: Result<Answer<T>, StoreError>,
        right: Result<Answer<T>, StoreError>,
    ) -> Result<(), StoreError> {
        let text = |answer: Answer<T>| serde_json::to_string(&answer.value).ok();
        self.note(pool, what, text(left?), text(right?));
        Ok(())
    }
}

fn diff_pool(left: &Reader, right: &Reader, pool: &PoolId, found: &mut Found) -> Result<(), StoreError> {
    diff_rows(Rows::new(left, pool), Rows::new(right, pool), pool, found)?;
    let owners = |reader: &Reader| -> Result<Vec<Owner>, StoreError> {
        Ok(reader.owners(pool)?.value.into_iter().map(of_the_log).collect())
    };
    let (left_owners, right_owners) = (owners(left)?, owners(right)?);
    let text = |owner: &Owner| serde_json::to_string(owner).ok();
    let same =
        |owners: &[Owner], source: &str| owners.iter().find(|owner| owner.source == source).and_then(text);
    for owner in &left_owners {
        let (what, other) = (format!("owner {}", owner.source), same(&right_owners, &owner.source));
        found.add(Of::Source, pool, &what, text(owner), other);
    }
    for owner in &right_owners {
        if same(&left_owners, &owner.source).is_none() {
            found.add(Of::Source, pool, &format!("owner {}", owner.source), None, text(owner));
        }
    }
    let keys = |reader: &Reader| wherever(reader.keys(pool), |key| key.since = Timestamp::default());
    found.records(pool, "keys", keys(left), keys(right))?;
    let volumes = |reader: &Reader| {
        wherever(reader.volumes(pool), |volume| {
            (volume.place, volume.stored_at) = (String::new(), Timestamp::default());
        })
    };
    found.records(pool, "volumes", volumes(left), volumes(right))?;
    let images = |reader: &Reader| {
        wherever(reader.images(pool), |image| {
            (image.place, image.stored_at) = (String::new(), Timestamp::default());
        })
    };
    found.records(pool, "images", images(left), images(right))?;
    found.records(pool, "syncs", left.syncs(pool, RECORDS_MAX), right.syncs(pool, RECORDS_MAX))?;
    let (left_confirmed, right_confirmed) =
        (left.confirmations(pool, RECORDS_MAX), right.confirmations(pool, RECORDS_MAX));
    found.records(pool, "confirmations", left_confirmed, right_confirmed)?;
    found.records(pool, "schedule paused", left.is_paused(pool), right.is_paused(pool))
}

/// Records without the places of their events.
fn wherever<T>(
    records: Result<Answer<Vec<T>>, StoreError>,
    forget: impl Fn(&mut T),
) -> Result<Answer<Vec<T>>, StoreError> {
    let mut records = records?;
    records.value.iter_mut().for_each(forget);
    Ok(records)
}

/// An owner without what depends on when the target log was read in relation to the site's, and without
/// counters: a log that was read again after a rewind has been counted differently.
fn of_the_log(mut owner: Owner) -> Owner {
    owner.proof = None;
    if let Some(last) = &mut owner.last_sync {
        (last.equal, last.swept) = (false, 0);
    }
    if let Some(last) = &mut owner.last_heartbeat {
        last.equal = None;
    }
    (owner.applied, owner.repeats, owner.refused, owner.unchained) = (0, 0, 0, 0);
    (owner.since_sync.changes, owner.since_sync.bytes) = (0, 0);
    owner
}

/// Walks both pools in order of their keys.
fn diff_rows(
    mut left: Rows<'_>,
    mut right: Rows<'_>,
    pool: &PoolId,
    found: &mut Found,
) -> Result<(), StoreError> {
    let (mut one, mut other) = (left.next()?, right.next()?);
    while !found.is_full() {
        let key = match (&one, &other) {
            (None, None) => break,
            (Some(row), None) | (None, Some(row)) => row.key.clone(),
            (Some(row), Some(second)) => row.key.clone().min(second.key.clone()),
        };
        let of_key = |row: &mut Option<Row>| row.take_if(|row| row.key == key).map(of_any_incarnation);
        let (left_row, right_row) = (of_key(&mut one), of_key(&mut other));
        if left_row.is_some() {
            one = left.next()?;
        }
        if right_row.is_some() {
            other = right.next()?;
        }
        if left_row != right_row {
            let same = left_row.clone().map(wherever_it_stands) == right_row.clone().map(wherever_it_stands);
            let of = if same { Of::Source } else { Of::Content };
            let text = |row: Option<Row>| -> Db<Option<String>> { row.map(|row| line(&row)).transpose() };
            let (left_text, right_text) = (left.shown(text(left_row))?, right.shown(text(right_row))?);
            found.add(of, pool, &format!("row {key}"), left_text, right_text);
        }
    }
    Ok(())
}

/// A row without the log's incarnation, which says how often a pool has read the log.
fn of_any_incarnation(mut row: Row) -> Row {
    if let Order::Unchained { incarnation, .. } = &mut row.order {
        *incarnation = 0;
    }
    row
}

/// A row without the place of its event: when a log lost one and has it again as a copy, it stands elsewhere.
fn wherever_it_stands(mut row: Row) -> Row {
    (row.place, row.stored_at) = (String::new(), Timestamp::default());
    row.deleted_at = row.deleted_at.map(|_| Timestamp::default());
    if let Some(notice) = &mut row.notice {
        notice.since = Timestamp::default();
    }
    row
}

/// The rows of a pool, page by page.
struct Rows<'a> {
    reader: &'a Reader,
    pool: &'a PoolId,
    filter: Filter,
    page: std::vec::IntoIter<Row>,
    after: Option<bus_schema::ResourceKey>,
    done: bool,
}

impl<'a> Rows<'a> {
    fn new(reader: &'a Reader, pool: &'a PoolId) -> Self {
        let filter = Filter { include_deleted: true, ..Filter::default() };
        Self { reader, pool, filter, page: Vec::new().into_iter(), after: None, done: false }
    }

    fn next(&mut self) -> Result<Option<Row>, StoreError> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            if self.done {
                return Ok(None);
            }
            let page = self.reader.rows(self.pool, &self.filter, self.after.as_ref(), STEP_ROWS)?;
            (self.done, self.after) = (page.next.is_none(), page.next);
            self.page = page.rows.into_iter();
        }
    }

    fn shown<T>(&self, text: Db<T>) -> Result<T, StoreError> {
        text.map_err(|error| self.reader.wrong(error))
    }
}
