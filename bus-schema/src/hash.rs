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
pub struct FieldHasher {
    hasher: Sha256,
    /// Fields that were not hashed yet: a message has two dozen of a few bytes each, and to feed each to the hash by
    /// itself took as long as to hash them.
    gathered: Vec<u8>,
}

/// Bytes that are gathered: the fields of nearly every message, and nothing that matters to anybody's memory.
const GATHERED_BYTES: usize = 1024;

impl FieldHasher {
    /// Starts a hash of fields; `domain` keeps hashes of different purposes apart.
    pub fn new(domain: &str) -> Self {
        let (hasher, gathered) = (Sha256::new(), Vec::with_capacity(GATHERED_BYTES));
        Self { hasher, gathered }.field(domain.as_bytes())
    }

    /// Adds one field. A field of 4 GiB or more does not exist on a bus whose messages end at 1 MiB.
    #[inline]
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.add(&(bytes.len() as u32).to_be_bytes());
        self.add(bytes);
        self
    }

    /// The hash of all fields so far.
    pub fn finish(mut self) -> Hash32 {
        self.hasher.update(&self.gathered);
        Hash32(self.hasher.finalize().into())
    }

    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        if self.gathered.len() + bytes.len() > GATHERED_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
        if bytes.len() > GATHERED_BYTES {
            self.hasher.update(bytes);
        } else {
            self.gathered.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_any_size_give_the_hash_of_their_lengths_and_bytes() {
        for sizes in [&[0, 1, 63, 64][..], &[GATHERED_BYTES; 3], &[GATHERED_BYTES - 9, 5, 5000, 0, 900, 900]]
        {
            let (mut hasher, mut whole) = (FieldHasher::new("a"), b"\0\0\0\x01a".to_vec());
            for (nth, size) in sizes.iter().enumerate() {
                let field = vec![nth as u8; *size];
                hasher = hasher.field(&field);
                whole.extend((*size as u32).to_be_bytes());
                whole.extend(field);
            }
            assert_eq!(hasher.finish(), Hash32::of(&whole), "{sizes:?}");
        }
    }
}
