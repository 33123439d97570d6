//! `farside up`: everything on this machine.

use std::path::Path;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    CliError, Context, Ended,
    serve::{greet, on_signal},
};
use crate::{
    app::{App, Nats},
    config::Overrides,
};

/// Run everything on this machine: a nats-server, the target, the console, and the configured agents
#[derive(Debug, Args)]
#[command(after_help = "Example: farside up\n         farside up -c farside.example.toml --nats-port 4222")]
pub(crate) struct Up {
    #[command(flatten)]
    overrides: Overrides,
}

impl Up {
    pub(crate) async fn run(self, mut context: Context) -> Result<Ended, CliError> {
        let shutdown = CancellationToken::new();
        on_signal(&shutdown)?;
        self.overrides.apply(&mut context.config);
        if let Some(servers) = &context.config.nats.servers {
            return Err(CliError::Usage(format!(
                "'farside up' runs a nats-server of its own, and {servers} is named (nats.servers, --nats or FARSIDE_NATS); \
                 use 'farside serve', and 'farside agent' for the agents, or leave the address out"
            )));
        }
        let built = App::build(context.config.clone(), Nats::Managed, &shutdown).await?;
        let Some(app) = built else { return Ok(Ended::Done) };
        let greeting = format!(
            "farside is up: http://{} (token in {}), NATS {} (publishers: {}), socket {}\n",
            app.address(),
            context.config.token_file().display(),
            app.nats_url().unwrap_or_default(),
            app.publisher_url_file().unwrap_or(Path::new("")).display(),
            context.config.socket().display()
        );
        app.run(shutdown, move || greet(&greeting)).await?;
        Ok(Ended::Done)
    }
}
