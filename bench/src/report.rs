//! The report: figures with their targets, as a table on the terminal and as docs/performance.md.
//! Must not know how anything is measured.

use std::{fmt::Write as _, fs, io, path::Path};

/// One figure of the report.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) what: String,
    /// The median, with its unit.
    pub(crate) value: String,
    /// The rounds behind the median, smallest and largest, or what else explains the figure.
    pub(crate) spread: String,
    /// The target, in words; empty = a figure without a target.
    pub(crate) target: String,
    /// Whether the target is met; none = there is no target.
    pub(crate) met: Option<bool>,
}

/// Several figures under one heading.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// The heading.
    pub(crate) title: &'static str,
    /// How it was measured, in a sentence or two.
    pub(crate) how: String,
    /// The figures.
    pub(crate) figures: Vec<Figure>,
}

impl Section {
    /// An empty section.
    pub(crate) fn new(title: &'static str, how: impl Into<String>) -> Self {
        Self { title, how: how.into(), figures: Vec::new() }
    }

    /// Adds a figure without a target.
    pub(crate) fn add(
        &mut self,
        what: impl Into<String>,
        value: impl Into<String>,
        spread: impl Into<String>,
    ) {
        let (what, value, spread) = (what.into(), value.into(), spread.into());
        self.figures.push(Figure { what, value, spread, target: String::new(), met: None });
    }

    /// Adds a figure that has a target.
    pub(crate) fn judge(
        &mut self,
        what: impl Into<String>,
        value: impl Into<String>,
        spread: impl Into<String>,
        target: impl Into<String>,
        met: bool,
    ) {
        let (what, value, spread, target) = (what.into(), value.into(), spread.into(), target.into());
        self.figures.push(Figure { what, value, spread, target, met: Some(met) });
    }

    /// The section as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.how);
        text.push_str("| what | median | spread | target | met |\n|---|---|---|---|---|\n");
        for Figure { what, value, spread, target, met } in &self.figures {
            let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
            let _ = writeln!(text, "| {what} | {value} | {spread} | {target} | {met} |");
        }
        text.push('\n');
        text
    }
}

/// Replaces everything between the two markers of the page, or makes the page.
///
/// What people wrote around the figures (why a target is missed, what was tried) stays.
pub(crate) fn write(page: &Path, head: &str, sections: &[Section]) -> io::Result<()> {
    const BEGIN: &str = "<!-- figures: written by `make bench` -->\n";
    const END: &str = "<!-- end of figures -->\n";
    let old = fs::read_to_string(page).unwrap_or_else(|_| format!("# Performance\n\n{BEGIN}{END}"));
    let figures: String = sections.iter().map(Section::markdown).collect();
    let (before, rest) = old.split_once(BEGIN).unwrap_or((&old, END));
    let (_, after) = rest.split_once(END).unwrap_or(("", ""));
    fs::write(page, format!("{before}{BEGIN}\n{head}\n{figures}{END}{after}"))
}

/// Median, smallest and largest of some rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// The median.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Rounds {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |n: usize| sorted.get(n).copied().unwrap_or(f64::NAN);
        Self { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }

    /// `min … max unit`.
    pub(crate) fn spread(&self, digits: usize, unit: &str) -> String {
        format!("{:.digits$} … {:.digits$} {unit}", self.min, self.max)
    }
}

/// The value at a percentile (0 to 100) of sorted values.
pub(crate) fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * percent / 100.0).round() as usize).copied().unwrap_or(f64::NAN)
}
