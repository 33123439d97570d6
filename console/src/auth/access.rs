//! What a tenant may see: pools, and in them only resources with certain labels. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::{PoolId, TenantId};
use projector::Grant;

/// What one tenant may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    tenant: TenantId,
    pools: BTreeSet<PoolId>,
    /// Every selector that a resource must satisfy: the level-1 tenant's, then the level-2 tenant's.
    selectors: Vec<BTreeMap<String, String>>,
}

impl Access {
    /// The access that one grant gives.
    pub fn new(tenant: TenantId, grant: Grant) -> Self {
        let selectors = if grant.labels.is_empty() { vec![] } else { vec![grant.labels] };
        Self { tenant, pools: grant.pools.into_iter().collect(), selectors }
    }

    /// A grant of some pools with every resource in them.
    pub fn whole_pools(pools: Vec<PoolId>) -> Grant {
        Grant { pools, labels: BTreeMap::new() }
    }

    /// Never more than before: what both this access and the grant cover.
    #[must_use]
    pub fn narrowed(mut self, grant: &Grant) -> Self {
        self.pools.retain(|pool| grant.pools.contains(pool));
        if !grant.labels.is_empty() {
            self.selectors.push(grant.labels.clone());
        }
        self
    }

    /// Whether anything of this pool may be seen.
    pub fn covers(&self, pool: &PoolId) -> bool {
        self.pools.contains(pool)
    }

    /// The pools of which everything may be seen, whatever its labels; none when labels narrow them.
    pub fn whole(&self) -> Option<&BTreeSet<PoolId>> {
        self.is_whole().then_some(&self.pools)
    }

    /// Whether every resource of its pools may be seen, whatever its labels.
    pub fn is_whole(&self) -> bool {
        self.selectors.is_empty()
    }

    /// Whether a resource of a covered pool may be seen: it has the labels, and if it belongs to a
    /// tenant, then to this one or to a level-2 tenant below it.
    pub fn shows(&self, labels: &BTreeMap<String, String>, owner: Option<&TenantId>) -> bool {
        let labelled = self
            .selectors
            .iter()
            .flatten()
            .all(|(name, value)| labels.get(name).is_some_and(|found| found == value));
        labelled && owner.is_none_or(|owner| self.speaks_for(owner))
    }

    fn speaks_for(&self, owner: &TenantId) -> bool {
        self.tenant.level1 == owner.level1
            && (self.tenant.level2.is_none() || owner.level2.is_none() || self.tenant.level2 == owner.level2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn r8_a_level_2_tenant_never_sees_more_than_the_level_1_tenant_whose_key_it_uses() {
        let pools = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        let first = Grant { pools: pools(&["local/a", "local/b"]), labels: labels(&[("env", "prod")]) };
        let second = Grant { pools: pools(&["local/b", "local/c"]), labels: labels(&[("app", "web")]) };
        let access = Access::new("acme/web".parse().unwrap(), first).narrowed(&second);
        assert!(!access.covers(&"local/a".parse().unwrap()) && !access.covers(&"local/c".parse().unwrap()));
        assert!(access.covers(&"local/b".parse().unwrap()));
        assert!(access.shows(&labels(&[("env", "prod"), ("app", "web"), ("x", "y")]), None));
        assert!(!access.shows(&labels(&[("app", "web")]), None));
        assert!(!access.shows(&labels(&[("env", "prod")]), None));
    }

    #[test]
    fn a_resource_that_belongs_to_a_tenant_is_hidden_from_its_neighbours() {
        let of = |tenant: &str| Access::new(tenant.parse().unwrap(), Grant::default());
        let shows = |tenant: &str, owner: &str| of(tenant).shows(&labels(&[]), Some(&owner.parse().unwrap()));
        assert!(shows("acme", "acme/web") && shows("acme/web", "acme/web") && shows("acme/web", "acme"));
        assert!(!shows("acme/web", "acme/db") && !shows("acme", "other") && !shows("acme/web", "other/web"));
    }
}
