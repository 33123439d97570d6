//! `farside audit tail`: the logs as they come, one line a message.

use bus_schema::{Stem, Timestamp};
use clap::Args;
use console::view::trail::{EntryView, TailLine};

use super::super::{
    CliError, Context, Ended, Output,
    client::{ClientError, query},
    render::{harmless_json, one_line},
    say,
};

/// Follow the logs: who said what of which entity, events of the sites and facts of the target in one order
///
/// It begins with what comes next; --since goes back, --no-follow or --until end it with what is there. A message that
/// cannot be read is shown with the reason. It outlasts restarts of NATS. With -o json each line is one JSON object.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside audit tail\n         farside audit tail --cluster dc1 --kind Pod --since 2026-11-22T04:00:00Z\n         farside audit tail --entity Deployment/prod/web --no-follow -o json\n         farside audit tail --actor operator --no-follow"
)]
pub(crate) struct Tail {
    /// Only this cluster, or site/cluster
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only this system: resource, volume, image, agent, key, tenant, log
    #[arg(long, value_name = "STEM")]
    stem: Option<Stem>,
    /// Only resources of this kind, and facts that name one
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only this entity, and facts that name it
    #[arg(long, value_name = "KIND/ID")]
    entity: Option<String>,
    /// Only what somebody did whose name contains this: a source, an agent, an operator, a key
    #[arg(long, value_name = "TEXT")]
    actor: Option<String>,
    /// From what the logs stored then [default: what comes next; with --no-follow, everything]
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Up to what the logs stored then; ends there
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Ends after so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Ends with what there is
    #[arg(long)]
    no_follow: bool,
}

impl Tail {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { cluster, stem, kind, entity, actor, since, until, limit, no_follow } = self;
        // What has an end in time begins with the log, as what is not followed does.
        let follow = !no_follow && until.is_none();
        let asked = query(&[
            ("cluster", cluster),
            ("stem", stem.map(|stem| stem.to_string())),
            ("kind", kind),
            ("entity", entity),
            ("actor", actor),
            ("since", since.map(|time| time.to_string())),
            ("until", until.map(|time| time.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
            ("follow", Some(follow.to_string())),
        ]);
        let (path, mut ended) = (format!("/v1/audit/events{asked}"), None);
        let lines = context.client.get_lines(&path, |line: TailLine| {
            match line {
                TailLine::Entry(entry) => write(context, &entry)?,
                TailLine::Ended(why) => ended = Some(why),
            }
            Ok(())
        });
        lines.await?;
        ended.map_or(Ok(Ended::Done), |why| Err(CliError::Failed(why)))
    }
}

fn write(context: &Context, entry: &EntryView) -> Result<(), ClientError> {
    let text = match context.output {
        Output::Table => line(entry),
        Output::Json | Output::Yaml => {
            harmless_json(&serde_json::to_string(entry).map_err(std::io::Error::other)?)
        }
    };
    say(&(text + "\n")).map_err(|error| match error {
        CliError::Output(error) => ClientError::Output(error),
        other => ClientError::Output(std::io::Error::other(other.to_string())),
    })
}

/// An entry for people. Publishers write parts of it.
pub(super) fn line(entry: &EntryView) -> String {
    let EntryView { stored_at, place, actor, event_type, entity, summary, unreadable, .. } = entry;
    let actor = if actor.is_empty() { "-" } else { actor };
    let said = match unreadable {
        Some(why) => format!("CANNOT BE READ: {why}"),
        None => summary.clone(),
    };
    let redriven = entry.redrive_of.as_ref().map(|of| format!(" (again, from {of})")).unwrap_or_default();
    one_line(&format!("{stored_at}  {place}  {actor}  {event_type}  {entity}{redriven}  {said}"))
}
