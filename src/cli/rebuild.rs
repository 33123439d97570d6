//! `farside rebuild`: the pool once more from the log, compared with the live one, then put in its place.

use clap::Args;
use console::ports::{CausingEvent, NamedEvent, RebuildDifference, RebuildReport};

use super::{CliError, Context, Ended, progress::job, render::one_line};

/// Build the pool again from the log, beside the live one, compare, and swap; exit code 3 if they differed
///
/// When resources, keys or tenants differ, the live pool stays in use and the differences are shown: a log that
/// lost its tail knows less than the pool. --swap puts the rebuilt pool in its place all the same.
#[derive(Debug, Args)]
#[command(after_help = "Example: farside rebuild")]
pub(crate) struct Rebuild {
    /// Use the rebuilt pool even if it differs from the live one
    #[arg(long)]
    swap: bool,
}

impl Rebuild {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let path = if self.swap { "/v1/rebuild?swap=always" } else { "/v1/rebuild" };
        let failed = "the rebuild failed, and the live pool is as it was";
        let report: RebuildReport = job(context, path, "the rebuild", failed).await?;
        context.show(&report, text)?;
        Ok(if report.differences.is_empty() { Ended::Done } else { Ended::NotTrue })
    }
}

fn text(report: &RebuildReport) -> String {
    let seconds = report.took_ms as f64 / 1_000.0;
    let rate = report.events as f64 / seconds.max(0.001);
    let mut text = format!("rebuilt from {} events in {seconds:.1} s ({rate:.0} events/s): ", report.events);
    text += if report.differences.is_empty() { "equal to the live pool" } else { "the live pool DIFFERED" };
    text += if report.swapped {
        "; the rebuilt one is in use now\n"
    } else {
        "; the live one stays in use: look at what differs, then 'farside rebuild --swap' if the log is right\n"
    };
    report.differences.iter().for_each(|found| text += &difference(found));
    text
}

/// Both values, each with the event that wrote it last.
fn difference(found: &RebuildDifference) -> String {
    let RebuildDifference { pool, what, live, live_event, rebuilt, rebuilt_event } = found;
    let mut text = format!("  {}\n", one_line(&format!("{pool}: {what}")));
    for (side, value, event) in [("live", live, live_event), ("rebuilt", rebuilt, rebuilt_event)] {
        let value = value.as_ref().map_or("nothing", |value| value.trim_end());
        text += &format!("    {side:<8} {}\n", one_line(value));
        if let Some(event) = event {
            text += &format!("    {:<8} {}\n", "", one_line(&words(event)));
        }
    }
    text
}

fn words(CausingEvent { place, event }: &CausingEvent) -> String {
    match event {
        Some(NamedEvent { event_type, time, id }) => format!("by {place}: {event_type} of {time}, id {id}"),
        None => format!("by {place}, which the log does not have any more"),
    }
}
