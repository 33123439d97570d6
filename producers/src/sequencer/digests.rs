//! The descent through the digest: nodes from memory, items from the inventory.

use std::collections::HashSet;

use bus_schema::{
    command::resource::{DigestReply, DigestRequest, NODES_MAX},
    digest::{Address, DEPTH_MAX, FANOUT, Trie, width},
};
use data_encoding::BASE64;

use super::{Sequencer, node};
use crate::ledger::LedgerError;

/// Bytes of a short node or address on the wire.
const SHORT_BYTES: usize = 6;

impl Sequencer {
    /// Answers a digest request; none = the request makes no sense and stays unanswered.
    pub(crate) fn digests(&self, request: &DigestRequest) -> Result<Option<DigestReply>, LedgerError> {
        let DigestRequest { depth, above, .. } = *request;
        let sound = depth <= DEPTH_MAX
            && above <= depth
            && request.below.iter().all(|number| (*number as usize) < width(above));
        if !sound {
            return Ok(None);
        }
        let frame = if request.items { self.items(request)? } else { self.nodes(request)? };
        let Some(frame) = frame else { return Ok(None) };
        let (at, digest) = (self.chain.at(), self.trie.digest());
        Ok(Some(DigestReply { at, digest, frame: BASE64.encode(&frame) }))
    }

    fn nodes(&self, request: &DigestRequest) -> Result<Option<Vec<u8>>, LedgerError> {
        let DigestRequest { depth, above, .. } = *request;
        let each = FANOUT.pow(u32::from(depth - above));
        let whole: Vec<u32> = (0..width(above) as u32).collect();
        let below = if request.below.is_empty() { &whole } else { &request.below };
        if below.len() * each > NODES_MAX {
            return Ok(None);
        }
        let deeper;
        let trie = if depth > self.trie.depth() {
            deeper = self.deeper(depth)?;
            &deeper
        } else {
            &self.trie
        };
        let mut frame = Vec::with_capacity(below.len() * each * SHORT_BYTES);
        for parent in below {
            for child in 0..each {
                let number = *parent as usize * each + child;
                put(&mut frame, trie.node(depth, number as u32).unwrap_or_default().short());
            }
        }
        Ok(Some(frame))
    }

    /// The other side has more resources and a deeper trie.
    fn deeper(&self, depth: u8) -> Result<Trie, LedgerError> {
        let mut trie = Trie::with_depth(depth);
        self.ledger.reading()?.each_item(&self.cluster, |key, item| {
            trie.insert(Address::of(key), node(key, &item));
            true
        })?;
        Ok(trie)
    }

    fn items(&self, request: &DigestRequest) -> Result<Option<Vec<u8>>, LedgerError> {
        let below: HashSet<u32> = request.below.iter().copied().collect();
        let mut found = Vec::new();
        self.ledger.reading()?.each_item(&self.cluster, |key, item| {
            let address = Address::of(key);
            if below.is_empty() || below.contains(&address.node(request.above)) {
                found.push((address, node(key, &item)));
            }
            found.len() <= NODES_MAX
        })?;
        if found.len() > NODES_MAX {
            return Ok(None);
        }
        found.sort_unstable_by_key(|(address, _)| *address);
        let mut frame = Vec::with_capacity(found.len() * 2 * SHORT_BYTES);
        for (address, item) in found {
            put(&mut frame, address.short());
            put(&mut frame, item.short());
        }
        Ok(Some(frame))
    }
}

/// The last six bytes of a 48-bit number.
fn put(frame: &mut Vec<u8>, short: u64) {
    frame.extend_from_slice(&short.to_be_bytes()[8 - SHORT_BYTES..]);
}
