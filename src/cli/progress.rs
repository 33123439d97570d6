//! What takes long: asked for, its progress shown to people, its end handed over.

use std::io::{self, IsTerminal};

use console::{ports::JobProgress, view::JobLine};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;

use super::{CliError, Context, tell};

/// Has something done that takes long, and shows how far it is. Errors: `failed` and why, when it failed; `what` names
/// it when farside ended before it did.
pub(super) async fn job<T: DeserializeOwned>(
    context: &Context,
    path: &str,
    what: &str,
    failed: &str,
) -> Result<T, CliError> {
    job_with_rows(context, path, what, failed, |_| Ok(())).await
}

/// The same of what sends lines of its own, which are handed over to the letter. Only when it ends well were these all.
pub(super) async fn job_with_rows<T: DeserializeOwned>(
    context: &Context,
    path: &str,
    what: &str,
    failed: &str,
    mut row: impl FnMut(&str) -> io::Result<()>,
) -> Result<T, CliError> {
    let (mut shown, mut end) = (Shown::new(), None);
    let lines = context.client.post_lines(path, |line: JobLine<T>| {
        match line {
            JobLine::Progress(progress) => shown.progress(&progress),
            JobLine::Row(text) => row(text.get())?,
            last => end = Some(last),
        }
        Ok(())
    });
    lines.await?;
    shown.clear();
    match end {
        Some(JobLine::Report(report)) => Ok(report),
        Some(JobLine::Failed(why)) => Err(CliError::Failed(format!("{failed}: {why}"))),
        _ => Err(CliError::Failed(format!("farside ended before {what} did; look at its log"))),
    }
}

/// A bar on a terminal, plain lines elsewhere.
pub(super) enum Shown {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Shown {
    pub(super) fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { last: String::new() };
        }
        Self::Bar(ProgressBar::new(0))
    }

    pub(super) fn progress(&mut self, progress: &JobProgress) {
        match self {
            Self::Bar(bar) => {
                bar.set_style(style(progress.total));
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(progress.phase.clone());
            }
            Self::Lines { last } if *last != progress.phase => {
                last.clone_from(&progress.phase);
                tell(&progress.phase);
            }
            Self::Lines { .. } => {}
        }
    }

    pub(super) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// A bar, or only words while nobody knows how much there is in all.
fn style(total: u64) -> ProgressStyle {
    let template = if total == 0 { "{msg}" } else { "{msg} [{bar:40}] {pos}/{len} {eta}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
