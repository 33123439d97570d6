//! The port to what takes dead letters in again.

use bus_schema::redrive::upcaster::Upcasting;

use super::Pending;
use crate::view::RedriveView;

/// Which dead letters are to be taken in again, and how.
#[derive(Clone, Debug)]
pub struct RedriveAsked {
    /// Which.
    pub which: RedriveWhich,
    /// What mends them.
    pub upcasting: Option<Upcasting>,
    /// Only tell what would become of them.
    pub dry_run: bool,
    /// Only those behind this stream and sequence.
    pub after: Option<(String, u64)>,
    /// At most so many; none = as many as are done at once.
    pub limit: Option<usize>,
    /// Who asks.
    pub actor: String,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedriveWhich {
    /// The one of this stream and sequence.
    Place(String, u64),
    /// Those with a reason of this kind.
    Reason(String),
    /// Those of this stream between these sequences, both included.
    Range(String, u64, u64),
}

/// Takes dead letters in again.
pub trait Redriver: Send + Sync {
    /// Does it, or tells what would become of them. Errors: this process does not act for the target.
    fn redrive(&self, asked: RedriveAsked) -> Pending<'_, RedriveView>;
}
