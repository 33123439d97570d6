//! Compares two stores, for the parity of a rebuild.

use crate::{reader::Reader, store::StoreError};

/// Most differences that one comparison names.
pub const DIFFERENCES_MAX: usize = 1_000;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The pool, or `target` for what the target log holds.
    pub pool: String,
    /// What differs, for example `row Pod/web`.
    pub what: String,
    /// What the left store has; absent = nothing.
    pub left: Option<String>,
    /// What the right store has; absent = nothing.
    pub right: Option<String>,
}

/// What differs between two stores that have read the same logs up to the same positions: at most
/// [`DIFFERENCES_MAX`] entries. The outbox and counters of repeated events are not compared.
pub fn diff(_left: &Reader, _right: &Reader) -> Result<Vec<Difference>, StoreError> {
    unimplemented!()
}
