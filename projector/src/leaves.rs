//! The leaves of the digest tries of one pool's owners, in frames of one page each.
//! Only leaves are stored; upper nodes are sums, made on demand.

use std::collections::HashMap;

use bus_schema::digest::{Address, Node, width};
use redb::{ReadableTable, Table};

use crate::tables::{Db, damaged};

/// Leaves in a frame: 4 KiB.
pub(crate) const FRAME: usize = 256;

type Frame = [Node; FRAME];

/// The leaves that a transaction touches.
pub(crate) struct Leaves<'t> {
    table: Table<'t, (u32, u32), &'static [u8]>,
    frames: HashMap<(u32, u32), Box<Frame>>,
}

impl<'t> Leaves<'t> {
    /// No leaf is touched yet.
    pub(crate) fn new(table: Table<'t, (u32, u32), &'static [u8]>) -> Self {
        Self { table, frames: HashMap::new() }
    }

    /// Adds an item of an owner, or takes it out again.
    pub(crate) fn toggle(&mut self, owner: u32, depth: u8, address: Address, item: Node) -> Db<()> {
        let leaf = address.node(depth) as usize;
        let at = (owner, (leaf / FRAME) as u32);
        let frame = match self.frames.entry(at) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => {
                let stored = self.table.get(at)?;
                let frame = match &stored {
                    None => [Node::default(); FRAME],
                    Some(bytes) => frame(bytes.value())?,
                };
                unknown.insert(Box::new(frame))
            }
        };
        frame[leaf % FRAME].toggle(item);
        Ok(())
    }

    /// Replaces all leaves of an owner by those of a trie of `depth`.
    pub(crate) fn rebuild(
        &mut self,
        owner: u32,
        depth: u8,
        items: impl Iterator<Item = Db<(Address, Node)>>,
    ) -> Db<()> {
        let mut leaves = vec![Node::default(); width(depth)];
        for item in items {
            let (address, item) = item?;
            leaves[address.node(depth) as usize].toggle(item);
        }
        self.frames.retain(|(of, _), _| *of != owner);
        for (number, chunk) in leaves.as_chunks::<FRAME>().0.iter().enumerate() {
            self.table.insert((owner, number as u32), bytes(chunk).as_slice())?;
        }
        Ok(())
    }

    /// Writes what was touched.
    pub(crate) fn flush(&mut self) -> Db<()> {
        let mut frames: Vec<_> = self.frames.drain().collect();
        frames.sort_unstable_by_key(|(at, _)| *at);
        for (at, frame) in frames {
            self.table.insert(at, bytes(&frame).as_slice())?;
        }
        Ok(())
    }
}

/// Reads one frame.
pub(crate) fn frame(stored: &[u8]) -> Db<Frame> {
    let (nodes, rest) = stored.as_chunks::<16>();
    if nodes.len() != FRAME || !rest.is_empty() {
        return Err(damaged("a digest frame"));
    }
    Ok(std::array::from_fn(|i| Node(u128::from_le_bytes(nodes[i]))))
}

fn bytes(frame: &Frame) -> Vec<u8> {
    frame.iter().flat_map(|node| node.0.to_le_bytes()).collect()
}
