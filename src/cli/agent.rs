//! `farside agent`: source agents beside their source, and who of them may come in to NATS.

use std::{collections::BTreeSet, path::PathBuf};

use bus::{Credentials, managed::AgentId};
use bus_schema::{Name, PoolId, Stem};
use clap::{Args, Subcommand};
use console::{
    request,
    view::{AgentView, EnrolledView, RevokedView},
};
use producers::AgentConfig;
use tokio_util::sync::CancellationToken;

use super::{
    CliError, Context, Ended,
    pair::{KeyFrom, Pair},
    render::Table,
    serve::{greet, on_signal},
    tell,
};
use crate::{
    app::{self, AppError, NatsAddress},
    config::{self, Overrides},
};

/// Run source agents, and say which of them may come in
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    Resource(Run),
    Enroll(Enroll),
    /// Let an agent in no more; its connection ends at once
    #[command(
        after_help = "Example: farside agent revoke inventory\n         farside agent revoke site-b/inventory"
    )]
    Revoke(Named),
    /// List the agents that may come in
    #[command(after_help = "Example: farside agent list")]
    List,
}

/// Run the inventory agents of the configuration, or of a file of its own
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside agent resource -c farside.example.toml --name inventory\n         farside agent resource agent.toml --nats nats://127.0.0.1:4222 --nkey-seed-file agent.nk"
)]
pub(crate) struct Run {
    /// A file with one agent; without it, the [[agent.resource]] of the configuration
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only the agent of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

/// Let an agent in that runs by itself: it gets a key of its own, for its clusters only
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside agent enroll inventory --cluster prod-eu,prod-us --out inventory.nk\n         farside agent enroll inventory --cluster prod-eu --public-key U…   (the seed stays where it was made)"
)]
pub(crate) struct Enroll {
    /// Its name, unique at its site
    #[arg(value_name = "NAME")]
    name: Name,
    /// A cluster, or site/cluster, that it may speak for; several separated by commas
    #[arg(long, value_name = "CLUSTER", required = true, value_delimiter = ',')]
    cluster: Vec<String>,
    /// A system whose commands it hears
    #[arg(long, value_name = "STEM", default_value = "resource", value_delimiter = ',')]
    stem: Vec<Stem>,
    #[command(flatten)]
    key: KeyFrom,
}

/// An agent by name
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Its name, or site/name
    #[arg(value_name = "NAME")]
    name: String,
}

impl Agent {
    /// Whether it runs agents instead of asking a farside.
    pub(crate) fn runs(&self) -> bool {
        matches!(self, Self::Resource(_))
    }

    pub(crate) async fn run(self, context: Context) -> Result<Ended, CliError> {
        match self {
            Self::Resource(run) => run.run(context).await,
            Self::Enroll(enroll) => enroll.run(&context).await,
            Self::Revoke(Named { name }) => revoke(&context, &name).await,
            Self::List => list(&context).await,
        }
    }
}

impl Run {
    async fn run(self, mut context: Context) -> Result<Ended, CliError> {
        let shutdown = CancellationToken::new();
        on_signal(&shutdown)?;
        self.overrides.apply(&mut context.config);
        let config = &mut context.config;
        if let Some(file) = &self.file {
            config.agent.resource = vec![config::read_agent(file)?];
        }
        if let Some(name) = &self.name {
            config.agent.resource.retain(|agent| agent.name.as_str() == name);
        }
        let names: Vec<_> = config.agent.resource.iter().map(|agent| agent.name.to_string()).collect();
        if names.is_empty() {
            return Err(CliError::Usage(
                "no such agent is configured; add [[agent.resource]] to the configuration, or name a file"
                    .to_owned(),
            ));
        }
        let managed = NatsAddress::read(&config.nats_address_file());
        let credentials = config.nats.credentials()?;
        let agents = app::agents(config, |agent, name| {
            if let Some(configured) = config.nats.connect_options(name)? {
                return Ok(configured);
            }
            let managed = managed.as_ref().ok_or(AppError::NoNats)?;
            let credentials = match &credentials {
                Credentials::None => own_key(managed, agent)?,
                named => named.clone(),
            };
            Ok(managed.agent_options(name, credentials))
        })?;
        let greeting = format!("farside agent resource: {}\n", names.join(", "));
        app::run_agents(agents, shutdown, move || greet(&greeting)).await?;
        Ok(Ended::Done)
    }
}

/// The key that an agent got on this machine.
fn own_key(managed: &NatsAddress, agent: &AgentConfig) -> Result<Credentials, AppError> {
    let seed = managed.agent_seed_file(&app::agent_id(agent));
    if seed.exists() {
        return Ok(Credentials::NkeySeedFile(seed));
    }
    let clusters: Vec<_> =
        agent.clusters.iter().map(|cluster| format!("{}/{}", agent.site, cluster.name)).collect();
    Err(AppError::NotEnrolled { name: agent.name.clone(), clusters: clusters.join(",") })
}

impl Enroll {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { name, cluster, stem, key } = self;
        let pools = cluster.iter().map(|text| context.pool(text)).collect::<Result<Vec<_>, _>>()?;
        let (site, clusters) = of_one_site(&pools)?;
        let id = AgentId { site: site.clone(), name: name.clone() };
        // On the machine of farside's own NATS, where the agent finds it by itself.
        let here = NatsAddress::read(&context.config.nats_address_file()).filter(|_| context.is_local());
        let seed = here.map_or_else(|| PathBuf::from(format!("{name}.nk")), |here| here.agent_seed_file(&id));
        let pair = Pair::of(key, seed)?;
        let stems = stem.into_iter().collect();
        let public_key = pair.public_key().to_string();
        let wanted = request::EnrollAgent { site, name, clusters, stems, public_key };
        let enrolled: Result<EnrolledView, _> = context.client.post("/v1/agents", &wanted).await;
        let enrolled = pair.kept_if(enrolled)?;
        tell_warning(enrolled.warning.as_deref());
        context.show(&enrolled, |enrolled| match (&enrolled.permissions, &enrolled.servers) {
            (Some(permissions), _) => permissions.clone(),
            (None, servers) => format!(
                "# the agent {id} may come in{}; its configuration needs\n{}",
                enrolled.place.as_ref().map(|place| format!(" (stated at {place})")).unwrap_or_default(),
                pair.settings(servers.as_deref().unwrap_or_default(), enrolled.tls)
            ),
        })?;
        if enrolled.permissions.is_none() {
            return Ok(Ended::Done);
        }
        tell(&format!(
            "farside: this NATS is not farside's own, so nobody is enrolled yet: put the lines above into its configuration and reload it, twice (nats-server ties a new account to the others only at the second time){}",
            pair.where_it_is()
        ));
        Ok(Ended::NotWell)
    }
}

fn of_one_site(pools: &[PoolId]) -> Result<(Name, BTreeSet<Name>), CliError> {
    let sites: BTreeSet<_> = pools.iter().map(|pool| &pool.site).collect();
    match sites.into_iter().collect::<Vec<_>>().as_slice() {
        [site] => Ok(((*site).clone(), pools.iter().map(|pool| pool.cluster.clone()).collect())),
        _ => Err(CliError::Usage(
            "an agent has clusters of one site; enroll one agent for each site".to_owned(),
        )),
    }
}

async fn revoke(context: &Context, name: &str) -> Result<Ended, CliError> {
    // A name at its site is written like a cluster at its site.
    let PoolId { site, cluster: name } = context.pool(name)?;
    let gone: RevokedView = context.client.delete(&format!("/v1/agents/{site}/{name}")).await?;
    tell_warning(gone.warning.as_deref());
    context.show(&gone, |gone| {
        let place = gone.place.as_ref().map(|place| format!(": stated at {place}")).unwrap_or_default();
        format!("the agent {site}/{name} may not come in any more{place}\n")
    })?;
    Ok(Ended::Done)
}

async fn list(context: &Context) -> Result<Ended, CliError> {
    let agents: Vec<AgentView> = context.client.get("/v1/agents").await?;
    context.show(&agents, |agents| {
        let mut table = Table::new(&["AGENT", "CLUSTERS", "SYSTEMS", "BY", "PUBLIC KEY"]);
        for agent in agents {
            table.row([
                format!("{}/{}", agent.site, agent.name),
                words(&agent.clusters),
                words(&agent.stems),
                if agent.configured { "configuration" } else { "enrolment" }.to_owned(),
                agent.public_key.clone(),
            ]);
        }
        table.text()
    })?;
    Ok(Ended::Done)
}

fn words(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn tell_warning(warning: Option<&str>) {
    if let Some(warning) = warning {
        tell(&format!("farside: warning: {warning}"));
    }
}
