//! Tenants (R8): two levels, bound and unbound, and what each may see.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use bus_schema::{
    PoolId, TenantId,
    fact::{Fact, tenant as fact},
};

use super::command;
use crate::{
    api::Api,
    extract::{Body, Operator},
    problem::Problem,
    request,
    view::{ListView, StatedView, TenantView},
};

/// `GET /v1/tenants`
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    _: Operator,
) -> Result<Json<ListView<TenantView>>, Problem> {
    let tenants = api.read(projector::Reader::tenants).await?;
    let items = tenants.value.into_iter().map(TenantView::from).collect();
    Ok(Json(ListView { as_of: tenants.as_of.into(), items }))
}

/// `POST /v1/tenants/{create|bind|unbind|grant|remove}`
pub(super) async fn state(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Path(verb): Path<String>,
    Body(wanted): Body<request::Tenant>,
) -> Result<Json<StatedView>, Problem> {
    use fact::TenantFact::{Bound, Created, Granted, Removed, Unbound};
    let request::Tenant { tenant, pools, labels } = wanted;
    let granted = if verb == "grant" { pools.clone() } else { vec![] };
    let (actor, id) = (operator.actor, tenant.clone());
    let fact = match verb.as_str() {
        "create" => Created(fact::Created { tenant, actor }),
        "bind" => Bound(fact::Bound { tenant, actor }),
        "unbind" => Unbound(fact::Unbound { tenant, actor }),
        "grant" => Granted(fact::Granted { tenant, pools, labels, actor }),
        "remove" => Removed(fact::Removed { tenant, actor }),
        _ => {
            return Err(Problem::not_found(format!(
                "tenants are not {verb:?}; the verbs are create, bind, unbind, grant, remove"
            )));
        }
    };
    if matches!(fact, Bound(_) | Unbound(_)) && id.level2.is_none() {
        return Err(Problem::bad_request(format!(
            "{id} is a level-1 tenant, which has its own key; bind a level-2 tenant: l1/l2"
        )));
    }
    if !matches!(fact, Created(_)) && !exists(&api, &id).await? {
        // A level-1 tenant may be known only by the key that its source announced.
        let announced = id.level2.is_none() && matches!(fact, Granted(_) | Removed(_));
        if !announced {
            return Err(Problem::not_found(format!(
                "there is no tenant {id}; make it with 'farside tenant create {id}'"
            )));
        }
    }
    let stated = command::state(&api, Fact::Tenant(fact)).await?;
    api.parts.enrolment.settle().await?;
    Ok(Json(StatedView { warning: in_vain(&api, &id, granted).await?, ..stated }))
}

/// A level-2 tenant sees what its level-1 tenant may see, or less: when that may see none of what was granted,
/// the grant shows nothing.
async fn in_vain(api: &Api, tenant: &TenantId, granted: Vec<PoolId>) -> Result<Option<String>, Problem> {
    let Some(example) = granted.first().cloned().filter(|_| tenant.level2.is_some()) else { return Ok(None) };
    let first = TenantId { level1: tenant.level1.clone(), level2: None };
    let level1 = first.clone();
    let shown = api.read(move |reader| {
        let grant = reader.tenant(&first)?.value.and_then(|tenant| tenant.grant);
        for pool in &granted {
            let shown = match &grant {
                Some(grant) => grant.pools.contains(pool),
                // Without a grant it sees the pools whose sources announced a key for it.
                None => reader.keys(pool)?.value.iter().any(|key| key.tenant == first),
            };
            if shown {
                return Ok(true);
            }
        }
        Ok(false)
    });
    Ok((!shown.await?).then(|| {
        format!(
            "{tenant} sees nothing by this grant, because {level1} may not see it itself; run 'farside tenant grant {level1} --pool {example}'"
        )
    }))
}

async fn exists(api: &Api, tenant: &TenantId) -> Result<bool, Problem> {
    let tenant = tenant.clone();
    Ok(api.read(move |reader| reader.tenant(&tenant)).await?.is_some())
}
