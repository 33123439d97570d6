//! `farside agent`: source agents only, beside their source.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::{
    CliError, Context, Ended,
    serve::{greet, on_signal},
};
use crate::{
    app::{self, AppError, NatsAddress},
    config::{self, Overrides},
};

/// Run the source agents of the configuration, or of a file of its own
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside agent resource -c farside.example.toml --name inventory\n         farside agent resource agent.toml --nats nats://127.0.0.1:4222 --nkey-seed-file agent.nk"
)]
pub(crate) struct Agent {
    /// Which system
    #[arg(value_enum, value_name = "STEM")]
    stem: Stem,
    /// A file with one agent; without it, the [[agent.resource]] of the configuration
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only the agent of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

/// The systems that have an agent in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stem {
    /// Inventory of source clusters
    Resource,
}

impl Agent {
    pub(crate) async fn run(self, mut context: Context) -> Result<Ended, CliError> {
        let shutdown = CancellationToken::new();
        on_signal(&shutdown)?;
        self.overrides.apply(&mut context.config);
        let Stem::Resource = self.stem;
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
        let agents = app::agents(config, |name| {
            let configured = config.nats.connect_options(name)?;
            configured
                .or_else(|| managed.as_ref().map(|managed| managed.agent_options(name)))
                .ok_or(AppError::NoNats)
        })?;
        let greeting = format!("farside agent resource: {}\n", names.join(", "));
        app::run_agents(agents, shutdown, move || greet(&greeting)).await?;
        Ok(Ended::Done)
    }
}
