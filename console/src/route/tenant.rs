//! Tenants (R8): two levels, bound and unbound, and what each may see.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use bus_schema::{
    TenantId,
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
        let announced = id.level2.is_none() && matches!(fact, Granted(_));
        if !announced {
            return Err(Problem::not_found(format!(
                "there is no tenant {id}; make it with 'farside tenant create {id}'"
            )));
        }
    }
    command::state(&api, Fact::Tenant(fact)).await.map(Json)
}

async fn exists(api: &Api, tenant: &TenantId) -> Result<bool, Problem> {
    let tenant = tenant.clone();
    Ok(api.read(move |reader| reader.tenant(&tenant)).await?.is_some())
}
