//! What could not be taken in, by place: a reading of some places knows nothing of the others.
//!
//! Must not know: why it could not, or what was known from there.

use std::collections::BTreeMap;

use super::scan::Scan;
use crate::resource::Fault;

/// The faults that stand.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<String, AtPlace>);

#[derive(Debug, Default)]
struct AtPlace {
    count: u64,
    /// In words, as many as the reading kept.
    told: Vec<String>,
}

impl Faults {
    /// Takes what a reading came upon for what stands in the places that it covered. Answers what is new.
    pub(super) fn take<'a>(&mut self, scan: &'a Scan) -> Vec<&'a Fault> {
        let known =
            |fault: &Fault| self.0.get(&fault.place.path).map(|at| at.told.contains(&fault.to_string()));
        let new = scan.faults.iter().filter(|fault| known(fault) != Some(true)).collect();
        self.0.retain(|path, _| !scan.covers(path));
        for (path, count) in &scan.faults_at {
            self.0.insert(path.clone(), AtPlace { count: *count, told: Vec::new() });
        }
        for fault in &scan.faults {
            self.0.entry(fault.place.path.clone()).or_default().told.push(fault.to_string());
        }
        new
    }

    /// All of them in short; none = there are none.
    pub(super) fn summary(&self) -> Option<String> {
        let count: u64 = self.0.values().map(|at| at.count).sum();
        let told = self.0.values().find_map(|at| at.told.first());
        let first = told.or_else(|| self.0.keys().next())?;
        Some(match count {
            1 => format!("a document could not be taken in: {first}"),
            _ => format!("{count} documents could not be taken in; the first is {first}"),
        })
    }
}
