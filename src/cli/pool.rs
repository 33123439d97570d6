//! `farside pool`: the resources of a source cluster, now and at any past moment.

use bus_schema::{ResourceKey, Timestamp};
use clap::{Args, Subcommand};
use console::view::{ListView, PoolView, ResourcePage, ResourceView};
use projector::SyncRecord;

use super::{
    CliError, Context, Ended, Output,
    client::{key_path, pool_path, query},
    render::{Table, now, relative, span},
};

mod history;

/// List pools, show resources, their history, and whole exports
#[derive(Debug, Subcommand)]
pub(crate) enum Pool {
    List(List),
    Get(Get),
    History(history::History),
    Syncs(Syncs),
    Export(Export),
}

/// Show the last syncs of a pool: who was asked, why, and what came of it
#[derive(Debug, Args)]
#[command(after_help = "Example: farside pool syncs dc1")]
pub(crate) struct Syncs {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

/// List the pools
#[derive(Debug, Args)]
#[command(after_help = "Example: farside pool list")]
pub(crate) struct List {}

/// Show one resource, or list a pool's resources
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside pool get dc1 Deployment/prod/web\n         farside pool get dc1 --kind Pod --label app=web\n         farside pool get dc1 Pod/web --at 2026-11-22T04:31:48Z -o yaml"
)]
pub(crate) struct Get {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// The resource, kind/id; without one the pool is listed
    #[arg(value_name = "KIND/ID")]
    key: Option<ResourceKey>,
    /// Only this kind
    #[arg(long, conflicts_with = "key")]
    kind: Option<String>,
    /// Only resources with this label; may be repeated
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "key")]
    label: Vec<String>,
    /// Only resources of this tenant
    #[arg(long, value_name = "L1[/L2]", conflicts_with = "key")]
    tenant: Option<String>,
    /// Deleted resources too
    #[arg(long, conflicts_with = "key")]
    deleted: bool,
    /// Only resources whose announced state has not come
    #[arg(long, conflicts_with = "key")]
    stale: bool,
    /// At most so many
    #[arg(long, default_value_t = 100, conflicts_with = "key")]
    limit: usize,
    /// Go on after this resource
    #[arg(long, value_name = "KIND/ID", conflicts_with = "key")]
    after: Option<ResourceKey>,
    /// As it was then: a sequence of the log, or a time
    #[arg(long, value_name = "SEQ|TIME")]
    at: Option<String>,
}

/// Write a whole pool as RFC 8785 JSON lines, sorted by key: equal pools give equal bytes
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside pool export dc1 | sha256sum\n         farside pool export dc1 --at 1200 > then.jsonl"
)]
pub(crate) struct Export {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// As it was then: a sequence of the log, or a time
    #[arg(long, value_name = "SEQ|TIME")]
    at: Option<String>,
}

impl Pool {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        match self {
            Self::List(verb) => verb.run(context).await,
            Self::Get(verb) => verb.run(context).await,
            Self::History(verb) => verb.run(context).await,
            Self::Syncs(verb) => verb.run(context).await,
            Self::Export(verb) => verb.run(context).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pools: ListView<PoolView> = context.client.get("/v1/pools").await?;
        context.show(&pools, |pools| {
            let mut table = Table::new(&["POOL", "IN SYNC", "ROWS", "DELETED", "SOURCES", "BEHIND"]);
            for pool in &pools.items {
                table.row([
                    pool.pool.to_string(),
                    pool.in_sync.to_string(),
                    pool.resources.to_string(),
                    pool.deleted.to_string(),
                    pool.owners.len().to_string(),
                    if pool.behind_ms == 0 { "-".to_owned() } else { span(pool.behind_ms) },
                ]);
            }
            table.text()
        })?;
        Ok(Ended::Done)
    }
}

impl Get {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        match self.key {
            Some(key) => {
                let path = pool_path(&pool, &key_path("resources", &key)) + &query(&[("at", self.at)]);
                let resource: ResourceView = context.client.get(&path).await?;
                // One resource is a document; a table of one line would hide its state.
                let output = if context.output == Output::Table { Output::Yaml } else { context.output };
                let whole = Context {
                    config: context.config.clone(),
                    client: context.client.clone(),
                    output,
                    is_local: context.is_local,
                };
                whole.show(&resource, |_| String::new())?;
            }
            None => {
                let labels = (!self.label.is_empty()).then(|| self.label.join(","));
                let query = query(&[
                    ("kind", self.kind),
                    ("label", labels),
                    ("tenant", self.tenant),
                    ("deleted", self.deleted.then(|| "true".to_owned())),
                    ("stale", self.stale.then(|| "true".to_owned())),
                    ("limit", Some(self.limit.to_string())),
                    ("after", self.after.map(|key| key.to_string())),
                    ("at", self.at),
                ]);
                let page: ResourcePage =
                    context.client.get(&(pool_path(&pool, "resources") + &query)).await?;
                context.show(&page, |page| table(page, now()))?;
            }
        }
        Ok(Ended::Done)
    }
}

impl Syncs {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        let path = pool_path(&pool, "syncs") + &query(&[("limit", Some(self.limit.to_string()))]);
        let syncs: ListView<SyncRecord> = context.client.get(&path).await?;
        context.show(&syncs, |syncs| {
            let mut table = Table::new(&["ASKED", "SOURCE", "REASON", "SCOPE", "RESULT"]);
            for sync in &syncs.items {
                let asked = sync.requested.as_ref();
                table.row([
                    asked.map_or("-".to_owned(), |(at, _)| at.to_string()),
                    sync.owner.clone(),
                    asked.map_or("-".to_owned(), |(_, request)| {
                        format!("{:?}", request.reason).to_lowercase()
                    }),
                    asked
                        .map_or("-".to_owned(), |(_, request)| format!("{:?}", request.scope).to_lowercase()),
                    outcome(sync),
                ]);
            }
            table.text()
        })?;
        Ok(Ended::Done)
    }
}

fn outcome(sync: &SyncRecord) -> String {
    match (&sync.completed, &sync.failed) {
        (Some((_, done)), _) => {
            let equal = if done.equal { "equal" } else { "NOT EQUAL" };
            format!(
                "{equal} after {}: {} resources, {} bytes",
                span(done.took_ms),
                done.resources,
                done.bytes
            )
        }
        (None, Some((_, failed))) => format!("failed: {}", failed.reason),
        (None, None) => "under way".to_owned(),
    }
}

fn table(page: &ResourcePage, now: Timestamp) -> String {
    let mut table = Table::new(&["RESOURCE", "REVISION", "STATE", "SOURCE", "PLACE", "STORED"]);
    for resource in &page.items {
        let state = match (resource.deleted_at, resource.is_stale()) {
            (Some(_), _) => "deleted",
            (None, true) => "stale",
            (None, false) => "there",
        };
        table.row([
            resource.key.to_string(),
            resource.revision.as_ref().map_or("-", |revision| revision.as_str()).to_owned(),
            state.to_owned(),
            resource.owner.clone(),
            resource.place.clone(),
            relative(Some(resource.stored_at), now.max(page.as_of.time)),
        ]);
    }
    let mut text = table.text();
    text += &format!("as of {} ({})\n", page.as_of.places.join(" "), page.as_of.time);
    if let Some(next) = &page.next {
        text += &format!("there may be more: --after '{next}'\n");
    }
    text
}

impl Export {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        let path = pool_path(&pool, "export") + &query(&[("at", self.at)]);
        context.client.copy(&path, &mut std::io::stdout().lock()).await?;
        Ok(Ended::Done)
    }
}
