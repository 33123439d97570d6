//! The descent through the digest: which resources differ, in a few small messages instead of all of them.
//!
//! Level by level both sides' nodes are compared, and only below those that differ the next level is
//! asked for; at the leaves, the items. What only the pool has, and what both have differently, is known
//! by its key; what only the source has, by its short address.
//!
//! Most of an owner's rows being only in the pool is no difference to mend key by key: an agent that lost its
//! ledger and sees an empty folder looks so. Then everything is asked for, whose end is guarded.
//!
//! The source goes on changing meanwhile: a difference that is no more costs one resource sent in vain.

use std::{collections::BTreeMap, time::Duration};

use bus_schema::{
    Source,
    command::resource::{DIGEST, DigestReply, DigestRequest},
    digest::{DEPTH_MIN, FANOUT, depth_for, width},
};
use projector::{DigestItem, Owner};

use super::{
    ports::{Pool, Ports, ask},
    state::{Descended, Differing},
};

/// Most differing resources that are asked for one by one; above, everything is cheaper than the requests.
pub const DIFFERING_MAX: usize = 10_000;
/// Most nodes that one round asks for: 24 KiB, so a step may skip levels while few nodes differ.
const NODES_A_ROUND_MAX: usize = 4_096;
/// Most items that one round asks for: 768 KiB in base64, less where NATS takes smaller messages. Both sides
/// look at every resource that they have for each round, so there shall be few.
const ITEMS_A_ROUND_MAX: usize = 49_152;
/// Bytes of an answer beside its items, and of what chance puts into some leaves more than into others.
const ANSWER_ROOM: usize = 32 << 10;
/// How long the pool may lag behind an answer before the comparison goes on anyway.
const CATCH_UP_WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of a node on the wire.
const NODE_BYTES: usize = 6;
/// Bytes of an item on the wire: its address and itself.
const ITEM_BYTES: usize = 12;

/// What a descent cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests and answers.
    pub rounds: u32,
    /// Bytes of the requests and of the answers.
    pub bytes: u64,
}

/// Compares the pool's digest of an owner with the owner's own.
pub async fn descend<P: Ports>(ports: &P, owner: &Source, wait: Duration) -> (Descended, Cost) {
    let mut descent = Descent { ports, owner, wait, cost: Cost::default(), rows: 0 };
    let outcome = descent.run().await.unwrap_or_else(Descended::Failed);
    let Cost { rounds, bytes } = descent.cost;
    match &outcome {
        Descended::Differ(differing, conflict) => {
            tracing::info!(%owner, differing = differing.len(), conflict, rounds, bytes, "digests compared");
        }
        outcome => tracing::info!(%owner, ?outcome, rounds, bytes, "digests compared"),
    }
    (outcome, descent.cost)
}

struct Descent<'a, P> {
    ports: &'a P,
    owner: &'a Source,
    wait: Duration,
    cost: Cost,
    /// Live rows that the pool has of the owner.
    rows: u64,
}

/// What two sides have differently.
#[derive(Default)]
struct Found {
    differing: Differing,
    /// How many of these only the pool has: the source would answer that they are deleted.
    only_ours: u64,
}

impl<P: Ports> Descent<'_, P> {
    async fn run(&mut self) -> Result<Descended, String> {
        let (mut depth, mut above, mut numbers) = (DEPTH_MIN, 0, Vec::new());
        let (leaves, count) = loop {
            let theirs = self.ask(depth, above, &numbers, false).await?;
            let ours = self.ports.pool().digest_nodes(self.owner, depth, above, &numbers).await?;
            self.rows = ours.digest.count;
            if ours.digest == theirs.digest {
                return Ok(Descended::Equal);
            }
            let leaf_depth = depth_for(ours.digest.count.min(theirs.digest.count));
            let ours: Vec<u64> = ours.nodes.iter().map(|node| node.short()).collect();
            let differing =
                differing_nodes(&ours, &numbers_of(&theirs.frame, NODE_BYTES)?, depth - above, &numbers)?;
            if differing.len() > DIFFERING_MAX {
                return Ok(Descended::TooMuch);
            }
            if depth >= leaf_depth {
                break (differing, self.rows.max(theirs.digest.count));
            }
            above = depth;
            depth = next_depth(depth, leaf_depth, differing.len());
            numbers = differing;
        };
        let mut found = Found::default();
        let items_max = items_a_round(self.ports.payload_bytes_max());
        for some in leaves.chunks(leaves_a_round(depth, count, items_max)) {
            self.items(depth, some, &mut found).await?;
        }
        // What stands side by side by its key often does so in the source, which reads each of its files or
        // pages once for a request.
        found.differing.keys.sort_unstable();
        let differing = found.differing.len();
        if differing == 0 {
            return Ok(Descended::Equal);
        }
        // Named one by one they would be deleted one by one; a full answer passes the guard.
        let harmless = projector::is_harmless(found.only_ours, self.rows);
        if differing > DIFFERING_MAX || !harmless {
            return Ok(Descended::TooMuch);
        }
        let conflict = self.conflict(depth, &leaves, &mut found.differing.addresses).await?;
        Ok(Descended::Differ(found.differing, conflict))
    }

    /// Takes out what another agent of the pool states, too, and says so: a row belongs to whoever stated it
    /// last, so each of the two would get it back for ever.
    async fn conflict(
        &self,
        above: u8,
        leaves: &[u32],
        addresses: &mut Vec<u64>,
    ) -> Result<Option<String>, String> {
        if addresses.is_empty() {
            return Ok(None);
        }
        let owners = self.ports.pool().owners(&self.owner.pool).map_err(|error| error.to_string())?;
        let others = owners.iter().filter_map(Owner::askable).filter(|other| other != self.owner);
        let mut conflicts: Vec<String> = Vec::new();
        for other in others {
            let theirs = self.ports.pool().digest_items(&other, above, leaves).await?;
            for item in theirs.items {
                let before = addresses.len();
                addresses.retain(|address| *address != item.address.short());
                if addresses.len() < before {
                    conflicts.push(format!("{} ({other})", item.key));
                }
            }
        }
        let Some(first) = conflicts.first() else { return Ok(None) };
        Ok(Some(format!(
            "{} resources are stated by another agent of this pool, too, like {first}: each belongs to whoever states it last; give the two sources different kinds or ids, or stop one of them",
            conflicts.len()
        )))
    }

    async fn items(&mut self, above: u8, leaves: &[u32], found: &mut Found) -> Result<(), String> {
        let theirs = self.ask(above, above, leaves, true).await?;
        let ours = self.ports.pool().digest_items(self.owner, above, leaves).await?;
        let numbers = numbers_of(&theirs.frame, NODE_BYTES)?;
        let theirs = numbers.chunks_exact(ITEM_BYTES / NODE_BYTES).filter_map(|pair| match pair {
            [address, item] => Some((*address, *item)),
            _ => None,
        });
        differing_items(&ours.items, theirs, found);
        Ok(())
    }

    async fn ask(&mut self, depth: u8, above: u8, below: &[u32], items: bool) -> Result<DigestReply, String> {
        let agent = self.owner.agent.clone();
        let command = DigestRequest { agent, depth, below: below.to_vec(), above, items };
        let reply: DigestReply =
            ask(self.ports, &self.owner.pool, DIGEST, &command, self.wait).await.map_err(|e| e.0)?;
        self.cost.rounds += 1;
        let sent = serde_json::to_vec(&command).map_or(0, |text| text.len());
        self.cost.bytes += (sent + reply.frame.len()) as u64;
        self.caught_up(&reply).await;
        Ok(reply)
    }

    /// Waits until the pool has what the owner had when it answered.
    async fn caught_up(&self, reply: &DigestReply) {
        let (pool, source) = (self.ports.pool(), self.owner.to_string());
        let passed = || {
            let at = pool.owner(&self.owner.pool, &source).ok()??.at?;
            (at.epoch == reply.at.epoch && at.seq >= reply.at.seq).then_some(())
        };
        if pool.progress().until(CATCH_UP_WAIT_MAX, passed).await.is_none() {
            tracing::debug!(owner = source, "compare digests although the pool lags behind");
        }
    }
}

/// 48-bit numbers, big-endian, from a frame of base64.
fn numbers_of(frame: &str, bytes: usize) -> Result<Vec<u64>, String> {
    let decoded = data_encoding::BASE64
        .decode(frame.as_bytes())
        .map_err(|e| format!("the agent's digest frame is not base64: {e}; is it of another version?"))?;
    Ok(decoded
        .chunks_exact(bytes)
        .map(|number| number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
        .collect())
}

/// The numbers of the nodes that differ: descendants, `levels` deeper, of the nodes `below`, in order; of
/// the whole level when `below` is empty.
fn differing_nodes(ours: &[u64], theirs: &[u64], levels: u8, below: &[u32]) -> Result<Vec<u32>, String> {
    if ours.len() != theirs.len() {
        return Err(format!(
            "the agent sent {} nodes where {} were asked for; is it of another version?",
            theirs.len(),
            ours.len()
        ));
    }
    let children = FANOUT.pow(u32::from(levels));
    let number = |index: usize| match below.get(index / children) {
        Some(parent) => *parent as usize * children + index % children,
        None => index,
    };
    let differing = ours.iter().zip(theirs).enumerate().filter(|(_, (one, other))| one != other);
    differing
        .map(|(index, _)| u32::try_from(number(index)).map_err(|_| "a node's number is too large".to_owned()))
        .collect()
}

/// As deep as one round can go below so many nodes; at least one level.
fn next_depth(depth: u8, leaf_depth: u8, differing: usize) -> u8 {
    let fits = |depth_next: &u8| differing * FANOUT.pow(u32::from(depth_next - depth)) <= NODES_A_ROUND_MAX;
    (depth + 1..=leaf_depth).take_while(fits).last().unwrap_or(depth + 1)
}

/// How many items, in base64, fit a message of so many bytes.
fn items_a_round(payload_bytes_max: usize) -> usize {
    let bytes = payload_bytes_max.saturating_sub(ANSWER_ROOM) / 4 * 3;
    (bytes / ITEM_BYTES).clamp(1, ITEMS_A_ROUND_MAX)
}

/// How many leaves, one of so many resources as the other, have as many items as one round may ask for.
fn leaves_a_round(depth: u8, count: u64, items_max: usize) -> usize {
    let all = width(depth) as u64;
    (items_max as u64 * all / count.max(1)).clamp(1, all) as usize
}

/// Sorts out which items differ. `theirs` are short addresses and short items.
fn differing_items(ours: &[DigestItem], theirs: impl Iterator<Item = (u64, u64)>, found: &mut Found) {
    let mut ours: BTreeMap<u64, &DigestItem> = ours.iter().map(|item| (item.address.short(), item)).collect();
    for (address, item) in theirs {
        match ours.remove(&address) {
            Some(our) if our.item.short() == item => {}
            Some(our) => found.differing.keys.push(our.key.clone()),
            None => found.differing.addresses.push(address),
        }
    }
    found.only_ours += ours.len() as u64;
    found.differing.keys.extend(ours.into_values().map(|only_ours| only_ours.key.clone()));
}

#[cfg(test)]
mod tests {
    use bus_schema::{
        Hash32,
        digest::{Address, item},
    };

    use super::*;

    fn resource(key: &str, revision: &str) -> DigestItem {
        let hash = Hash32::of(revision.as_bytes());
        DigestItem { key: key.parse().unwrap(), address: Address::of(key), item: item(key, revision, &hash) }
    }

    #[test]
    fn items_are_sorted_out_by_who_has_them() {
        let ours = [resource("Pod/same", "1"), resource("Pod/changed", "1"), resource("Pod/gone", "1")];
        let theirs = [resource("Pod/same", "1"), resource("Pod/changed", "2"), resource("Pod/new", "1")];
        let mut found = Found::default();
        differing_items(&ours, theirs.iter().map(|i| (i.address.short(), i.item.short())), &mut found);
        assert_eq!(found.only_ours, 1);
        assert_eq!(found.differing.keys, ["Pod/changed", "Pod/gone"].map(|key| key.parse().unwrap()));
        assert_eq!(found.differing.addresses, [Address::of("Pod/new").short()]);
    }

    #[test]
    fn nodes_are_numbered_by_their_parents() {
        let mut theirs = vec![0; 32];
        theirs[3] = 1;
        theirs[17] = 1;
        assert_eq!(differing_nodes(&[0; 32], &theirs, 1, &[5, 9]).unwrap(), [5 * 16 + 3, 9 * 16 + 1]);
        assert_eq!(differing_nodes(&[0; 32], &theirs, 1, &[]).unwrap(), [3, 17]);
        assert!(differing_nodes(&[0; 16], &theirs, 1, &[5]).unwrap_err().contains("32 nodes"));
    }

    #[test]
    fn few_differences_skip_levels_and_many_do_not() {
        assert_eq!(next_depth(2, 4, 1), 4);
        assert_eq!(next_depth(2, 4, 83), 3);
        assert_eq!(next_depth(3, 4, 5_000), 4, "one level at least");
    }

    #[test]
    fn a_nats_that_takes_smaller_messages_is_asked_for_less_in_more_rounds() {
        assert_eq!(items_a_round(1 << 20), ITEMS_A_ROUND_MAX);
        assert_eq!(items_a_round(512 << 10), 30_720);
        assert_eq!(items_a_round(1_000), 1);
    }

    #[test]
    fn a_round_asks_for_as_many_leaves_as_fit_one_message() {
        assert_eq!(
            leaves_a_round(4, 1_000_000, ITEMS_A_ROUND_MAX),
            3_221,
            "ten thousand differences in four rounds"
        );
        assert_eq!(leaves_a_round(4, 100_000, ITEMS_A_ROUND_MAX), 32_212);
        assert_eq!(leaves_a_round(2, 100, ITEMS_A_ROUND_MAX), 256, "all that there are");
        assert_eq!(
            leaves_a_round(2, 100_000, ITEMS_A_ROUND_MAX),
            125,
            "the other side has many more: full leaves"
        );
        assert_eq!(leaves_a_round(2, u64::MAX, ITEMS_A_ROUND_MAX), 1);
    }

    #[test]
    fn a_frame_that_is_not_base64_is_an_error() {
        assert_eq!(numbers_of("AAAAAAAB", 6).unwrap(), [1]);
        assert!(numbers_of("###", 6).is_err());
    }
}
