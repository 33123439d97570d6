//! `farside sync`: ask a source now, and what else a person decides about syncs.

use bus_schema::command::target::SyncsStarted;
use clap::Args;
use console::{request, view::StatedView};

use super::{CliError, Context, Ended, client::pool_path};

/// Synchronise a pool now; pause or resume its schedule; let a held sync delete
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside sync dc1\n         farside sync dc1 --full\n         farside sync dc1 --pause"
)]
pub(crate) struct Sync {
    /// The cluster, or site/cluster
    #[arg(value_name = "CLUSTER")]
    cluster: String,
    /// Ask for everything instead of what changed
    #[arg(long, group = "what")]
    full: bool,
    /// Stop the scheduled syncs of this pool
    #[arg(long, group = "what")]
    pause: bool,
    /// Let the scheduled syncs go on
    #[arg(long, group = "what")]
    resume: bool,
    /// The source really is that empty: let this sync, which is held back, delete
    #[arg(long, group = "what", value_name = "SYNC_ID")]
    confirm_empty: Option<String>,
}

impl Sync {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let pool = context.pool(&self.cluster)?;
        let post = |rest| pool_path(&pool, rest);
        if let Some(sync_id) = self.confirm_empty {
            let wanted = request::EmptyConfirmed { sync_id };
            let stated: StatedView = context.client.post(&post("empty-confirmed"), &wanted).await?;
            context.show(&stated, |stated| {
                format!("stated at {}; the held sync may delete now\n", stated.place)
            })?;
        } else if self.pause || self.resume {
            let wanted = request::SchedulePaused { paused: self.pause };
            let stated: StatedView = context.client.post(&post("schedule/paused"), &wanted).await?;
            let verb = if self.pause { "paused" } else { "resumed" };
            context.show(&stated, |stated| format!("schedule of {pool} {verb} at {}\n", stated.place))?;
        } else {
            let wanted = request::Sync { full: self.full };
            let started: SyncsStarted = context.client.post(&post("sync"), &wanted).await?;
            context.show(&started, |started| match started.sync_ids.as_slice() {
                [] => format!("no agent of {pool} to ask\n"),
                ids => format!("asked the source of {pool}: sync {}; see 'farside status'\n", ids.join(", ")),
            })?;
        }
        Ok(Ended::Done)
    }
}
