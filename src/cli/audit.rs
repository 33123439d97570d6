//! `farside audit`: what the logs say, whether they are what they were, and what to do when they are not.

use bus_schema::fact::log::Scrubbed;
use clap::{Args, Subcommand};
use console::{
    request,
    view::{StatedView, audit::DamagesView},
};

use super::{CliError, Context, Ended, client::query, progress::job, render::Table};

mod export;
mod replay;
mod rotate;
mod show;
mod tail;
mod verify;

/// Read the logs, replay them, and look whether they are what they were
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    Tail(tail::Tail),
    Show(show::Show),
    Replay(replay::Replay),
    Scrub(Scrub),
    Damage(Damage),
    Acknowledge(Acknowledge),
    Verify(verify::Verify),
    Export(export::Export),
    RotateKey(rotate::RotateKey),
}

/// Read a log again and compare it with what was read of it before; exit code 1 if a log lacks what is not healed, or the pool never read what it has
///
/// A disk can lose messages without a word. What is found missing is stated in the target log, and agents are asked
/// for it; the service does this by itself, too, on a timer (service.scrub) and when NATS comes back.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit scrub\n         farside audit scrub --stream FARSIDE_TGT_LOCAL"
)]
pub(crate) struct Scrub {
    /// The log [default: the first site's]
    #[arg(long, value_name = "STREAM")]
    stream: Option<String>,
}

/// List what logs lost, newest first: healed, waiting to be healed, or known to somebody
#[derive(Debug, Args)]
#[command(after_help = "Example: farside audit damage\n         farside audit damage --open -o json")]
pub(crate) struct Damage {
    /// Only what needs a person
    #[arg(long)]
    open: bool,
}

/// Take note of a damage that cannot be healed: it is no alarm any more, and stays in the log
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit acknowledge FARSIDE_TGT_LOCAL:17 --reason 'the agent is gone for good'"
)]
pub(crate) struct Acknowledge {
    /// The damage, as 'farside audit damage' names it
    #[arg(value_name = "DAMAGE")]
    damage: String,
    /// Why it may stay, for whoever reads the log later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Audit {
    /// Whether it asks a running farside: evidence is examined without one.
    pub(crate) fn asks(&self) -> bool {
        !matches!(self, Self::Verify(verify) if verify.is_offline())
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        match self {
            Self::Tail(tail) => tail.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Replay(replay) => replay.run(context).await,
            Self::Scrub(scrub) => scrub.run(context).await,
            Self::Damage(damage) => damage.run(context).await,
            Self::Verify(verify) => verify.run(context).await,
            Self::Export(export) => export.run(context).await,
            Self::RotateKey(rotate) => rotate.run(context).await,
            Self::Acknowledge(Acknowledge { damage, reason }) => {
                let wanted = request::Acknowledge { damage: damage.clone(), reason };
                let stated: StatedView = context.client.post("/v1/audit/acknowledge", &wanted).await?;
                context
                    .show(&stated, |stated| format!("{damage} is known now, stated at {}\n", stated.place))?;
                Ok(Ended::Done)
            }
        }
    }
}

impl Scrub {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let path = format!("/v1/audit/scrub{}", query(&[("stream", self.stream)]));
        let scrubbed: Scrubbed = job(context, &path, "the scrub", "the scrub did not end").await?;
        context.show(&scrubbed, text)?;
        let damages: DamagesView = context.client.get("/v1/audit/damage").await?;
        let is_open = damages.items.iter().any(|damage| damage.open);
        let is_well = !is_open && scrubbed.gaps == 0 && scrubbed.unread == 0;
        Ok(if is_well { Ended::Done } else { Ended::NotWell })
    }
}

fn text(scrubbed: &Scrubbed) -> String {
    let Scrubbed { stream, first_seq, last_seq, messages, gaps, lost, took_ms, .. } = scrubbed;
    let read = format!("{stream}: read {messages} messages from {first_seq} to {last_seq} in {took_ms} ms");
    let lacks = match (gaps, lost) {
        (0, 0) => format!("{read}: all that was read before is there, and every chain is whole\n"),
        _ => format!(
            "{read}: {lost} messages are not where they were read, {gaps} gaps in chains are open; see 'farside audit damage'\n"
        ),
    };
    lacks + &scrubbed.unread_text().map(|unread| unread + "\n").unwrap_or_default()
}

impl Damage {
    async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let mut damages: DamagesView = context.client.get("/v1/audit/damage").await?;
        damages.items.retain(|damage| damage.open || !self.open);
        context.show(&damages, table)?;
        Ok(Ended::Done)
    }
}

fn table(damages: &DamagesView) -> String {
    if damages.items.is_empty() {
        return "no damage\n".to_owned();
    }
    let mut table = Table::new(&["FOUND", "DAMAGE", "STATE", "WHAT IS LOST"]);
    for damage in &damages.items {
        let state = match (&damage.healed, &damage.acknowledged) {
            (Some(place), _) => format!("healed at {place}"),
            (None, Some(known)) => format!("known: {known}"),
            (None, None) if damage.open => "OPEN".to_owned(),
            (None, None) => "told".to_owned(),
        };
        let why = damage.obstacle.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let text = format!("{}{why}", damage.text);
        table.row([damage.found_at.to_string(), damage.damage.clone(), state, text]);
    }
    table.text()
}
