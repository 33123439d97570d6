//! What a signed checkpoint says, and who remembers another one: the logs' marks with the hashes over the owners' rows,
//! all of one commit.

use std::collections::HashMap;

use bus_schema::{Hash32, PoolId, digest::RowsHasher, event::agent::CheckpointSeen};
use redb::ReadableTable;

use super::{Answer, Reader, pools};
use crate::{
    cell::Cell,
    error::StoreError,
    owner::Owner,
    snapshot::Snapshot,
    store::Position,
    tables::{self, Db, damaged},
};

/// Logs and owners at one commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Stand {
    /// Every log.
    pub logs: Vec<Position>,
    /// The owners that were asked for.
    pub owners: Vec<OwnerStand>,
}

/// What the pool has of an owner.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnerStand {
    /// The owner.
    pub owner: Owner,
    /// Its live resources.
    pub rows: u64,
    /// SHA-256 over them ([`RowsHasher`]).
    pub rows_sha256: Hash32,
}

/// An owner whose last heartbeat names a checkpoint that is not the target's.
#[derive(Clone, Debug, PartialEq)]
pub struct Contradiction {
    /// The owner's pool.
    pub pool: PoolId,
    /// The owner.
    pub owner: String,
    /// What it was told.
    pub seen: CheckpointSeen,
    /// The hash of the checkpoint that has this number here; none = there is none.
    pub known: Option<Hash32>,
    /// The number of the last checkpoint here; 0 = there is none.
    pub last: u64,
}

impl Reader {
    /// The logs, and of the owners those that `choose` picks, with the hashes over their rows, at one commit. Reads the
    /// rows of every pool that has such an owner: a million takes about a second, in which the file keeps what is
    /// written over.
    pub fn stand(&self, choose: impl FnOnce(&[Owner]) -> Vec<bool>) -> Result<Stand, StoreError> {
        let answer = self.ask(|snapshot| {
            let logs = snapshot.logs().iter().map(|(stream, state)| state.position(stream)).collect();
            let (numbers, owners): (Vec<_>, Vec<_>) = owners(snapshot)?.into_iter().unzip();
            let chosen = choose(&owners);
            let picked = numbers.into_iter().zip(owners).zip(chosen).filter(|(_, is_chosen)| *is_chosen);
            let mut by_pool: HashMap<PoolId, Vec<(u32, Owner)>> = HashMap::new();
            for ((number, owner), _) in picked {
                by_pool.entry(owner.pool.clone()).or_default().push((number, owner));
            }
            let mut owners = Vec::new();
            for (pool, of_pool) in by_pool {
                owners.extend(hashed(snapshot, &pool, of_pool)?);
            }
            owners.sort_by(|left, right| {
                let key = |stand: &OwnerStand| (stand.owner.pool.clone(), stand.owner.source.clone());
                key(left).cmp(&key(right))
            });
            Ok(Stand { logs, owners })
        })?;
        Ok(answer.value)
    }

    /// The owners that were told another checkpoint of this target than the one that stands in its log, or one behind
    /// the last: the log was changed, or has lost its end. A pool that has not read the target log to its end lacks
    /// what others know, see `as_of`.
    pub fn contradictions(
        &self,
        target: &bus_schema::Name,
    ) -> Result<Answer<Vec<Contradiction>>, StoreError> {
        self.ask(|snapshot| {
            let table = snapshot.open_table(tables::CHECKPOINTS)?;
            let last = table.last()?.map_or(0, |(number, _)| number.value());
            let mut found = Vec::new();
            for (_, owner) in owners(snapshot)? {
                let Owner { pool, source, last_heartbeat, .. } = owner;
                let seen = last_heartbeat.and_then(|beat| beat.checkpoint);
                let Some(seen) = seen.filter(|seen| seen.target == *target) else { continue };
                let known = table.get(seen.number)?.map(|hash| Hash32(hash.value()));
                if known != Some(seen.hash) {
                    found.push(Contradiction { pool, owner: source, seen, known, last });
                }
            }
            Ok(found)
        })
    }
}

/// Every owner of every pool, each with its number in its pool.
fn owners(snapshot: &Snapshot) -> Db<Vec<(u32, Owner)>> {
    let mut all = Vec::new();
    for entry in snapshot.open_table(tables::POOLS)?.iter()? {
        let (name, _) = entry?;
        let pool = name.value().parse().map_err(|_| damaged("a pool's name"))?;
        all.extend(pools::owners(snapshot, &pool)?.into_iter().map(|record| (record.number, record.owner)));
    }
    Ok(all)
}

/// Hashes the rows of some owners of a pool: one walk in order of the keys serves all of them.
fn hashed(snapshot: &Snapshot, pool: &PoolId, of_pool: Vec<(u32, Owner)>) -> Db<Vec<OwnerStand>> {
    let mut hashers: HashMap<u32, RowsHasher> = HashMap::new();
    of_pool.iter().for_each(|(number, _)| drop(hashers.insert(*number, RowsHasher::default())));
    if let Some(pool) = snapshot.pool(pool)? {
        for entry in pool.rows.iter()? {
            let (key, stored) = entry?;
            let cell = Cell::read(stored.value())?;
            let Some(hasher) = hashers.get_mut(&cell.head.owner) else { continue };
            if let Some((revision, state_hash)) = cell.current()? {
                *hasher = std::mem::take(hasher).row(key.value(), revision, &state_hash);
            }
        }
    }
    let stands = of_pool.into_iter().map(|(number, owner)| {
        let (rows, rows_sha256) = hashers.remove(&number).unwrap_or_default().finish();
        OwnerStand { owner, rows, rows_sha256 }
    });
    Ok(stands.collect())
}
