//! The tables of the file. `docs/decisions/0003-pool-layout.md` says why each pool has its own.

use redb::TableDefinition;

/// The format that this build writes; it reads no other one.
pub(crate) const FORMAT: u64 = 6;

/// Numbers of the store itself, see the `META_*` keys.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The file's format.
pub(crate) const META_FORMAT: &str = "format";
/// The number that the next pool gets.
pub(crate) const META_NEXT_POOL: &str = "next_pool";
/// The id that the next entry of the outbox gets.
pub(crate) const META_NEXT_PENDING: &str = "next_pending";

/// How many messages of [`PARKED`] were not taken in again.
pub(crate) const META_PARKED: &str = "parked";
/// Whether what the target log says of parked messages is in [`PARKED`]: absent = not yet.
pub(crate) const META_RECALLED: &str = "recalled";

/// Stream name → [`crate::log::LogState`].
pub(crate) const LOGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("logs");
/// Number of a log and of a frame → [`crate::seals::FRAME`] seals of its messages.
pub(crate) const SEALS: TableDefinition<'_, (u16, u32), &[u8]> = TableDefinition::new("seals");
/// `site/cluster` → [`crate::commit::PoolState`].
pub(crate) const POOLS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("pools");
/// The outbox, by id.
pub(crate) const PENDING: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("pending");
/// Name of an outbox entry → its id.
pub(crate) const PENDING_NAMES: TableDefinition<'_, &str, u64> = TableDefinition::new("pending_names");
/// Names of outbox entries whose fact is in the target log: a replay does not state them again.
pub(crate) const STATED: TableDefinition<'_, &str, ()> = TableDefinition::new("stated");
/// Stream and sequence of every message that could not be taken in → [`crate::ParkedRecord`]. None is ever forgotten:
/// a copy of it that comes again must change nothing.
pub(crate) const PARKED: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("parked");
/// Stream and sequence of a message of [`PARKED`] → itself, see [`crate::commit::originals`]. A table of its own, so that
/// lists of what is parked read no bodies.
pub(crate) const ORIGINALS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("originals");
/// Stream → how many bytes [`ORIGINALS`] holds of it.
pub(crate) const ORIGINALS_BYTES: TableDefinition<'_, &str, u64> = TableDefinition::new("originals_bytes");
/// Key id and origin (`site/cluster source`, or empty for the target) → access key.
pub(crate) const KEYS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("keys");
/// Key id and source of an announced key that a person revoked for good → when, in ms. Of the target log alone, and
/// looked at when a key is asked for: so it does not matter in which order the logs are read, nor what the source
/// announces again.
pub(crate) const REVOKED: TableDefinition<'_, (&str, &str), i64> = TableDefinition::new("revoked_keys");
/// Key id and origin of a key that its source withdrew although nobody had heard of it → when, in ms: the event that
/// announced it is missing, and must change nothing when it comes after all.
pub(crate) const WITHDRAWN: TableDefinition<'_, (&str, &str), i64> = TableDefinition::new("withdrawn_keys");
/// Level-1 tenant that a person removed and nobody has created since → when, in ms.
pub(crate) const REMOVED: TableDefinition<'_, &str, i64> = TableDefinition::new("removed_tenants");
/// Tenant → its state.
pub(crate) const TENANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tenants");
/// Pools whose schedule is paused.
pub(crate) const PAUSED: TableDefinition<'_, &str, ()> = TableDefinition::new("paused");
/// Pool and number → confirmation.
pub(crate) const CONFIRMATIONS: TableDefinition<'_, (&str, u64), &[u8]> =
    TableDefinition::new("confirmations");
/// Pool and number → sync.
pub(crate) const SYNCS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("syncs");
/// Pool and sync id → number.
pub(crate) const SYNC_IDS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("sync_ids");
/// Pool and owner → when the last first request to it was stated, in ms.
pub(crate) const FIRST_REQUESTS: TableDefinition<'_, (&str, &str), i64> =
    TableDefinition::new("first_requests");
/// Number → fact about a log.
pub(crate) const LOG_FACTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log_facts");
/// Number of a checkpoint → its hash.
pub(crate) const CHECKPOINTS: TableDefinition<'_, u64, [u8; 32]> = TableDefinition::new("checkpoints");
/// Name and entity of a fact that comes again and again → the last one, as in [`LOG_FACTS`].
pub(crate) const LATEST: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("latest_facts");
/// What a log lost, by the name of the damage → [`crate::records::DamageRecord`]. Of the target log alone.
pub(crate) const DAMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("damages");
/// Pool, owner and sync id of window closes that a person let pass.
pub(crate) const EMPTY_CONFIRMED: TableDefinition<'_, (&str, &str, &str), ()> =
    TableDefinition::new("empty_confirmed");

/// The names of one pool's tables.
pub(crate) struct PoolTables {
    names: [String; POOL_TABLES.len()],
}

const POOL_TABLES: [&str; 15] = [
    "rows",
    "labels",
    "tenant_rows",
    "owner_rows",
    "stale",
    "stale_order",
    "owners",
    "owner_names",
    "leaves",
    "recent",
    "volumes",
    "images",
    "retired",
    "holes",
    "buried",
];

impl PoolTables {
    /// The names of the pool with this number.
    pub(crate) fn new(number: u64) -> Self {
        Self { names: POOL_TABLES.map(|table| format!("p{number}.{table}")) }
    }

    /// Every name.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Resource key → row, see [`crate::cell`]. The key starts with the kind, so a kind is a range.
    pub(crate) fn rows(&self) -> TableDefinition<'_, &'static str, &'static [u8]> {
        TableDefinition::new(&self.names[0])
    }

    /// Label name, value and resource key.
    pub(crate) fn labels(&self) -> TableDefinition<'_, (&'static str, &'static str, &'static str), ()> {
        TableDefinition::new(&self.names[1])
    }

    /// Tenant and resource key.
    pub(crate) fn tenant_rows(&self) -> TableDefinition<'_, (&'static str, &'static str), ()> {
        TableDefinition::new(&self.names[2])
    }

    /// Owner number and resource key.
    pub(crate) fn owner_rows(&self) -> TableDefinition<'_, (u32, &'static str), ()> {
        TableDefinition::new(&self.names[3])
    }

    /// Resource key of a stale row → owner number and since when.
    pub(crate) fn stale(&self) -> TableDefinition<'_, &'static str, (u32, i64)> {
        TableDefinition::new(&self.names[4])
    }

    /// Owner number, since when, resource key: the first entry of an owner has waited longest.
    pub(crate) fn stale_order(&self) -> TableDefinition<'_, (u32, i64, &'static str), ()> {
        TableDefinition::new(&self.names[5])
    }

    /// Source → owner.
    pub(crate) fn owners(&self) -> TableDefinition<'_, &'static str, &'static [u8]> {
        TableDefinition::new(&self.names[6])
    }

    /// Owner number → source.
    pub(crate) fn owner_names(&self) -> TableDefinition<'_, u32, &'static str> {
        TableDefinition::new(&self.names[7])
    }

    /// Owner number and frame number → [`crate::leaves::FRAME`] leaves of its digest.
    pub(crate) fn leaves(&self) -> TableDefinition<'_, (u32, u32), &'static [u8]> {
        TableDefinition::new(&self.names[8])
    }

    /// Owner number and chain sequence → the first 64 bits of the event's hash.
    pub(crate) fn recent(&self) -> TableDefinition<'_, (u32, u64), u64> {
        TableDefinition::new(&self.names[9])
    }

    /// Volume name → its failed extents.
    pub(crate) fn volumes(&self) -> TableDefinition<'_, &'static str, &'static [u8]> {
        TableDefinition::new(&self.names[10])
    }

    /// Image reference → its entry.
    pub(crate) fn images(&self) -> TableDefinition<'_, &'static str, &'static [u8]> {
        TableDefinition::new(&self.names[11])
    }

    /// Owner number and epoch that is over → its last event that was taken in. The newest ones of an owner stand in
    /// its record.
    pub(crate) fn retired(&self) -> TableDefinition<'_, (u32, u64), u64> {
        TableDefinition::new(&self.names[12])
    }

    /// Owner number, epoch and the place before it → a stretch of the chain that the log lacks.
    pub(crate) fn holes(&self) -> TableDefinition<'_, (u32, u64, u64), &'static [u8]> {
        TableDefinition::new(&self.names[13])
    }

    /// Resource key, number of a log and sequence of the end of a full answer that did not have it: what the entity's own
    /// subject does not tell of its deletions.
    pub(crate) fn buried(&self) -> TableDefinition<'_, (&'static str, u16, u64), ()> {
        TableDefinition::new(&self.names[14])
    }
}

/// Whether an origin in [`KEYS`] is a source of this pool. A pool's name has no blank.
pub(crate) fn is_of_pool(origin: &str, pool: &str) -> bool {
    origin.split_once(' ').is_some_and(|(of, _)| of == pool)
}

/// A result of work on the tables; [`crate::Store`] turns the error into one that says what to do.
pub(crate) type Db<T> = Result<T, redb::Error>;

/// What is in the file is not what this build writes.
pub(crate) fn damaged(what: &str) -> redb::Error {
    redb::Error::Corrupted(format!("{what} cannot be read"))
}

/// Reads a record that is kept as JSON.
pub(crate) fn read_json<'a, T: serde::Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Db<T> {
    serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(format!("{what}: {error}")))
}

/// Writes a record as JSON.
pub(crate) fn write_json<T: serde::Serialize>(record: &T) -> Db<Vec<u8>> {
    serde_json::to_vec(record).map_err(|error| redb::Error::Corrupted(format!("a record: {error}")))
}

/// Writes a record as JSON behind its length, and a body behind it.
pub(crate) fn write_with_body<T: serde::Serialize>(record: &T, body: &[u8]) -> Db<Vec<u8>> {
    let record = write_json(record)?;
    let length = record.len() as u32;
    Ok([&length.to_le_bytes()[..], &record, body].concat())
}

/// Reads what [`write_with_body`] wrote.
pub(crate) fn read_with_body<'a, T: serde::Deserialize<'a>>(
    what: &str,
    stored: &'a [u8],
) -> Db<(T, &'a [u8])> {
    let parts = stored.split_first_chunk::<4>();
    let parts = parts.and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
    let (record, body) = parts.ok_or_else(|| damaged(what))?;
    Ok((read_json(what, record)?, body))
}
