//! What proves a stored log: the hash of each message as the log stores it, and the running hash over all of them
//! in order. Test vectors: `golden/proof.json`. Must not know who signs it.

use crate::{
    envelope::Stored,
    hash::{FieldHasher, Hash32},
};

impl Stored<'_> {
    /// The message's hash, see [`Stored::hash_with`].
    pub fn hash(&self) -> Hash32 {
        self.hash_with(Hash32::of(self.body))
    }

    /// The message's hash, when that of its body is known already: SHA-256 over its fields, each preceded by its
    /// length (32-bit big-endian): `farside message v2`, the sequence, the time at which the log stored it (in
    /// milliseconds since 1970), and the number of headers (each as 64-bit big-endian), the subject, name and value
    /// of each header in order of their bytes, SHA-256 of the body (32 bytes).
    pub fn hash_with(&self, body: Hash32) -> Hash32 {
        let mut headers = self.headers.to_vec();
        headers.sort_unstable();
        let mut hasher = FieldHasher::new("farside message v2")
            .field(&self.seq.to_be_bytes())
            .field(&self.stored_at.unix_ms().to_be_bytes())
            .field(&(headers.len() as u64).to_be_bytes())
            .field(self.subject.as_bytes());
        for (name, value) in headers {
            hasher = hasher.field(name.as_bytes()).field(value.as_bytes());
        }
        hasher.field(&body.0).finish()
    }
}

/// The running hash of a log behind one more message: SHA-256 over the fields `farside log v1`, the running hash
/// before it (32 zero bytes at the start of the log), and the message's own hash.
#[must_use]
pub fn extend(running: Hash32, message: Hash32) -> Hash32 {
    FieldHasher::new("farside log v1").field(&running.0).field(&message.0).finish()
}
