//! `farside dlq redrive`: dead letters, taken in after all.

use std::path::{Path, PathBuf};

use bus_schema::{
    Hash32,
    redrive::upcaster::{UpcasterFile, Upcasting},
};
use clap::Args;
use console::{
    ports::JobProgress,
    request,
    view::{RedriveItem, RedriveOutcome, RedriveView},
};
use serde::Serialize;

use super::super::{
    CliError, Context, Ended, Output,
    progress::Shown,
    render::{count, one_line},
    tell,
};

/// Have dead letters taken in after all; exit code 1 names those that still cannot be
///
/// Each is published once more, to the letter, with a note of where the original stands: the pool takes it in at the
/// original's place, so nothing newer is overwritten, and once, however often this is run. What its publisher got wrong
/// is mended by an upcaster: rules in a TOML or JSON file, each with RFC 6902 operations on the body. Whatever ends this
/// in the middle, run it again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: farside dlq redrive FARSIDE_LOCAL:1234 --dry-run\n         farside dlq redrive --reason 'missing field `id`' --upcaster ids.toml\n         farside dlq redrive --range FARSIDE_LOCAL:1000-2000\n\n\
                  ids.toml:  name = \"ids\"\n           [[rule]]\n           type = \"resource.changed\"\n           patch = [{ op = \"move\", from = \"/name\", path = \"/id\" }]"
)]
pub(crate) struct Redrive {
    /// The one whose original stands there, stream:sequence
    #[arg(value_name = "PLACE", required_unless_present_any = ["reason", "range"])]
    place: Option<String>,
    /// Those whose reason contains this; what is quoted in it, and numbers, make no difference
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["place", "range"])]
    reason: Option<String>,
    /// Those of a part of a log
    #[arg(long, value_name = "STREAM:FROM-TO", conflicts_with = "place")]
    range: Option<String>,
    /// What mends them [default: nothing, for a farside that reads more than the one that parked them]
    #[arg(long, value_name = "FILE")]
    upcaster: Option<PathBuf>,
    /// Only show what would become of each
    #[arg(long)]
    dry_run: bool,
}

impl Redrive {
    pub(crate) async fn run(self, context: &Context) -> Result<Ended, CliError> {
        let Self { place, reason, range, upcaster, dry_run } = self;
        let upcaster = upcaster.as_deref().map(read).transpose()?;
        let mut asked = request::Redrive { place, reason, range, upcaster, dry_run, ..Default::default() };
        let (mut all, mut shown) = (All::default(), Shown::new());
        loop {
            let page: RedriveView = context.client.post("/v1/dead-letters/redrive", &asked).await?;
            shown.clear();
            let next = page.next.clone();
            all.add(context, page, dry_run)?;
            let Some(next) = next else { break };
            let phase = format!("{}, up to {next}", all.text(dry_run));
            shown.progress(&JobProgress { phase, done: 0, total: 0 });
            asked.after = Some(next);
        }
        if context.output == Output::Table {
            tell(&all.text(dry_run));
        } else {
            context.show(&all, |_| String::new())?;
        }
        Ok(if all.dead > 0 { Ended::NotWell } else { Ended::Done })
    }
}

/// Reads a file of rules. Errors: which file, and what is wrong in it.
fn read(path: &Path) -> Result<Upcasting, CliError> {
    let wrong = |why: String| CliError::Usage(format!("{} is no upcaster: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let file: UpcasterFile = if is_json {
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?
    } else {
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))?
    };
    Upcasting::of(file, Hash32::of(text.as_bytes())).map_err(wrong)
}

/// What became of all.
#[derive(Default, Serialize)]
struct All {
    redriven: u64,
    decodes: u64,
    dead: u64,
    /// Of those that were taken in, or would be: these changed nothing, or would not.
    unchanged: u64,
    /// For machines; people are shown each page as it comes.
    items: Vec<RedriveItem>,
}

impl All {
    fn add(&mut self, context: &Context, page: RedriveView, dry_run: bool) -> Result<(), CliError> {
        for item in &page.items {
            match item.outcome {
                RedriveOutcome::Redriven { .. } => self.redriven += 1,
                RedriveOutcome::Decodes { .. } => self.decodes += 1,
                RedriveOutcome::Dead { .. } => self.dead += 1,
            }
            let (RedriveOutcome::Redriven { changed, .. } | RedriveOutcome::Decodes { changes: changed, .. }) =
                item.outcome
            else {
                continue;
            };
            self.unchanged += u64::from(!changed);
        }
        if context.output != Output::Table {
            self.items.extend(page.items);
            return Ok(());
        }
        let told: Vec<_> = page.items.iter().filter(|item| dry_run || is_dead(item)).collect();
        if told.is_empty() {
            return Ok(());
        }
        context.show(&told, |told| told.iter().map(|item| line(item)).collect())
    }

    fn text(&self, dry_run: bool) -> String {
        let Self { redriven, decodes, dead, unchanged, .. } = self;
        let taken_in = count(*redriven, "dead letter");
        let still = if *dead == 0 { String::new() } else { format!(", {dead} still cannot be") };
        let newer = match unchanged {
            0 => String::new(),
            unchanged => format!(" ({unchanged} of them without a change: what is newer stands)"),
        };
        if dry_run {
            let would = count(*decodes, "dead letter");
            let before = if *redriven == 0 { String::new() } else { format!(", {redriven} were already") };
            format!("{would} would be taken in{before}{newer}{still}")
        } else {
            format!("{taken_in} taken in{newer}{still}")
        }
    }
}

fn is_dead(item: &RedriveItem) -> bool {
    matches!(item.outcome, RedriveOutcome::Dead { .. })
}

fn line(item: &RedriveItem) -> String {
    let RedriveItem { place, subject, outcome } = item;
    let what = match outcome {
        RedriveOutcome::Redriven { copy, .. } => format!("taken in already, by its copy at {copy}"),
        RedriveOutcome::Decodes { event_type, source, data, changes } => {
            let newer = if *changes { "" } else { ", without a change because what is newer stands" };
            format!("{event_type} of {source}{newer}: {data}")
        }
        RedriveOutcome::Dead { reason, path } => format!("STILL DEAD at {path}: {reason}"),
    };
    format!("{place}  {}  {}\n", one_line(subject), one_line(&what))
}
