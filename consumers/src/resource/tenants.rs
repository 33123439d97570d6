//! What may be stated about tenants and keys (R8). Pure: the registry and the moment are arguments.
//!
//! Two levels: a level-2 tenant needs its level-1 tenant; while it is bound it shares that tenant's key.
//! A key belongs to a level-1 tenant. Everything else that a target states, it states itself.

use bus_schema::{
    Name, TenantId, Timestamp,
    fact::{
        Fact,
        key::{Issued, KeyFact, Revoked},
        log::LogFact,
        resource::ResourceFact,
        tenant::{Bound, Created, Granted, Removed, TenantFact, Unbound},
    },
};
use projector::{AccessKey, KeyOrigin, TenantState};

/// Tenants and keys as the pool has them.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Every tenant.
    pub tenants: Vec<TenantState>,
    /// Every key, of sources and of the target, revoked ones too.
    pub keys: Vec<AccessKey>,
    /// The level-1 tenants that were removed and not created since.
    pub removed: Vec<Name>,
}

/// Why a fact may not be stated; says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

fn denied(reason: impl Into<String>) -> Result<(), Denied> {
    Err(Denied(reason.into()))
}

impl Registry {
    /// Whether somebody may ask for this fact to be stated. Errors: why not, and what to do.
    pub fn check(&self, fact: &Fact, now: Timestamp) -> Result<(), Denied> {
        match fact {
            Fact::Tenant(fact) => self.check_tenant(fact),
            Fact::Key(KeyFact::Issued(issued)) => self.check_issued(issued, now),
            Fact::Key(KeyFact::Revoked(revoked)) => self.check_revoked(revoked),
            // Whoever runs the server has let it in, or shut it out, already.
            Fact::Agent(_) => Ok(()),
            Fact::Resource(ResourceFact::EmptyConfirmed(_) | ResourceFact::SchedulePaused(_)) => Ok(()),
            Fact::Log(LogFact::DamageAcknowledged(_)) => Ok(()),
            Fact::Resource(_) | Fact::Log(_) | Fact::Key(KeyFact::Rotated(_)) => denied(format!(
                "{}.{} is stated by the service itself; ask for what leads to it instead",
                fact.stem(),
                fact.name()
            )),
        }
    }

    fn check_tenant(&self, fact: &TenantFact) -> Result<(), Denied> {
        match fact {
            TenantFact::Created(Created { tenant, .. }) => {
                if self.tenant(tenant).is_some() {
                    return denied(format!("the tenant {tenant} exists already"));
                }
                if tenant.level2.is_some() && !self.has_level1(&tenant.level1) {
                    return denied(format!(
                        "{tenant} needs its level-1 tenant; create {} first",
                        tenant.level1
                    ));
                }
                Ok(())
            }
            TenantFact::Bound(Bound { tenant, .. }) => match self.level2(tenant)? {
                TenantState { bound: true, .. } => denied(format!("{tenant} is bound already")),
                _ => Ok(()),
            },
            TenantFact::Unbound(Unbound { tenant, .. }) => match self.level2(tenant)? {
                TenantState { bound: false, .. } => denied(format!("{tenant} is not bound")),
                _ => Ok(()),
            },
            // One that exists by announcements alone can be shut out, too.
            TenantFact::Removed(Removed { tenant, .. })
                if tenant.level2.is_none() && self.has_level1(&tenant.level1) =>
            {
                Ok(())
            }
            TenantFact::ReaderEnrolled(_) | TenantFact::ReaderRevoked(_) => Ok(()),
            TenantFact::Granted(Granted { tenant, .. }) | TenantFact::Removed(Removed { tenant, .. }) => {
                self.existing(tenant).map(drop)
            }
        }
    }

    fn check_issued(&self, issued: &Issued, now: Timestamp) -> Result<(), Denied> {
        let Issued { key_id, tenant, not_after, .. } = issued;
        if tenant.level2.is_some() {
            return denied(format!(
                "a key belongs to a level-1 tenant; issue it to {}, and bind {tenant} to share it",
                tenant.level1
            ));
        }
        if !self.has_level1(&tenant.level1) {
            return denied(format!("the tenant {tenant} does not exist; create it first"));
        }
        if not_after.is_some_and(|end| end <= now) {
            return denied(format!("the key {key_id} would have ended already; name a later moment"));
        }
        match self.issued(key_id) {
            Some(AccessKey { revoked_at: Some(_), .. }) => {
                denied(format!("the key {key_id} was revoked and stays so; issue one of another name"))
            }
            Some(known) if known.tenant != *tenant => {
                denied(format!("the key {key_id} belongs to {}; issue one of another name", known.tenant))
            }
            _ => Ok(()),
        }
    }

    fn check_revoked(&self, Revoked { key_id, source, .. }: &Revoked) -> Result<(), Denied> {
        if let Some(source) = source {
            // Also one that was withdrawn: its source could announce it again.
            let announced = self.keys.iter().any(|key| key.key_id == *key_id && key.is_of(source));
            return if announced { Ok(()) } else { denied(format!("{source} announced no key {key_id}")) };
        }
        match self.issued(key_id) {
            Some(AccessKey { revoked_at: None, .. }) => Ok(()),
            Some(_) => denied(format!("the key {key_id} is revoked already")),
            None if self.keys.iter().any(|key| key.key_id == *key_id) => denied(format!(
                "the key {key_id} was announced by a source; name the source, or withdraw it at its agent"
            )),
            None => denied(format!("the key {key_id} does not exist")),
        }
    }

    fn tenant(&self, tenant: &TenantId) -> Option<&TenantState> {
        self.tenants.iter().find(|known| known.tenant == *tenant)
    }

    fn existing(&self, tenant: &TenantId) -> Result<&TenantState, Denied> {
        self.tenant(tenant)
            .ok_or_else(|| Denied(format!("the tenant {tenant} does not exist; create it first")))
    }

    fn level2(&self, tenant: &TenantId) -> Result<&TenantState, Denied> {
        if tenant.level2.is_none() {
            return Err(Denied(format!(
                "{tenant} is a level-1 tenant and has its own key; only a level-2 tenant (l1/l2) is bound"
            )));
        }
        self.existing(tenant)
    }

    /// A level-1 tenant exists when it was created, or when a source announced a key of it and nobody removed it.
    fn has_level1(&self, level1: &Name) -> bool {
        let is_it = |tenant: &TenantId| tenant.level1 == *level1 && tenant.level2.is_none();
        let announced = self.keys.iter().filter(|key| matches!(key.origin, KeyOrigin::Source { .. }));
        self.tenants.iter().any(|known| is_it(&known.tenant))
            || (!self.removed.contains(level1) && announced.into_iter().any(|key| is_it(&key.tenant)))
    }

    fn issued(&self, key_id: &Name) -> Option<&AccessKey> {
        self.keys.iter().find(|key| key.key_id == *key_id && key.origin == KeyOrigin::Target)
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Hash32;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000);

    fn tenant(id: &str, bound: bool) -> TenantState {
        TenantState { tenant: id.parse().unwrap(), bound, grant: None, since: NOW }
    }

    fn key(id: &str, tenant: &str, origin: KeyOrigin, revoked: bool) -> AccessKey {
        AccessKey {
            key_id: id.parse().unwrap(),
            origin,
            tenant: tenant.parse().unwrap(),
            salt: Hash32::ZERO,
            hash: Hash32::ZERO,
            not_after: None,
            since: NOW,
            revoked_at: revoked.then_some(NOW),
        }
    }

    fn registry() -> Registry {
        let source = || KeyOrigin::Source {
            pool: "local/dc1".parse().unwrap(),
            source: "/local/dc1/resource/a".into(),
        };
        Registry {
            tenants: vec![tenant("acme", true), tenant("acme/web", true), tenant("acme/ops", false)],
            keys: vec![
                key("ak-1", "acme", KeyOrigin::Target, false),
                key("ak-old", "acme", KeyOrigin::Target, true),
                key("ak-src", "globex", source(), false),
                key("ak-shut", "umbrella", source(), true),
            ],
            removed: vec!["umbrella".parse().unwrap()],
        }
    }

    fn check(event: &str, data: &str) -> Result<(), String> {
        let (stem, name) = event.split_once('.').unwrap();
        let fact = Fact::decode(stem.parse().unwrap(), name, data.as_bytes()).unwrap();
        registry().check(&fact, NOW).map_err(|denied| denied.to_string())
    }

    fn tenant_fact(name: &str, tenant: &str) -> Result<(), String> {
        check(&format!("tenant.{name}"), &format!(r#"{{"tenant":"{tenant}","pools":[],"actor":"op"}}"#))
    }

    fn issue(key: &str, tenant: &str, not_after: &str) -> Result<(), String> {
        let zero = Hash32::ZERO;
        let data = format!(
            r#"{{"key_id":"{key}","tenant":"{tenant}","salt":"{zero}","hash":"{zero}","not_after":{not_after},"actor":"op"}}"#
        );
        check("key.issued", &data)
    }

    #[test]
    fn r8_a_level_2_tenant_needs_its_level_1_tenant() {
        assert_eq!(tenant_fact("created", "acme/db"), Ok(()));
        assert!(tenant_fact("created", "initech/db").unwrap_err().contains("create initech first"));
        assert_eq!(tenant_fact("created", "globex/db"), Ok(()), "a source announced a key of globex");
        assert!(tenant_fact("created", "acme").unwrap_err().contains("exists"));
    }

    #[test]
    fn r8_only_level_2_tenants_are_bound_and_unbound() {
        assert_eq!(tenant_fact("bound", "acme/ops"), Ok(()));
        assert!(tenant_fact("bound", "acme/web").unwrap_err().contains("already"));
        assert!(tenant_fact("bound", "acme").unwrap_err().contains("level-1"));
        assert_eq!(tenant_fact("unbound", "acme/web"), Ok(()));
        assert!(tenant_fact("unbound", "acme/ops").unwrap_err().contains("not bound"));
        assert!(tenant_fact("bound", "acme/none").unwrap_err().contains("does not exist"));
    }

    #[test]
    fn what_a_tenant_may_see_needs_the_tenant() {
        assert_eq!(tenant_fact("granted", "acme/web"), Ok(()));
        assert!(tenant_fact("granted", "acme/none").is_err() && tenant_fact("removed", "none").is_err());
    }

    #[test]
    fn r8_keys_belong_to_level_1_tenants() {
        assert_eq!(issue("ak-2", "acme", "null"), Ok(()));
        assert!(issue("ak-2", "acme/web", "null").unwrap_err().contains("issue it to acme"));
        assert!(issue("ak-2", "initech", "null").unwrap_err().contains("create it first"));
    }

    #[test]
    fn a_key_is_rotated_by_its_tenant_only_and_never_after_its_end() {
        assert_eq!(issue("ak-1", "acme", "null"), Ok(()), "a rotation");
        assert!(issue("ak-1", "globex", "null").unwrap_err().contains("belongs to acme"));
        assert!(issue("ak-old", "acme", "null").unwrap_err().contains("revoked"));
        assert!(issue("ak-2", "acme", r#""1970-01-01T00:00:01Z""#).unwrap_err().contains("ended"));
    }

    #[test]
    fn a_key_is_revoked_once_and_a_sources_key_at_its_agent() {
        let revoke = |key: &str| check("key.revoked", &format!(r#"{{"key_id":"{key}","actor":"op"}}"#));
        assert_eq!(revoke("ak-1"), Ok(()));
        assert!(revoke("ak-old").unwrap_err().contains("already"));
        assert!(revoke("ak-src").unwrap_err().contains("agent"));
        assert!(revoke("ak-none").unwrap_err().contains("not exist"));
    }

    #[test]
    fn r7_a_key_that_a_source_announced_is_revoked_at_the_target() {
        let revoke = |key: &str, source: &str| {
            check("key.revoked", &format!(r#"{{"key_id":"{key}","source":"{source}","actor":"op"}}"#))
        };
        assert_eq!(revoke("ak-src", "/local/dc1/resource/a"), Ok(()));
        assert_eq!(revoke("ak-shut", "/local/dc1/resource/a"), Ok(()), "withdrawn, and could come again");
        assert!(revoke("ak-src", "/local/dc2/resource/a").unwrap_err().contains("announced no key"));
        assert!(revoke("ak-1", "/local/dc1/resource/a").is_err(), "the target's own is no source's");
    }

    #[test]
    fn r8_a_removed_tenant_exists_no_more_whatever_is_announced_until_it_is_created() {
        assert_eq!(tenant_fact("removed", "globex"), Ok(()), "announced only");
        assert!(tenant_fact("removed", "umbrella").is_err(), "removed already");
        assert!(tenant_fact("created", "umbrella/db").unwrap_err().contains("create umbrella first"));
        assert!(issue("ak-9", "umbrella", "null").unwrap_err().contains("create it first"));
        assert_eq!(tenant_fact("created", "umbrella"), Ok(()));
    }

    #[test]
    fn nobody_states_what_the_service_states_itself() {
        let pause = r#"{"pool":"local/dc1","paused":true,"actor":"op"}"#;
        assert_eq!(check("resource.schedule_paused", pause), Ok(()));
        let rotated = r#"{"target":"local","key":"U","signature":"","actor":"op"}"#;
        assert!(check("key.rotated", rotated).unwrap_err().contains("itself"));
        let zero = Hash32::ZERO;
        let checkpoint = format!(
            r#"{{"target":"local","number":"1","previous":"{zero}","stated_at":"1970-01-01T00:00:00Z","logs":[],"owners":[],"key":"U","signature":""}}"#
        );
        assert!(check("log.checkpoint", &checkpoint).unwrap_err().contains("itself"));
        let lease = r#"{"lease":"main","holder":"me"}"#;
        assert!(check("log.lease_acquired", lease).unwrap_err().contains("itself"));
    }
}
