//! The digest of an owner's resources: a hash trie whose root says whether two parties hold the same,
//! and whose nodes find the differences in a few small messages. Agent and projector keep the same one.
//!
//! * An *item* is one live resource: H(key, revision, state hash), cut to 128 bits.
//! * Its *address* is SHA-256 of its key; the first `d` hex digits of it name the leaf at depth `d`.
//! * A *node* is the XOR of all items below it, so a node of any depth is a sum of deeper ones, an
//!   insertion and a removal are the same operation, and the order of changes does not matter.
//! * The depth grows with the number of items so that a leaf holds about sixteen.
//!
//! XOR finds differences; it does not prove their absence against someone who forges: a signed
//! checkpoint (SHA-256 over the sorted rows) does that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    hash::{FieldHasher, Hash32},
    text::{decimal, text_form},
};

/// Children of a node: one per hex digit.
pub const FANOUT: usize = 16;
/// The least depth: 256 leaves are one 4 KiB frame.
pub const DEPTH_MIN: u8 = 2;
/// The greatest depth: 16^6 leaves hold 268 M items at sixteen each.
pub const DEPTH_MAX: u8 = 6;
/// A trie grows by one level when its leaves hold more than this many items on average.
pub const ITEMS_PER_LEAF_MAX: u64 = 16;

/// The XOR of some items; as text, 32 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Node(pub u128);

impl Node {
    /// Adds an item, or takes it out again.
    pub fn toggle(&mut self, item: Self) {
        self.0 ^= item.0;
    }

    /// The first 48 bits: what travels when two tries are compared.
    pub const fn short(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Node {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = if hex { u128::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| NodeError(text.to_owned()))
    }
}

/// Text that is not a digest node.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a digest node: write 32 lower-case hex digits")]
pub struct NodeError(String);

text_form!(
    Node,
    "DigestNode",
    "^[0-9a-f]{32}$",
    "XOR of the 128-bit hashes of some resources, lower-case hex."
);

/// The item of one live resource.
pub fn item(key: &str, revision: &str, state_hash: &Hash32) -> Node {
    let hash = FieldHasher::new("farside item v1")
        .field(key.as_bytes())
        .field(revision.as_bytes())
        .field(&state_hash.0)
        .finish();
    Node(u128::from_be_bytes(first(&hash)))
}

/// SHA-256 over all live resources of an owner in order of their keys (bytes, ascending): of each, key, revision and
/// state hash. What [`item`] sums up so that differences are found, this proves.
pub struct RowsHasher(FieldHasher, u64);

impl Default for RowsHasher {
    fn default() -> Self {
        Self(FieldHasher::new("farside rows v1"), 0)
    }
}

impl RowsHasher {
    /// Adds the next resource.
    #[must_use]
    pub fn row(self, key: &str, revision: &str, state_hash: &Hash32) -> Self {
        let Self(hasher, rows) = self;
        let hasher = hasher.field(key.as_bytes()).field(revision.as_bytes()).field(&state_hash.0);
        Self(hasher, rows + 1)
    }

    /// How many there were, and the hash over all of them.
    pub fn finish(self) -> (u64, Hash32) {
        (self.1, self.0.finish())
    }
}

fn first<const N: usize>(hash: &Hash32) -> [u8; N] {
    std::array::from_fn(|i| hash.0[i])
}

/// Where a key stands in every trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// The address of a key.
    pub fn of(key: &str) -> Self {
        Self(u64::from_be_bytes(first(&Hash32::of(key.as_bytes()))))
    }

    /// The number of the node at `depth` that the key is below: its first `depth` hex digits.
    pub const fn node(self, depth: u8) -> u32 {
        if depth == 0 { 0 } else { (self.0 >> (64 - 4 * depth as u32)) as u32 }
    }

    /// The first 48 bits: names a key inside one owner when two tries are compared.
    pub const fn short(self) -> u64 {
        self.0 >> 16
    }
}

/// The number of nodes at a depth.
pub const fn width(depth: u8) -> usize {
    FANOUT.pow(depth as u32)
}

/// The depth that a trie of `items` has.
pub fn depth_for(items: u64) -> u8 {
    (DEPTH_MIN..DEPTH_MAX)
        .find(|depth| items <= ITEMS_PER_LEAF_MAX * width(*depth) as u64)
        .unwrap_or(DEPTH_MAX)
}

/// An owner's digest at one place of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Digest {
    /// The XOR of all live resources of the owner.
    pub root: Node,
    /// How many they are.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub count: u64,
}

/// The leaves of a trie in memory, for whoever keeps it there or compares a frame of nodes.
#[derive(Clone, Debug)]
pub struct Trie {
    depth: u8,
    leaves: Vec<Node>,
    count: u64,
}

impl Default for Trie {
    fn default() -> Self {
        Self::with_depth(DEPTH_MIN)
    }
}

impl Trie {
    /// An empty trie of a stated depth.
    pub fn with_depth(depth: u8) -> Self {
        Self { depth, leaves: vec![Node::default(); width(depth)], count: 0 }
    }

    /// A trie of the right depth for some items.
    pub fn build(items: impl Iterator<Item = (Address, Node)> + Clone) -> Self {
        let mut trie = Self::with_depth(depth_for(items.clone().count() as u64));
        items.for_each(|(address, item)| trie.insert(address, item));
        trie
    }

    /// Adds an item.
    pub fn insert(&mut self, address: Address, item: Node) {
        self.leaves[address.node(self.depth) as usize].toggle(item);
        self.count += 1;
    }

    /// Takes an item out again.
    pub fn remove(&mut self, address: Address, item: Node) {
        self.leaves[address.node(self.depth) as usize].toggle(item);
        self.count -= 1;
    }

    /// Whether the leaves are so full that the owner should build the trie one level deeper.
    pub fn is_crowded(&self) -> bool {
        self.depth < depth_for(self.count)
    }

    /// The depth of the leaves.
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// Root and count.
    pub fn digest(&self) -> Digest {
        Digest { root: self.sum(0, width(self.depth)), count: self.count }
    }

    /// The node `number` at `depth`; none below the leaves.
    pub fn node(&self, depth: u8, number: u32) -> Option<Node> {
        let below = width(self.depth.checked_sub(depth)?);
        let from = (number as usize).checked_mul(below)?;
        (from + below <= self.leaves.len()).then(|| self.sum(from, from + below))
    }

    fn sum(&self, from: usize, to: usize) -> Node {
        self.leaves[from..to].iter().fold(Node::default(), |mut sum, leaf| {
            sum.toggle(*leaf);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(range: std::ops::Range<u32>) -> impl Iterator<Item = (Address, Node)> + Clone {
        range.map(|n| {
            let key = format!("Pod/{n}");
            (Address::of(&key), item(&key, "1", &Hash32::of(key.as_bytes())))
        })
    }

    #[test]
    fn a_root_does_not_depend_on_order_or_depth() {
        let small = Trie::build(items(0..10));
        let mut deep = Trie::with_depth(4);
        items(0..20).for_each(|(address, item)| deep.insert(address, item));
        items(10..20).for_each(|(address, item)| deep.remove(address, item));
        assert_eq!(small.digest(), deep.digest());
        assert_ne!(small.digest(), Trie::build(items(0..11)).digest());
    }

    #[test]
    fn nodes_of_every_depth_sum_the_ones_below() {
        let trie = Trie::build(items(0..10_000));
        assert_eq!(trie.depth(), 3);
        for depth in 0..=trie.depth() {
            let mut sum = Node::default();
            (0..width(depth) as u32).for_each(|number| sum.toggle(trie.node(depth, number).unwrap()));
            assert_eq!(sum, trie.digest().root, "depth {depth}");
        }
        assert_eq!(trie.node(4, 0), None);
    }

    #[test]
    fn depth_grows_with_the_number_of_items() {
        assert_eq!([0, 4096, 4097, 65_536, 1_000_000, 1 << 40].map(depth_for), [2, 2, 3, 3, 4, 6]);
    }
}
