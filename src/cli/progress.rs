//! Progress of what takes long, for people.

use std::io::{self, IsTerminal};

use console::ports::JobProgress;
use indicatif::{ProgressBar, ProgressStyle};

use super::tell;

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
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    pub(super) fn progress(&mut self, progress: &JobProgress) {
        match self {
            Self::Bar(bar) => {
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
