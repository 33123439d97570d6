//! Events of the stem `volume`. Bulk data never travels here: an event names extents, not bytes.

use serde::{Deserialize, Serialize};

use crate::{event::events, id::Name, text::decimal, time::Timestamp};

events! {
    /// A fact about a replicated volume.
    Volume VolumeEvent {
        /// Writes reached the primary but not the secondary.
        WriteFailed(WriteFailed) = "write_failed",
    }
}

/// A run of bytes of a volume.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Extent {
    /// Bytes from the start of the volume.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub offset: u64,
    /// Bytes; at least 1.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub length: u64,
}

/// Writes reached the primary but not the secondary (`volume.write_failed`, V2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WriteFailed {
    /// The volume's name.
    pub volume: Name,
    /// The replication generation in which the writes failed.
    #[serde(with = "decimal")]
    #[schemars(with = "crate::text::Decimal")]
    pub generation: u64,
    /// The extents that the secondary lacks, coalesced.
    pub extents: Vec<Extent>,
    /// What the secondary answered, in words.
    pub reason: String,
    /// When the first of these writes failed, by the source's clock.
    pub first_failed_at: Timestamp,
    /// When the last of them failed.
    pub last_failed_at: Timestamp,
}

impl WriteFailed {
    /// The volume's name.
    pub fn entity(&self) -> String {
        self.volume.to_string()
    }
}
