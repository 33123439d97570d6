//! The table of who gets in: every row of R7 and R8.

use std::collections::BTreeMap;

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

#[derive(Default)]
struct Listed {
    keys: BTreeMap<String, Vec<AccessKey>>,
    tenants: BTreeMap<String, TenantState>,
    removed: Vec<Name>,
}

impl Directory for Listed {
    fn keys(&self, id: &Name) -> Result<Vec<AccessKey>, DirectoryError> {
        Ok(self.keys.get(id.as_str()).cloned().unwrap_or_default())
    }

    fn tenant(&self, id: &TenantId) -> Result<Option<TenantState>, DirectoryError> {
        Ok(self.tenants.get(&id.to_string()).cloned())
    }

    fn is_removed(&self, level1: &Name) -> Result<bool, DirectoryError> {
        Ok(self.removed.contains(level1))
    }
}

fn key(tenant: &str, secret: &str) -> AccessKey {
    let salt = Hash32::of(b"salt");
    AccessKey {
        key_id: "any".parse().unwrap(),
        origin: KeyOrigin::Source {
            pool: "local/dc1".parse().unwrap(),
            source: "/local/dc1/resource/inv".to_owned(),
        },
        tenant: tenant.parse().unwrap(),
        salt,
        hash: secret_hash(&salt, secret),
        not_after: None,
        since: NOW,
        revoked_at: None,
    }
}

fn pool(text: &str) -> PoolId {
    text.parse().unwrap()
}

fn directory() -> Listed {
    let mut listed = Listed::default();
    let ended = Some(Timestamp::from_unix_ms(NOW.unix_ms() - 1));
    let mut add = |id: &str, record: AccessKey| listed.keys.entry(id.to_owned()).or_default().push(record);
    add("k1", key("acme", "right"));
    add("old", AccessKey { not_after: ended, ..key("acme", "right") });
    add("gone", AccessKey { revoked_at: Some(NOW), ..key("acme", "right") });
    add("made", AccessKey { origin: KeyOrigin::Target, ..key("acme", "right") });
    add("issued", AccessKey { origin: KeyOrigin::Target, ..key("rich", "right") });
    add(
        "planted",
        AccessKey {
            origin: KeyOrigin::Source { pool: pool("local/dc9"), source: "/local/dc9/resource/a".to_owned() },
            ..key("rich", "right")
        },
    );
    add("own", key("rich", "right"));
    add("still-said", key("shut", "right"));
    add("ghost", AccessKey { origin: KeyOrigin::Target, ..key("removed", "right") });
    let mut tenant = |id: &str, bound, grant| {
        let state = TenantState { tenant: id.parse().unwrap(), bound, grant, since: NOW };
        listed.tenants.insert(id.to_owned(), state);
    };
    tenant("acme", true, None);
    tenant("acme/web", true, None);
    tenant("acme/elsewhere", true, Some(Access::whole_pools(vec!["local/dc2".parse().unwrap()])));
    tenant("acme/out", false, None);
    tenant("rich", true, Some(Access::whole_pools(vec![pool("local/dc1"), pool("local/vault")])));
    listed.removed.push("shut".parse().unwrap());
    listed
}

fn ask(header: Option<&str>, tenant: Option<&str>) -> Result<Caller, AuthError> {
    authenticate(Offered::read(header)?, tenant, &OperatorToken::new("op-token"), &directory(), NOW)
}

#[track_caller]
fn refused(header: &str, tenant: Option<&str>, words: &str) {
    let error = ask(Some(header), tenant).unwrap_err().to_string();
    assert!(error.contains(words), "{header}: {error}");
    assert!(!error.contains("right") && !error.contains("wrong"), "a secret is in the error: {error}");
}

#[track_caller]
fn sees(header: &str, tenant: Option<&str>, pool: &str) -> bool {
    match ask(Some(header), tenant).unwrap() {
        Caller::Tenant { access, .. } => access.covers(&pool.parse().unwrap()),
        Caller::Operator { .. } => true,
    }
}

#[test]
fn an_operator_token_opens_everything_and_a_wrong_one_nothing() {
    assert!(matches!(ask(Some("Bearer op-token"), None), Ok(Caller::Operator { .. })));
    refused("Bearer op-tokem", None, "not known");
    refused("Basic b3A6", None, "not a bearer");
    assert!(ask(None, None).unwrap_err().to_string().contains("no credential"));
}

#[test]
fn r7_a_key_that_the_source_announced_authenticates_its_tenant_for_that_pool() {
    assert!(sees("Bearer k1.right", None, "local/dc1"));
    assert!(!sees("Bearer k1.right", None, "local/dc2"));
    assert!(!sees("Bearer made.right", None, "local/dc1"), "a key of the target needs an explicit grant");
    refused("Bearer ghost.right", None, "does not exist");
    refused("Bearer k1.wrong", None, "not known");
    refused("Bearer nobody.right", None, "not known");
    refused("Bearer old.right", None, "expired");
    refused("Bearer gone.right", None, "revoked");
    refused("Bearer old.wrong", None, "not known");
}

#[test]
fn r7_an_announced_key_opens_no_pool_but_the_announcing_sources_own() {
    for pool in ["local/dc1", "local/vault"] {
        assert!(sees("Bearer issued.right", None, pool), "a key of the target opens the grant");
        assert!(!sees("Bearer planted.right", None, pool), "another cluster's agent announced it");
    }
    assert!(!sees("Bearer planted.right", None, "local/dc9"), "the grant does not hold its pool");
    assert!(sees("Bearer own.right", None, "local/dc1") && !sees("Bearer own.right", None, "local/vault"));
}

#[test]
fn r8_a_removed_tenant_gets_in_with_no_key_that_a_source_still_announces() {
    refused("Bearer still-said.right", None, "does not exist (any more)");
    refused("Bearer still-said.right", Some("shut/web"), "does not exist (any more)");
    refused("Bearer still-said.wrong", None, "not known");
}

#[test]
fn r8_a_bound_level_2_tenant_shares_the_key_and_an_unbound_one_cannot_use_it() {
    assert!(sees("Bearer k1.right", Some("acme/web"), "local/dc1"));
    refused("Bearer k1.right", Some("acme/out"), "farside tenant bind acme/out");
    refused("Bearer k1.right", Some("acme/unheard-of"), "is not bound");
    refused("Bearer k1.right", Some("other/web"), "does not belong to tenant other");
    refused("Bearer k1.right", Some("No/Tenant"), "Farside-Tenant");
    assert!(!sees("Bearer k1.right", Some("acme/elsewhere"), "local/dc2"), "never more than level 1");
}

#[test]
fn failures_of_the_credential_count_and_refusals_of_the_tenant_do_not() {
    let counts = |header, tenant| ask(Some(header), tenant).unwrap_err().counts_as_failure();
    assert!(counts("Bearer k1.wrong", None) && counts("Bearer x", None) && counts("Bearer old.right", None));
    assert!(!counts("Bearer k1.right", Some("acme/out")));
}
