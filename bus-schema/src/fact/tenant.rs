//! Facts about tenants (R8): two levels; a level-2 tenant that is bound shares its level-1 tenant's key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    event::events,
    id::{Name, PoolId, TenantId},
};

events! {
    /// A fact about a tenant.
    Tenant TenantFact {
        /// The tenant exists.
        Created(Created) = "created",
        /// A level-2 tenant may use the key of its level-1 tenant.
        Bound(Bound) = "bound",
        /// It may no longer.
        Unbound(Unbound) = "unbound",
        /// What the tenant may see from now on; replaces what it could see before.
        Granted(Granted) = "granted",
        /// Somebody of the tenant may read whole clusters from the log.
        ReaderEnrolled(ReaderEnrolled) = "reader_enrolled",
        /// It may no longer.
        ReaderRevoked(ReaderRevoked) = "reader_revoked",
        /// The tenant is gone, and with a level-1 tenant all below it.
        Removed(Removed) = "removed",
    }
}

/// The tenant exists (`tenant.created`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Created {
    /// The tenant.
    pub tenant: TenantId,
    /// Who made it.
    pub actor: String,
}

/// A level-2 tenant may use the key of its level-1 tenant (`tenant.bound`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bound {
    /// The level-2 tenant.
    pub tenant: TenantId,
    /// Who bound it.
    pub actor: String,
}

/// It may no longer (`tenant.unbound`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Unbound {
    /// The level-2 tenant.
    pub tenant: TenantId,
    /// Who unbound it.
    pub actor: String,
}

/// What a tenant may see (`tenant.granted`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Granted {
    /// The tenant.
    pub tenant: TenantId,
    /// The pools it may see.
    pub pools: Vec<PoolId>,
    /// Only resources that have all of these labels; empty = all resources of these pools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who granted it.
    pub actor: String,
}

/// Somebody of the tenant may read whole clusters from the log (`tenant.reader_enrolled`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReaderEnrolled {
    /// The tenant.
    pub tenant: TenantId,
    /// The reader's name.
    pub reader: Name,
    /// The clusters that it reads, as a whole.
    pub pools: Vec<PoolId>,
    /// The public half of its nkey.
    pub public_key: String,
    /// Who enrolled it.
    pub actor: String,
}

/// It may no longer (`tenant.reader_revoked`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ReaderRevoked {
    /// The tenant.
    pub tenant: TenantId,
    /// The reader's name.
    pub reader: Name,
    /// The public half of the nkey that opens nothing any more.
    pub public_key: String,
    /// Who revoked it, or why it was.
    pub actor: String,
}

/// The tenant is gone (`tenant.removed`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Removed {
    /// The tenant.
    pub tenant: TenantId,
    /// Who removed it.
    pub actor: String,
}

macro_rules! entity_is_tenant {
    ($($type:ty),+) => { $(impl $type {
        /// The tenant.
        pub fn entity(&self) -> String {
            self.tenant.to_string()
        }
    })+ };
}
entity_is_tenant!(Created, Bound, Unbound, Granted, ReaderEnrolled, ReaderRevoked, Removed);
