//! The digest of an owner, for the descent to what differs. Levels below the stored leaves are made by
//! a scan of the owner's rows.

use std::collections::BTreeMap;

use bus_schema::{
    PoolId,
    command::resource::NODES_MAX,
    digest::{Address, DEPTH_MAX, Digest, Node, width},
};
use redb::ReadableTable;

use super::{Answer, DigestItem, DigestItems, DigestNodes, Reader, pools};
use crate::{
    cell::Cell,
    commit::OwnerRecord,
    error::StoreError,
    leaves::{self, FRAME},
    owner::Owner,
    snapshot::{Pool, Snapshot},
    tables::{Db, damaged},
};

/// The digest of an owner that has no resources.
const NOTHING: Digest = Digest { root: Node(0), count: 0 };

impl Reader {
    /// Nodes of an owner's digest at `depth` (at most 6): the descendants of the nodes `below` at depth
    /// `above`, in that order; all of the level when `below` is empty. An owner that is unknown has nothing.
    /// Errors: more than [`NODES_MAX`] nodes.
    pub fn digest_nodes(
        &self,
        pool: &PoolId,
        source: &str,
        depth: u8,
        above: u8,
        below: &[u32],
    ) -> Result<Answer<DigestNodes>, StoreError> {
        let depth = depth.min(DEPTH_MAX);
        let ancestors = ancestors(above.min(depth), below);
        let each = width(depth - above.min(depth));
        let wanted = ancestors.len().saturating_mul(each);
        if wanted > NODES_MAX {
            return Err(StoreError::TooManyNodes { wanted, max: NODES_MAX });
        }
        let numbers =
            || ancestors.iter().flat_map(|ancestor| (0..each).map(|i| *ancestor as usize * each + i));
        self.ask(|snapshot| {
            let Some((record, pool)) = pools::owner(snapshot, pool, source)? else {
                let nodes = vec![Node::default(); wanted];
                return Ok(DigestNodes { at: None, digest: NOTHING, nodes });
            };
            let nodes = if depth > record.depth {
                let level = scanned_level(&pool, &record, depth)?;
                numbers().map(|number| level.get(&(number as u32)).copied().unwrap_or_default()).collect()
            } else {
                let level = stored_level(snapshot, &pool, &record, depth)?;
                numbers().map(|number| level.get(number).copied().unwrap_or_default()).collect()
            };
            let Owner { at, digest, .. } = record.owner;
            Ok(DigestNodes { at, digest, nodes })
        })
    }

    /// The items below the nodes `below` at depth `above`; all items when `below` is empty.
    /// An owner that is unknown has nothing.
    pub fn digest_items(
        &self,
        pool: &PoolId,
        source: &str,
        above: u8,
        below: &[u32],
    ) -> Result<Answer<DigestItems>, StoreError> {
        let above = above.min(DEPTH_MAX);
        self.ask(|snapshot| {
            let Some((record, pool)) = pools::owner(snapshot, pool, source)? else {
                return Ok(DigestItems { at: None, digest: NOTHING, items: Vec::new() });
            };
            let mut items = Vec::new();
            each_item(&pool, record.number, |key, address, item| {
                if below.is_empty() || below.contains(&address.node(above)) {
                    let key = key.parse().map_err(|_| damaged("a row"))?;
                    items.push(DigestItem { key, address, item });
                }
                Ok(())
            })?;
            items.sort_by(|left, right| (left.address, &left.key).cmp(&(right.address, &right.key)));
            let Owner { at, digest, .. } = record.owner;
            Ok(DigestItems { at, digest, items })
        })
    }
}

fn ancestors(above: u8, below: &[u32]) -> Vec<u32> {
    if below.is_empty() { (0..width(above) as u32).collect() } else { below.to_vec() }
}

/// All nodes of a level that is not below the stored leaves.
fn stored_level(snapshot: &Snapshot, pool: &Pool, record: &OwnerRecord, depth: u8) -> Db<Vec<Node>> {
    let mut level = vec![Node::default(); width(depth)];
    let below = width(record.depth - depth);
    let number = record.number;
    for entry in snapshot.open_table(pool.names.leaves())?.range((number, 0)..=(number, u32::MAX))? {
        let (at, stored) = entry?;
        let first = at.value().1 as usize * FRAME;
        for (i, leaf) in leaves::frame(stored.value())?.into_iter().enumerate() {
            if let Some(node) = level.get_mut((first + i) / below) {
                node.toggle(leaf);
            }
        }
    }
    Ok(level)
}

/// The nodes of a level below the stored leaves that are not empty.
fn scanned_level(pool: &Pool, record: &OwnerRecord, depth: u8) -> Db<BTreeMap<u32, Node>> {
    let mut level: BTreeMap<u32, Node> = BTreeMap::new();
    each_item(pool, record.number, |_, address, item| {
        level.entry(address.node(depth)).or_default().toggle(item);
        Ok(())
    })?;
    Ok(level)
}

/// Every live row of an owner, as its digest sees it.
fn each_item(pool: &Pool, number: u32, mut with: impl FnMut(&str, Address, Node) -> Db<()>) -> Db<()> {
    for entry in pool.rows.iter()? {
        let (key, stored) = entry?;
        let cell = Cell::read(stored.value())?;
        if cell.head.owner == number && cell.is_live() {
            with(key.value(), Address::of(key.value()), cell.head.item)?;
        }
    }
    Ok(())
}
