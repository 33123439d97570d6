//! Compares two stores, for the parity of a rebuild.

use std::collections::BTreeMap;

use bus_schema::{Hash32, PoolId, Stem, Timestamp};
use serde::Serialize;

use crate::{
    error::StoreError,
    owner::{AgentState, Owner},
    reader::{Answer, Filter, Reader, line},
    records::{AccessKey, KeyOrigin, ParkedRecord},
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
    /// What wrote the left one; absent = there is none, or nobody knows.
    pub left_cause: Option<Cause>,
    /// What wrote the right one.
    pub right_cause: Option<Cause>,
}

/// The event that wrote something last, as far as a store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It stands there, `stream:seq`.
    Place(String),
    /// The last event about this entity in the log of the pool's site.
    Event {
        /// Its stem.
        stem: Stem,
        /// The entity's key.
        entity: String,
    },
    /// The last fact about this entity in the target log.
    Fact {
        /// Its stem.
        stem: Stem,
        /// The entity's key.
        entity: String,
        /// Facts of this name only; none = of any.
        name: Option<&'static str>,
    },
}

/// What a difference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Resources, keys, tenants, volumes, images, syncs, confirmations, dead letters with their originals.
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
    let of_tenant =
        |entity: &str| Some(Cause::Fact { stem: Stem::Tenant, entity: entity.to_owned(), name: None });
    let tenants = |reader: &Reader| records(reader.tenants(), |tenant| tenant.tenant.to_string(), of_tenant);
    found.records(&"target", "tenant", tenants(left)?, tenants(right)?);
    let of_key = |entity: &str| Some(Cause::Fact { stem: Stem::Key, entity: entity.to_owned(), name: None });
    let issued = |reader: &Reader| records(reader.issued_keys(), |key| key.key_id.to_string(), of_key);
    found.records(&"target", "issued key", issued(left)?, issued(right)?);
    diff_parked(left, right, &mut found)?;
    Ok(found.differences)
}

/// Walks what is parked in both, in order of the places.
fn diff_parked(left: &Reader, right: &Reader, found: &mut Found) -> Result<(), StoreError> {
    let (mut left, mut right) = (Letters::new(left), Letters::new(right));
    let (mut one, mut other) = (left.next()?, right.next()?);
    while !found.is_full() {
        let Some(place) = [&one, &other].into_iter().flatten().map(|letter| &letter.0).min().cloned() else {
            break;
        };
        let at = |letter: &mut Option<Letter>| letter.take_if(|(of, _)| *of == place).map(|(_, text)| text);
        let (left_text, right_text) = (at(&mut one), at(&mut other));
        if left_text.is_some() {
            one = left.next()?;
        }
        if right_text.is_some() {
            other = right.next()?;
        }
        let (stream, seq) = place;
        let name = format!("{stream}:{seq}");
        let side = |text: Option<String>| text.map(|text| (text, Some(Cause::Place(name.clone()))));
        found.add(Of::Content, &"target", &format!("dead letter {name}"), side(left_text), side(right_text));
    }
    Ok(())
}

/// A place, and what is said of what is parked there.
type Letter = ((String, u64), String);

/// What people see of a parked message, and what its copy will be made of.
#[derive(Serialize)]
struct LetterShown<'a> {
    reason: &'a str,
    path: &'a str,
    redriven: Option<u64>,
    is_over: bool,
    is_copy: bool,
    /// SHA-256 of the original that is kept; none = none is.
    original: Option<Hash32>,
}

/// What is parked in a store, page by page.
struct Letters<'a> {
    reader: &'a Reader,
    page: std::vec::IntoIter<Letter>,
    after: Option<(String, u64)>,
    done: bool,
}

impl<'a> Letters<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self { reader, page: Vec::new().into_iter(), after: None, done: false }
    }

    fn next(&mut self) -> Result<Option<Letter>, StoreError> {
        if self.page.len() == 0 && !self.done {
            let after = self.after.as_ref().map(|(stream, seq)| (stream.as_str(), *seq));
            let page = self.reader.parked_and_kept(after, STEP_ROWS)?.value;
            self.done = page.len() < STEP_ROWS;
            let page: Vec<Letter> = page.iter().map(letter).collect();
            self.after = page.last().map(|(place, _)| place.clone());
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

/// Without what depends on how often a log was read, and on what else was known when it was.
fn letter((record, original): &(ParkedRecord, Option<Hash32>)) -> Letter {
    let ParkedRecord { stream, seq, reason, path, redriven, is_over, is_copy, .. } = record;
    let shown = LetterShown {
        reason,
        path,
        redriven: *redriven,
        is_over: *is_over,
        is_copy: *is_copy,
        original: *original,
    };
    ((stream.clone(), *seq), text(&shown))
}

/// One side of a record: its text, and what wrote it.
type Record = (String, Option<Cause>);
/// Records by their names.
type Records = BTreeMap<String, Record>;

/// Records by their names, each with what wrote it, which its name tells.
fn records<T: Serialize>(
    answer: Result<Answer<Vec<T>>, StoreError>,
    name: impl Fn(&T) -> String,
    cause: impl Fn(&str) -> Option<Cause>,
) -> Result<Records, StoreError> {
    let named = |record: &T| {
        let name = name(record);
        let of = (text(record), cause(&name));
        (name, of)
    };
    Ok(answer?.value.iter().map(named).collect())
}

/// Records by their names, each with the place of its event, and compared without it: when a log lost an event and has
/// it again as a copy, it stands elsewhere.
fn placed<T: Serialize>(
    answer: Result<Answer<Vec<T>>, StoreError>,
    name: impl Fn(&T) -> String,
    take_place: impl Fn(&mut T) -> String,
) -> Result<Records, StoreError> {
    let named = |mut record: T| {
        let (name, place) = (name(&record), take_place(&mut record));
        (name, (text(&record), Some(Cause::Place(place))))
    };
    Ok(answer?.value.into_iter().map(named).collect())
}

fn text(record: &impl Serialize) -> String {
    serde_json::to_string(record).unwrap_or_else(|error| format!("unreadable: {error}"))
}

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
}

impl Found {
    fn note(&mut self, pool: &dyn ToString, what: &str, left: Option<String>, right: Option<String>) {
        let bare = |side: Option<String>| side.map(|text| (text, None));
        self.add(Of::Content, pool, what, bare(left), bare(right));
    }

    fn add(&mut self, of: Of, pool: &dyn ToString, what: &str, left: Option<Record>, right: Option<Record>) {
        let ((left, left_cause), (right, right_cause)) = (left.unzip(), right.unzip());
        if left != right && self.differences.len() < DIFFERENCES_MAX {
            let (pool, what) = (pool.to_string(), what.to_owned());
            let (left_cause, right_cause) = (left_cause.flatten(), right_cause.flatten());
            self.differences.push(Difference { of, pool, what, left, right, left_cause, right_cause });
        }
    }

    fn is_full(&self) -> bool {
        self.differences.len() >= DIFFERENCES_MAX
    }

    fn records(&mut self, pool: &dyn ToString, what: &str, left: Records, right: Records) {
        self.records_of(Of::Content, pool, what, left, right);
    }

    fn records_of(&mut self, of: Of, pool: &dyn ToString, what: &str, left: Records, mut right: Records) {
        for (name, record) in left {
            let other = right.remove(&name);
            self.add(of, pool, &format!("{what} {name}"), Some(record), other);
        }
        for (name, record) in right {
            self.add(of, pool, &format!("{what} {name}"), None, Some(record));
        }
    }
}

fn diff_pool(left: &Reader, right: &Reader, pool: &PoolId, found: &mut Found) -> Result<(), StoreError> {
    diff_rows(Rows::new(left, pool), Rows::new(right, pool), pool, found)?;
    let (left_owners, right_owners) = (owners(left, pool)?, owners(right, pool)?);
    found.records_of(Of::Source, pool, "owner", left_owners, right_owners);
    let about = |stem: Stem, entity: String| Some(Cause::Event { stem, entity });
    let keys = |reader: &Reader| {
        let mut keys = reader.keys(pool)?;
        keys.value.iter_mut().for_each(|key| key.since = Timestamp::default());
        let name = |key: &AccessKey| match &key.origin {
            KeyOrigin::Source { source, .. } => format!("{} of {source}", key.key_id),
            KeyOrigin::Target => key.key_id.to_string(),
        };
        let id = |name: &str| name.split(' ').next().unwrap_or_default().to_owned();
        records(Ok(keys), name, |name| about(Stem::Key, id(name)))
    };
    found.records(pool, "key", keys(left)?, keys(right)?);
    let volumes = |reader: &Reader| {
        placed(
            reader.volumes(pool),
            |volume| volume.volume.to_string(),
            |volume| {
                volume.stored_at = Timestamp::default();
                std::mem::take(&mut volume.place)
            },
        )
    };
    found.records(pool, "volume", volumes(left)?, volumes(right)?);
    let images = |reader: &Reader| {
        placed(
            reader.images(pool),
            |image| image.reference.clone(),
            |image| {
                image.stored_at = Timestamp::default();
                std::mem::take(&mut image.place)
            },
        )
    };
    found.records(pool, "image", images(left)?, images(right)?);
    let syncs = |reader: &Reader| {
        let answer = |id: &str| about(Stem::Resource, format!("sync/{id}"));
        records(reader.syncs(pool, RECORDS_MAX), |sync| sync.sync_id.clone(), answer)
    };
    found.records(pool, "sync", syncs(left)?, syncs(right)?);
    let confirmations = |reader: &Reader| {
        // A recheck has the id of what it checked, so a confirmation is named by its place.
        let confirmed = reader.confirmations(pool, RECORDS_MAX);
        placed(confirmed, |confirmed| confirmed.place.clone(), |confirmed| confirmed.place.clone())
    };
    found.records(pool, "confirmation", confirmations(left)?, confirmations(right)?);
    let paused = |reader: &Reader| -> Result<Option<Record>, StoreError> {
        let (stem, entity) = (Stem::Resource, pool.to_string());
        let cause = Cause::Fact { stem, entity, name: Some("schedule_paused") };
        Ok(Some((text(&reader.is_paused(pool)?.value), Some(cause))))
    };
    found.add(Of::Content, pool, "schedule paused", paused(left)?, paused(right)?);
    Ok(())
}

/// The owners of a pool; what wrote one last is its agent's last event, or nobody knows.
fn owners(reader: &Reader, pool: &PoolId) -> Result<Records, StoreError> {
    let named = |owner: Owner| {
        let of_agent =
            |agent: &AgentState| Cause::Event { stem: Stem::Agent, entity: agent.name.to_string() };
        let (name, cause) = (owner.source.clone(), owner.agent.as_ref().map(of_agent));
        (name, (text(&of_the_log(owner)), cause))
    };
    Ok(reader.owners(pool)?.value.into_iter().map(named).collect())
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
            let side = |row: Option<Row>| -> Db<Option<Record>> {
                row.map(|row| Ok((line(&row)?, Some(Cause::Place(row.place))))).transpose()
            };
            let (left_side, right_side) = (left.shown(side(left_row))?, right.shown(side(right_row))?);
            found.add(of, pool, &format!("row {key}"), left_side, right_side);
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
