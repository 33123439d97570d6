//! Schedules of chance that can be run again: a seed, and numbers out of the environment.

use std::env;

/// A number in an environment variable; none = it is not there, or no number.
pub(crate) fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// A small generator (xorshift64, Marsaglia 2003), so that a seed is a schedule.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
