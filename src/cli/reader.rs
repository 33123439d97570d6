//! `farside reader`: who reads whole clusters from the log, with any NATS client, on behalf of a tenant.

use std::{collections::BTreeSet, path::PathBuf};

use bus::managed::identity::READER_DOMAIN;
use bus_schema::{Name, TenantId};
use clap::{Args, Subcommand};
use console::{
    request,
    view::{EnrolledView, ReaderView, RevokedView},
};

use super::{
    CliError, Context, Ended,
    agent::tell_warning,
    pair::{KeyFrom, Pair},
    render::Table,
    tell,
};

/// Let tenants read whole clusters from the log, with any NATS client
#[derive(Debug, Subcommand)]
pub(crate) enum Reader {
    Enroll(Enroll),
    /// Let a reader in no more; its connection ends at once
    #[command(after_help = "Example: farside reader revoke acme-audit")]
    Revoke(Named),
    /// List the readers that may come in
    #[command(after_help = "Example: farside reader list")]
    List,
}

/// Let a reader in: it gets a key of its own and a consumer with a filter; it can read from that and do nothing else
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside reader enroll acme-audit --tenant acme --out acme-audit.nk\n         farside reader enroll acme-audit --tenant acme --cluster prod-eu --public-key U…"
)]
pub(crate) struct Enroll {
    /// Its name
    #[arg(value_name = "NAME")]
    name: Name,
    /// The tenant that it reads for: l1, or l1/l2
    #[arg(long, value_name = "TENANT")]
    tenant: TenantId,
    /// A cluster, or site/cluster, that it reads; several separated by commas [default: all that are granted to the tenant]
    #[arg(long, value_name = "CLUSTER", value_delimiter = ',')]
    cluster: Vec<String>,
    #[command(flatten)]
    key: KeyFrom,
}

/// A reader by name
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name
    #[arg(value_name = "NAME")]
    name: Name,
}

impl Reader {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        match self {
            Self::Enroll(enroll) => enroll.run(context).await,
            Self::Revoke(Named { name }) => {
                let gone: RevokedView = context.client.delete(&format!("/v1/readers/{name}")).await?;
                tell_warning(gone.warning.as_deref());
                context.show(&gone, |gone| {
                    let place =
                        gone.place.as_ref().map(|place| format!(": stated at {place}")).unwrap_or_default();
                    format!("the reader {name} may not come in any more{place}\n")
                })?;
                Ok(Ended::Done)
            }
            Self::List => list(context).await,
        }
    }
}

impl Enroll {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { name, tenant, cluster, key } = self;
        let pools = cluster.iter().map(|text| context.pool(text)).collect::<Result<BTreeSet<_>, _>>()?;
        let pair = Pair::of(key, PathBuf::from(format!("{name}.nk")))?;
        let public_key = pair.public_key().to_string();
        let wanted = request::EnrollReader { name: name.clone(), tenant: tenant.clone(), pools, public_key };
        let enrolled: Result<EnrolledView, _> = context.client.post("/v1/readers", &wanted).await;
        let enrolled = pair.kept_if(enrolled)?;
        tell_warning(enrolled.warning.as_deref());
        context.show(&enrolled, |enrolled| {
            let place =
                enrolled.place.as_ref().map(|place| format!(" (stated at {place})")).unwrap_or_default();
            format!(
                "# the reader {name} of tenant {tenant} may come in{place}; consumer reader-{name}, JetStream domain {READER_DOMAIN}\n{}",
                pair.settings(enrolled.servers.as_deref().unwrap_or_default(), enrolled.tls)
            )
        })?;
        tell("farside: it reads the log of its clusters as a whole, resources of other tenants among them");
        Ok(Ended::Done)
    }
}

async fn list(context: &Context) -> Result<Ended, CliError> {
    let readers: Vec<ReaderView> = context.client.get("/v1/readers").await?;
    context.show(&readers, |readers| {
        let mut table = Table::new(&["READER", "TENANT", "CLUSTERS", "STREAMS", "CONSUMER", "PUBLIC KEY"]);
        for reader in readers {
            let pools: Vec<_> = reader.pools.iter().map(ToString::to_string).collect();
            table.row([
                reader.name.to_string(),
                reader.tenant.to_string(),
                pools.join(" "),
                reader.streams.join(" "),
                reader.consumer.clone(),
                reader.public_key.clone(),
            ]);
        }
        table.text()
    })?;
    Ok(Ended::Done)
}
