//! Events of the stem `key`: the access keys that a source announces before its first sync (R7).
//! A secret never travels: only its salted hash does.

use serde::{Deserialize, Serialize};

use crate::{
    event::events,
    hash::Hash32,
    id::{Name, TenantId},
    time::Timestamp,
};

events! {
    /// A fact about a source's access keys.
    Key KeyEvent {
        /// The source says that it has this key.
        Announced(Announced) = "announced",
        /// The source says that the key is no longer good.
        Withdrawn(Withdrawn) = "withdrawn",
    }
}

/// The source has this access key (`key.announced`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Announced {
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
}

impl Announced {
    /// The key's public name.
    pub fn entity(&self) -> String {
        self.key_id.to_string()
    }
}

/// The key is no longer good (`key.withdrawn`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Withdrawn {
    /// The key's public name.
    pub key_id: Name,
}

impl Withdrawn {
    /// The key's public name.
    pub fn entity(&self) -> String {
        self.key_id.to_string()
    }
}

/// What is kept of a secret: SHA-256(salt bytes ‖ secret bytes). The secret's bytes are those of its text as
/// a client presents it, so that any text can be one; the keys that Farside makes are 64 hex digits.
pub fn secret_hash(salt: &Hash32, secret: &str) -> Hash32 {
    Hash32::of(&[&salt.0[..], secret.as_bytes()].concat())
}
