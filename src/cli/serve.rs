//! `farside serve`: the target against an existing NATS.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{CliError, Context, Ended, say, unlistened};
use crate::{
    app::{App, Nats},
    config::Overrides,
};

/// Exit code when a second signal cuts the draining short: 128 + SIGINT, as shells have it.
const CUT_SHORT: i32 = 130;

/// Run the target service and the console against an existing NATS
#[derive(Debug, Args)]
#[command(after_help = "Example: farside serve --nats nats://127.0.0.1:4222 --nkey-seed-file service.nk")]
pub(crate) struct Serve {
    #[command(flatten)]
    overrides: Overrides,
}

impl Serve {
    pub(crate) async fn run(self, mut context: Context) -> Result<Ended, CliError> {
        let shutdown = CancellationToken::new();
        on_signal(&shutdown)?;
        self.overrides.apply(&mut context.config);
        let built = App::build(context.config.clone(), Nats::Configured, &shutdown).await?;
        let Some(app) = built else { return Ok(Ended::Done) };
        let greeting = format!(
            "farside serves: http://{} (token in {}), socket {}\n",
            app.address(),
            context.config.token_file().display(),
            context.config.socket().display()
        );
        app.run(shutdown, move || greet(&greeting)).await?;
        Ok(Ended::Done)
    }
}

/// Tells whoever started farside that it is ready; a closed standard output is no reason to end.
pub(super) fn greet(greeting: &str) {
    if let Err(error) = say(greeting) {
        tracing::warn!(%error, "nobody reads that farside is ready");
    }
}

/// The first SIGINT or SIGTERM drains; the second one ends at once.
pub(super) fn on_signal(shutdown: &CancellationToken) -> Result<(), CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unlistened)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unlistened)?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !first {
                std::process::exit(CUT_SHORT);
            }
            shutdown.cancel();
        }
    });
    Ok(())
}
