//! Who asks, and what they may see (R7, R8). Pure: the directory of keys and tenants is a port, the
//! time is an argument. Secrets enter as text, are compared in constant time, and leave in no error.
//!
//! | credential | caller |
//! |---|---|
//! | the local socket (mode 0600) | operator, by file permission |
//! | `Authorization: Bearer <operator token>` | operator |
//! | `Authorization: Bearer <key_id>.<secret>` | the key's level-1 tenant |
//! | the same, and `Farside-Tenant: l1/l2` | that level-2 tenant, if it is bound |

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bus_schema::{Hash32, Name, PoolId, TenantId, Timestamp, event::key::secret_hash};
use projector::{AccessKey, Grant, KeyOrigin, Reader, Row, StoreError, TenantState};
use subtle::ConstantTimeEq;

pub mod access;
pub mod throttle;

pub use access::Access;

/// The header by which a caller says for which tenant it speaks.
pub const TENANT_HEADER: &str = "farside-tenant";
/// Longest credential that is looked at, in bytes: a key id, a dot and a generous secret.
pub const CREDENTIAL_BYTES_MAX: usize = 1_024;

/// Where keys and tenants are looked up.
pub trait Directory {
    /// Every key of this name: the target's own, and one per source that announced it.
    fn keys(&self, id: &Name) -> Result<Vec<AccessKey>, DirectoryError>;
    /// A tenant; none = no fact speaks of it.
    fn tenant(&self, id: &TenantId) -> Result<Option<TenantState>, DirectoryError>;
    /// Whether a level-1 tenant was removed and not created since.
    fn is_removed(&self, level1: &Name) -> Result<bool, DirectoryError>;
}

impl Directory for Reader {
    fn keys(&self, id: &Name) -> Result<Vec<AccessKey>, DirectoryError> {
        self.key(id).map(|answer| answer.value).map_err(DirectoryError)
    }

    fn tenant(&self, id: &TenantId) -> Result<Option<TenantState>, DirectoryError> {
        Reader::tenant(self, id).map(|answer| answer.value).map_err(DirectoryError)
    }

    fn is_removed(&self, level1: &Name) -> Result<bool, DirectoryError> {
        Reader::is_removed(self, level1).map(|answer| answer.value).map_err(DirectoryError)
    }
}

/// The directory could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read keys and tenants from the pool: {0}")]
pub struct DirectoryError(#[source] StoreError);

/// A token that opens something by itself, as the operator's does: the hash only, so that no copy of it lies in memory longer than a request.
#[derive(Clone)]
pub struct OperatorToken(Hash32);

impl OperatorToken {
    /// From the token's text.
    pub fn new(token: &str) -> Self {
        Self(Hash32::of(token.as_bytes()))
    }

    fn is(&self, offered: &str) -> bool {
        self.0.0.ct_eq(&Hash32::of(offered.as_bytes()).0).into()
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken")
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May do everything.
    Operator {
        /// As it stands in facts.
        actor: String,
    },
    /// May read what its access covers, and confirm it.
    Tenant {
        /// As it stands in facts.
        actor: String,
        /// What it may see.
        access: Access,
    },
}

impl Caller {
    /// Whether anything of this pool may be seen.
    pub fn may_see(&self, pool: &PoolId) -> bool {
        match self {
            Self::Operator { .. } => true,
            Self::Tenant { access, .. } => access.covers(pool),
        }
    }

    /// Whether a resource of a pool that may be seen may be seen too.
    pub fn may_see_row(&self, row: &Row) -> bool {
        self.may_see_state(&row.labels, row.tenant.as_ref())
    }

    /// Whether a resource with these labels and this owner may be seen, in a pool that may be.
    pub fn may_see_state(&self, labels: &BTreeMap<String, String>, owner: Option<&TenantId>) -> bool {
        match self {
            Self::Operator { .. } => true,
            Self::Tenant { access, .. } => access.shows(labels, owner),
        }
    }

    /// As it stands in facts.
    pub fn actor(&self) -> &str {
        match self {
            Self::Operator { actor } | Self::Tenant { actor, .. } => actor,
        }
    }
}

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No credential, or one of the wrong form.
    #[error("{0}; send 'Authorization: Bearer <operator token>' or 'Bearer <key_id>.<secret>'")]
    Missing(&'static str),
    /// Unknown key or wrong secret or token; deliberately one text.
    #[error("the credential is not known here; check the token or the key, or ask an operator for a new one")]
    Unknown,
    /// The key was right, but it ended.
    #[error("key {key} expired at {at}; ask an operator to issue a new one")]
    Expired {
        /// The key's public name.
        key: Name,
        /// When it ended.
        at: Timestamp,
    },
    /// The key was right, but it is no longer good.
    #[error("key {0} was revoked; ask an operator for another one")]
    Revoked(Name),
    /// The key is good, but not for this tenant.
    #[error("{0}")]
    Forbidden(String),
    /// The pool could not be asked.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

impl AuthError {
    /// Whether the credential itself was wrong: that is what throttling counts.
    pub fn counts_as_failure(&self) -> bool {
        matches!(self, Self::Unknown | Self::Expired { .. } | Self::Revoked(_))
    }
}

/// A credential as it was offered.
#[derive(Clone, Copy)]
pub enum Offered<'a> {
    /// No dot: only the operator token looks like this.
    Token(&'a str),
    /// An access key.
    Key {
        /// Its public name; not checked yet.
        id: &'a str,
        /// Its secret.
        secret: &'a str,
    },
}

impl<'a> Offered<'a> {
    /// Reads the value of an `Authorization` header.
    pub fn read(header: Option<&'a str>) -> Result<Self, AuthError> {
        let header = header.ok_or(AuthError::Missing("this request carries no credential"))?;
        let (scheme, credential) = header.split_once(' ').unwrap_or((header, ""));
        let credential = credential.trim();
        if !scheme.eq_ignore_ascii_case("bearer") || credential.is_empty() {
            return Err(AuthError::Missing("the Authorization header is not a bearer credential"));
        }
        if credential.len() > CREDENTIAL_BYTES_MAX {
            return Err(AuthError::Missing("the credential is too long"));
        }
        Ok(match credential.split_once('.') {
            Some((id, secret)) => Self::Key { id, secret },
            None => Self::Token(credential),
        })
    }

    /// Whether it is this token.
    pub fn is(&self, token: &OperatorToken) -> bool {
        matches!(self, Self::Token(offered) if token.is(offered))
    }

    /// The name under which failures are counted; empty for the operator token.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Token(_) => "",
            Self::Key { id, .. } => id,
        }
    }
}

/// Decides who asks. `tenant` is the value of [`TENANT_HEADER`].
pub fn authenticate(
    offered: Offered<'_>,
    tenant: Option<&str>,
    operator: &OperatorToken,
    directory: &dyn Directory,
    now: Timestamp,
) -> Result<Caller, AuthError> {
    match offered {
        Offered::Token(token) if operator.is(token) => Ok(Caller::Operator { actor: "operator".to_owned() }),
        Offered::Token(_) => Err(AuthError::Unknown),
        Offered::Key { id, secret } => {
            let (id, keys) = good_keys(id, secret, directory, now)?;
            speak_for(&id, &keys, tenant, directory)
        }
    }
}

/// The keys of this name whose secret matches and that are still good; at least one.
fn good_keys(
    id: &str,
    secret: &str,
    directory: &dyn Directory,
    now: Timestamp,
) -> Result<(Name, Vec<AccessKey>), AuthError> {
    let id: Name = id.parse().map_err(|_| AuthError::Unknown)?;
    let keys = directory.keys(&id)?;
    if keys.is_empty() {
        // An unknown name costs as much as a wrong secret, so that time does not tell them apart.
        let _ = matches(&Hash32::ZERO, &Hash32::ZERO, secret);
        return Err(AuthError::Unknown);
    }
    let right: Vec<_> = keys.into_iter().filter(|key| matches(&key.salt, &key.hash, secret)).collect();
    let good: Vec<_> = right.iter().filter(|key| key.is_good_at(now)).cloned().collect();
    if !good.is_empty() {
        return Ok((id, good));
    }
    Err(match right.first() {
        None => AuthError::Unknown,
        Some(key) if key.revoked_at.is_some() => AuthError::Revoked(id),
        Some(key) => AuthError::Expired { key: id, at: key.not_after.unwrap_or_default() },
    })
}

fn matches(salt: &Hash32, hash: &Hash32, secret: &str) -> bool {
    secret_hash(salt, secret).0.ct_eq(&hash.0).into()
}

/// R8: the level-1 tenant of the key, or a level-2 tenant that is bound to it.
fn speak_for(
    id: &Name,
    keys: &[AccessKey],
    wanted: Option<&str>,
    directory: &dyn Directory,
) -> Result<Caller, AuthError> {
    let forbidden = AuthError::Forbidden;
    let level1 = |key: &AccessKey| TenantId { level1: key.tenant.level1.clone(), level2: None };
    let wanted: TenantId = match wanted {
        Some(text) => text.parse().map_err(|e| forbidden(format!("the header Farside-Tenant: {e}")))?,
        None => keys.first().map(level1).ok_or(AuthError::Unknown)?,
    };
    let keys: Vec<_> = keys.iter().filter(|key| key.tenant.level1 == wanted.level1).collect();
    let Some(key) = keys.first() else {
        return Err(forbidden(format!("key {id} does not belong to tenant {}", wanted.level1)));
    };
    let announced: Vec<_> = keys.iter().filter_map(|key| announced_for(key)).collect();
    let issued = keys.iter().any(|key| key.origin == KeyOrigin::Target);
    let first = directory.tenant(&level1(key))?;
    // What an operator removed no announcement brings back.
    if (first.is_none() && announced.is_empty()) || directory.is_removed(&wanted.level1)? {
        let detail = "does not exist (any more), so its keys open nothing; ask an operator";
        return Err(forbidden(format!("tenant {} {detail}", wanted.level1)));
    }
    let grant = reach(first.and_then(|tenant| tenant.grant), announced, issued);
    let access = Access::new(wanted.clone(), grant);
    let access = if wanted.level2.is_some() { narrowed(access, &wanted, directory)? } else { access };
    Ok(Caller::Tenant { actor: format!("tenant {wanted} with key {id}"), access })
}

/// What the keys open. The agent of any cluster may announce a key for any tenant, so an announced key
/// opens what the tenant may see of the announcing source's own pool, and nothing beyond; only a key that
/// the target issued opens the whole grant.
fn reach(granted: Option<Grant>, announced: Vec<PoolId>, issued: bool) -> Grant {
    match granted {
        None => Access::whole_pools(announced),
        Some(grant) if issued => grant,
        Some(mut grant) => {
            grant.pools.retain(|pool| announced.contains(pool));
            grant
        }
    }
}

/// The pools of which a tenant may see everything, as operators granted them to it: what may be read from the log itself.
///
/// Errors: the tenant is not there, was granted nothing, or is not bound; or labels narrow what it sees.
pub fn whole_pools(tenant: &TenantId, directory: &dyn Directory) -> Result<BTreeSet<PoolId>, AuthError> {
    let forbidden = |text: String| Err(AuthError::Forbidden(text));
    let level1 = TenantId { level1: tenant.level1.clone(), level2: None };
    let Some(first) = directory.tenant(&level1)? else {
        return forbidden(format!(
            "there is no tenant {level1}; make it with 'farside tenant create {level1}'"
        ));
    };
    let Some(grant) = first.grant else {
        return forbidden(format!(
            "nothing is granted to tenant {level1}; run 'farside tenant grant {level1} --pool CLUSTER'"
        ));
    };
    let access = Access::new(tenant.clone(), grant);
    let access = if tenant.level2.is_some() { narrowed(access, tenant, directory)? } else { access };
    match access.whole() {
        Some(pools) => Ok(pools.clone()),
        None => forbidden(format!(
            "tenant {tenant} sees resources with certain labels only, and a log has no filter for labels; let it read by HTTP, with a key of 'farside key make {level1}'"
        )),
    }
}

fn announced_for(key: &AccessKey) -> Option<PoolId> {
    match &key.origin {
        KeyOrigin::Source { pool, .. } => Some(pool.clone()),
        KeyOrigin::Target => None,
    }
}

/// What a level-2 tenant may see of its level-1 tenant's access, if it may use the key at all.
fn narrowed(access: Access, wanted: &TenantId, directory: &dyn Directory) -> Result<Access, AuthError> {
    match directory.tenant(wanted)? {
        Some(TenantState { bound: true, grant: Some(grant), .. }) => Ok(access.narrowed(&grant)),
        Some(TenantState { bound: true, grant: None, .. }) => Ok(access),
        _ => Err(AuthError::Forbidden(format!(
            "tenant {wanted} is not bound, so it cannot use the key of {}; an operator binds it with 'farside tenant bind {wanted}'",
            wanted.level1
        ))),
    }
}

#[cfg(test)]
mod tests;
