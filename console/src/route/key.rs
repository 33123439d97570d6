//! Access keys of the target (R7): made here, shown once, kept as a salted hash.

use std::{collections::BTreeSet, fmt::Write, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use bus_schema::{
    Hash32, Name,
    event::key::secret_hash,
    fact::{Fact, key as fact},
    id::NAME_BYTES_MAX,
};
use projector::{AccessKey, KeyOrigin};

use super::command;
use crate::{
    api::{Api, now},
    extract::{Body, Operator},
    problem::Problem,
    request,
    view::{KeyMade, KeyView, ListView, StatedView},
};

/// Random bytes of a secret: 256 bits.
const SECRET_BYTES: usize = 32;
/// Random bytes of a key's public name.
const NAME_RANDOM_BYTES: usize = 4;

/// `GET /v1/keys`: the target's own and those that sources announced.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    _: Operator,
) -> Result<Json<ListView<KeyView>>, Problem> {
    let (keys, as_of) = api
        .read(|reader| {
            let mut keys = reader.issued_keys()?.value;
            for summary in reader.pools()?.iter() {
                keys.extend(reader.keys(&summary.pool)?.value);
            }
            Ok((keys, reader.as_of()?))
        })
        .await?;
    Ok(Json(ListView { as_of: as_of.into(), items: keys.into_iter().map(KeyView::from).collect() }))
}

/// `POST /v1/keys`: makes a key, or gives one a new secret.
pub(super) async fn make(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Body(wanted): Body<request::MakeKey>,
) -> Result<Json<KeyMade>, Problem> {
    let request::MakeKey { tenant, key_id, not_after } = wanted;
    if tenant.level2.is_some() {
        return Err(Problem::bad_request(format!(
            "{tenant} is a level-2 tenant, which uses the key of {0}; make one for {0} and run 'farside tenant bind {tenant}'",
            tenant.level1
        )));
    }
    if not_after.is_some_and(|end| end <= now()) {
        return Err(Problem::bad_request("the key would have ended already; give a later end"));
    }
    let key_id = match key_id {
        Some(key_id) => rotatable(&api, key_id, &tenant).await?,
        None => new_name(&tenant.level1)?,
    };
    let salt = Hash32(random()?);
    let secret = hex(&random::<SECRET_BYTES>()?);
    let hash = secret_hash(&salt, &secret);
    let (id, of, end) = (key_id.clone(), tenant.clone(), not_after);
    let issued = fact::Issued { key_id: id, tenant: of, salt, hash, not_after: end, actor: operator.actor };
    let StatedView { place, .. } = command::state(&api, Fact::Key(fact::KeyFact::Issued(issued))).await?;
    let credential = format!("{key_id}.{secret}");
    Ok(Json(KeyMade { key_id, tenant, credential, not_after, place }))
}

/// A name that is free, or that names a key of the same tenant.
async fn rotatable(api: &Api, key_id: Name, tenant: &bus_schema::TenantId) -> Result<Name, Problem> {
    let found = keys(api, &key_id).await?;
    match found.iter().find(|key| key.tenant != *tenant) {
        None => Ok(key_id),
        Some(other) => Err(Problem::conflict(format!(
            "key {key_id} belongs to tenant {}; choose another name",
            other.tenant
        ))),
    }
}

async fn keys(api: &Api, key_id: &Name) -> Result<Vec<AccessKey>, Problem> {
    let key_id = key_id.clone();
    Ok(api.read(move |reader| reader.key(&key_id)).await?.value)
}

fn new_name(tenant: &Name) -> Result<Name, Problem> {
    let tail = hex(&random::<NAME_RANDOM_BYTES>()?);
    let room = NAME_BYTES_MAX - tail.len() - 1;
    let head: String = tenant.as_str().chars().take(room).collect();
    format!("{head}-{tail}").parse().map_err(|e| Problem::internal(format!("no name for the key: {e}")))
}

/// `DELETE /v1/keys/{key_id}`: revokes every key of this name: the target's own, and, for good, those that sources
/// announced. A source may be lost or in other hands, so that nobody can withdraw it there.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Path(key_id): Path<String>,
) -> Result<Json<StatedView>, Problem> {
    let key_id: Name =
        key_id.parse().map_err(|e: bus_schema::id::IdError| Problem::bad_request(e.to_string()))?;
    let found = keys(&api, &key_id).await?;
    let mut stated = None;
    for source in revocable(&found) {
        let revoked = fact::Revoked { key_id: key_id.clone(), source, actor: operator.actor.clone() };
        stated = Some(command::state(&api, Fact::Key(fact::KeyFact::Revoked(revoked))).await?);
    }
    stated.map(Json).ok_or_else(|| {
        Problem::not_found(format!("there is no key {key_id}; 'farside key list' shows those that there are"))
    })
}

/// The sources whose key is to be revoked; none = the target's own, which is left out when it is revoked already
/// and others are not.
fn revocable(found: &[AccessKey]) -> BTreeSet<Option<String>> {
    let source = |key: &AccessKey| match &key.origin {
        KeyOrigin::Source { source, .. } => Some(source.clone()),
        KeyOrigin::Target => None,
    };
    let is_target = |key: &&AccessKey| key.origin == KeyOrigin::Target;
    let left = found.iter().filter(|key| !(is_target(key) && key.revoked_at.is_some() && found.len() > 1));
    left.map(source).collect()
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Problem::internal(format!("the operating system gives no random bytes: {e}")))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
