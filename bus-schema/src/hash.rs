//! A SHA-256 value and its text form. Must not know what is hashed.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::text::text_form;

/// A SHA-256 value (FIPS 180-4); as text, 64 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash32(pub [u8; 32]);

impl Hash32 {
    /// 32 zero bytes: the `prev` of the first event of a chain.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash32 {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let mut bytes = [0; 32];
        let whole = text.len() == 64 && HEXLOWER.decode_mut(text.as_bytes(), &mut bytes) == Ok(32);
        whole.then_some(Self(bytes)).ok_or_else(|| HashError(text.to_owned()))
    }
}

/// Text that is not a SHA-256 value.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a SHA-256 value: write 64 lower-case hex digits")]
pub struct HashError(String);

text_form!(Hash32, "Hash32", "^[0-9a-f]{64}$", "A SHA-256 value, lower-case hex.");

/// Feeds fields to a hash so that no two different lists of fields give the same bytes:
/// each field is preceded by its length in bytes as a 32-bit big-endian number.
pub struct FieldHasher(Sha256);

impl FieldHasher {
    /// Starts a hash of fields; `domain` keeps hashes of different purposes apart.
    pub fn new(domain: &str) -> Self {
        Self(Sha256::new()).field(domain.as_bytes())
    }

    /// Adds one field. A field of 4 GiB or more does not exist on a bus whose messages end at 1 MiB.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u32).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// The hash of all fields so far.
    pub fn finish(self) -> Hash32 {
        Hash32(self.0.finalize().into())
    }
}
