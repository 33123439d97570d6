//! `farside tenant`: two levels of tenants, and what each may see (R8).

use std::collections::BTreeMap;

use bus_schema::TenantId;
use clap::{Args, Subcommand};
use console::{
    request,
    view::{ListView, StatedView, TenantView},
};

use super::{CliError, Context, Ended, render::Table, tell};

/// Make, bind, unbind and remove tenants, and grant what they may see
#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// List the tenants
    #[command(after_help = "Example: farside tenant list")]
    List,
    /// Make a tenant
    #[command(after_help = "Example: farside tenant create acme\n         farside tenant create acme/web")]
    Create(Named),
    /// Let a level-2 tenant use the access key of its level-1 tenant
    #[command(after_help = "Example: farside tenant bind acme/web")]
    Bind(Named),
    /// Shut a level-2 tenant out again
    #[command(after_help = "Example: farside tenant unbind acme/web")]
    Unbind(Named),
    /// Remove a tenant, and with a level-1 tenant all below it
    #[command(after_help = "Example: farside tenant remove acme/web")]
    Remove(Named),
    Grant(Grant),
}

/// A tenant by name
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The tenant: l1, or l1/l2
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
}

/// Say what a tenant may see from now on; replaces what it could see before
#[derive(Debug, Args)]
#[command(after_help = "Example: farside tenant grant acme/web --pool dc1 --label app=web")]
pub(crate) struct Grant {
    /// The tenant: l1, or l1/l2
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// A cluster, or site/cluster, that it may see; may be repeated
    #[arg(long, value_name = "CLUSTER")]
    pool: Vec<String>,
    /// Only resources with this label; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
}

impl Tenant {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let named = |tenant| request::Tenant { tenant, pools: vec![], labels: BTreeMap::new() };
        match self {
            Self::List => list(context).await,
            Self::Create(Named { tenant }) => state(context, "create", named(tenant)).await,
            Self::Bind(Named { tenant }) => state(context, "bind", named(tenant)).await,
            Self::Unbind(Named { tenant }) => state(context, "unbind", named(tenant)).await,
            Self::Remove(Named { tenant }) => state(context, "remove", named(tenant)).await,
            Self::Grant(Grant { tenant, pool, label }) => {
                let pools = pool.iter().map(|pool| context.pool(pool)).collect::<Result<_, _>>()?;
                let pair = |text: &String| {
                    let (name, value) = text.split_once('=')?;
                    Some((name.to_owned(), value.to_owned()))
                };
                let labels: Option<_> = label.iter().map(pair).collect();
                let labels =
                    labels.ok_or_else(|| CliError::Usage("write labels as --label name=value".to_owned()))?;
                state(context, "grant", request::Tenant { tenant, pools, labels }).await
            }
        }
    }
}

async fn list(context: &Context) -> Result<Ended, CliError> {
    let tenants: ListView<TenantView> = context.client.get("/v1/tenants").await?;
    context.show(&tenants, |tenants| {
        let mut table = Table::new(&["TENANT", "USES THE KEY", "POOLS", "LABELS", "SINCE"]);
        for tenant in &tenants.items {
            let grant = tenant.grant.as_ref();
            let pools =
                grant.map(|grant| grant.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
            let labels = grant.map(|grant| {
                grant
                    .labels
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            table.row([
                tenant.tenant.to_string(),
                if tenant.bound { "yes" } else { "NO" }.to_owned(),
                pools.unwrap_or_else(|| "no grant of its own".to_owned()),
                labels.unwrap_or_default(),
                tenant.since.to_string(),
            ]);
        }
        table.text()
    })?;
    Ok(Ended::Done)
}

async fn state(context: &Context, verb: &str, wanted: request::Tenant) -> Result<Ended, CliError> {
    let stated: StatedView = context.client.post(&format!("/v1/tenants/{verb}"), &wanted).await?;
    context.show(&stated, |stated| format!("{verb} {}: stated at {}\n", wanted.tenant, stated.place))?;
    if let Some(warning) = &stated.warning {
        tell(&format!("farside: warning: {warning}"));
    }
    Ok(Ended::Done)
}
