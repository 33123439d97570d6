//! Facts about keys: access keys that the target made (R7, R8), and the key that signs its checkpoints. Access keys
//! that a source announces are events of its site log; both kinds are good for authentication.

use serde::{Deserialize, Serialize};

use crate::{
    event::events,
    hash::{FieldHasher, Hash32},
    id::{Name, TenantId},
    time::Timestamp,
};

events! {
    /// A fact about a key.
    Key KeyFact {
        /// The key exists, or has a new secret (rotation).
        Issued(Issued) = "issued",
        /// The key is no longer good.
        Revoked(Revoked) = "revoked",
        /// Another key signs from here on.
        Rotated(Rotated) = "rotated",
    }
}

/// The key exists, or has a new secret (`key.issued`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Issued {
    /// The key's public name.
    pub key_id: Name,
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// 32 random bytes, lower-case hex.
    pub salt: Hash32,
    /// SHA-256(salt bytes ‖ secret bytes).
    pub hash: Hash32,
    /// When the key ends; absent = it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// Who issued it.
    pub actor: String,
}

impl Issued {
    /// The key's public name.
    pub fn entity(&self) -> String {
        self.key_id.to_string()
    }
}

/// The key is no longer good (`key.revoked`). One that a source announced stays revoked for good, whatever the
/// source announces later: the source may be lost, or in other hands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Revoked {
    /// The key's public name.
    pub key_id: Name,
    /// The CloudEvents `source` that announced the key; absent = the target issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Who revoked it.
    pub actor: String,
}

impl Revoked {
    /// The key's public name.
    pub fn entity(&self) -> String {
        self.key_id.to_string()
    }
}

/// Another key signs the target's checkpoints from here on (`key.rotated`). The first one has no predecessor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rotated {
    /// The target.
    pub target: Name,
    /// The public nkey that signs from here on.
    pub key: String,
    /// The public nkey that signed up to here; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Base64 of the ed25519 signature over [`Rotated::signed`]: by the previous key, by the first one itself.
    pub signature: String,
    /// Who rotated it.
    pub actor: String,
}

impl Rotated {
    /// The target.
    pub fn entity(&self) -> String {
        self.target.to_string()
    }

    /// What is signed: SHA-256 over the fields `farside signing key v1`, the target, the previous key (empty for
    /// none) and the new one.
    pub fn signed(&self) -> Hash32 {
        FieldHasher::new("farside signing key v1")
            .field(self.target.as_str().as_bytes())
            .field(self.previous.as_deref().unwrap_or_default().as_bytes())
            .field(self.key.as_bytes())
            .finish()
    }
}
