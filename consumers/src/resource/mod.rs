//! The stem `resource`: what the target asks of source clusters, and when (claims R1 to R8).

pub mod schedule;
pub mod state;
pub mod threshold;
