//! The inventory of source clusters: the port behind which every source technology stands, and what
//! it hands over.
//!
//! Must not know: chains, outboxes, NATS, or what was reported before. An adapter reads its source
//! and says what it saw; what that means is decided by the sequencer.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bus_schema::{
    Hash32, ResourceKey, Revision, TenantId, canonical,
    id::{LABEL_BYTES_MAX, LABELS_MAX},
};
use serde_json::Value;

pub mod directory;
pub mod dirty;
pub mod exec;
pub mod format;
pub mod guard;
mod revision;

pub use dirty::Dirty;

/// Where something was read: a file below the root (or the command's name) and a line in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path relative to the root, with `/`; empty for the root itself.
    pub path: String,
    /// Counted from 1; 0 = the whole.
    pub line: u64,
}

impl Place {
    /// The whole of a file.
    pub fn whole(path: impl Into<String>) -> Self {
        Self { path: path.into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.path),
            line => write!(f, "{}:{line}", self.path),
        }
    }
}

/// One resource as the source has it, secrets already taken out.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its key.
    pub key: ResourceKey,
    /// The source's revision, or the first 32 hex digits of the state hash; with an integer beyond 2^53 in
    /// the state, a hash of the exact text stands behind the one, and for the other.
    pub revision: Revision,
    /// Its state as JSON text.
    pub state: String,
    /// SHA-256 over the RFC 8785 text of the state.
    pub state_hash: Hash32,
    /// Labels to search by.
    pub labels: BTreeMap<String, String>,
    /// Whose it is, if the source says so.
    pub tenant: Option<TenantId>,
    /// Where it was read.
    pub place: Place,
}

/// A resource before its hash and text are made.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The kind.
    pub kind: String,
    /// The id inside the kind.
    pub id: String,
    /// The source's revision, if it has one.
    pub revision: Option<String>,
    /// The state, secrets already taken out.
    pub state: Value,
    /// Labels to search by.
    pub labels: BTreeMap<String, String>,
    /// Whose it is.
    pub tenant: Option<String>,
}

impl Record {
    /// Makes a record. Errors: in words, which rule of the contract the resource breaks; never what it says.
    pub fn new(draft: Draft, place: Place) -> Result<Self, String> {
        let broken = |e: bus_schema::id::IdError| {
            let (what, rule) = e.rule();
            format!("its {what} is not valid: {rule}")
        };
        let key = ResourceKey::new(&draft.kind, &draft.id).map_err(broken)?;
        let labels_fit =
            draft.labels.iter().all(|(name, value)| name.len().max(value.len()) <= LABEL_BYTES_MAX);
        if draft.labels.len() > LABELS_MAX || !labels_fit {
            return Err(format!(
                "{key} has {} labels; at most {LABELS_MAX} are possible, names and values of at most {LABEL_BYTES_MAX} bytes: shorten them",
                draft.labels.len()
            ));
        }
        let number = |_| {
            format!(
                "the state of {key} has no canonical text: it is nested too deep, or holds a number that no double can hold; write such a number as a text"
            )
        };
        let state = serde_json::to_string(&draft.state).map_err(number)?;
        // Of the text that travels, with the target's own function: what it would refuse is refused here.
        let raw = serde_json::from_str(&state).map_err(number)?;
        let state_hash = canonical::state_hash(raw).map_err(number)?;
        let revision =
            revision::of(draft.revision, &draft.state, &state, &state_hash).parse().map_err(broken)?;
        let tenant = match draft.tenant {
            None => None,
            Some(text) => Some(text.parse().map_err(broken)?),
        };
        Ok(Self { key, revision, state, state_hash, labels: draft.labels, tenant, place })
    }
}

/// Something of the source that could not be taken in. What was known at that place before stays known.
///
/// A fault travels in events, which stay for ever: its place and its reason hold nothing of what the source
/// says there. What a parser repeats of it is the detail, and stays in the agent's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// Whether everything below the place could not be read.
    pub subtree: bool,
    /// Why, and what to do.
    pub reason: String,
    /// What the agent's own log says beyond it.
    pub detail: Option<String>,
}

impl Fault {
    /// A fault of a place alone.
    pub fn new(place: Place, reason: impl Into<String>) -> Self {
        Self { place, subtree: false, reason: reason.into(), detail: None }
    }

    /// A fault of a place and everything below it.
    pub fn of_tree(place: Place, reason: impl Into<String>) -> Self {
        Self { subtree: true, ..Self::new(place, reason) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// What a reading of the source came upon.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A resource.
    Record(Record),
    /// A file that was read to its end, for sources that have files. It is there, so what is missing from it may
    /// still be written.
    File(FileSeen),
    /// Something that could not be taken in.
    Fault(Fault),
}

/// A file that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSeen {
    /// The file.
    pub place: Place,
    /// Another number once it has been written to: made of its size and the time of its last change.
    pub stamp: u64,
    /// Whether nothing stood in it: half-written, or meant so.
    pub empty: bool,
}

/// How much of the source is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Everything,
    /// These paths, and what is below those that are directories.
    Places(Vec<String>),
}

/// Whether a reading goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// Whoever wanted it is gone.
    Stop,
}

/// A whole reading of the source ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListEnd {
    /// The source says that it is empty on purpose.
    pub explicit_empty: bool,
}

/// A resource that is wanted, and where it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its key.
    pub key: ResourceKey,
    /// The path it was read from, if it is known.
    pub path: Option<String>,
}

/// What a reading of single resources found. A wanted key that is in neither list is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Those that the source has.
    pub records: Vec<Record>,
    /// What could not be read; a key that is missing may be there.
    pub faults: Vec<Fault>,
}

/// Why a source could not be read at all. Never means that anything was deleted.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The root is gone, or not the one it was.
    #[error(
        "the directory {root} cannot be read: {reason}; mount it or correct the path; nothing is taken for deleted meanwhile"
    )]
    Unreachable {
        /// The root.
        root: String,
        /// Why.
        reason: String,
    },
    /// The command did not give an inventory.
    #[error("the command {command} gave no inventory: {reason}; nothing is taken for deleted meanwhile")]
    Command {
        /// The program.
        command: String,
        /// Why.
        reason: String,
    },
    /// It cannot be told whether others could.
    #[error(
        "whether others may write {path} cannot be told: {reason}; nothing is run that is not known to be safe: make it readable, or correct the command"
    )]
    Unjudged {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// Others could change what the agent runs.
    #[error("{path} is writable by {who}, who could make this agent run anything: run 'chmod go-w {path}'")]
    Unsafe {
        /// The file.
        path: String,
        /// Group, others, or both.
        who: &'static str,
    },
}

impl SourceError {
    /// A reading that ended without a word.
    pub(crate) fn broke_off() -> Self {
        let reason = "the reading broke off; this is a defect, please report it".to_owned();
        Self::Command { command: "inventory".to_owned(), reason }
    }
}

/// A source technology. Calls block; the agent gives them threads of their own.
pub trait Inventory: Send + Sync {
    /// Reads the source and hands over what it comes upon, in a stable order. `each` may stop it.
    ///
    /// Errors: the source could not be read; what was handed over before stays valid, what was not is unknown.
    fn list(&self, scope: &Scope, each: &mut dyn FnMut(Seen) -> Go) -> Result<ListEnd, SourceError>;

    /// Reads single resources from the source, never from memory.
    fn get(&self, wanted: &[Wanted]) -> Result<Found, SourceError>;

    /// Collects what changed since it was asked last, where the source can tell; otherwise the timer alone drives.
    fn dirt(&self) -> Option<Arc<Dirty>> {
        None
    }

    /// The agent ends: a reading under way may end early, as an error.
    fn stop(&self) {}
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn draft(labels: &[(&str, &str)], state: Value) -> Draft {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Draft { kind: "Vm".into(), id: "a".into(), revision: None, state, labels, tenant: None }
    }

    fn refused(draft: Draft) -> String {
        Record::new(draft, Place::whole("a.json")).unwrap_err()
    }

    #[test]
    fn what_the_target_would_refuse_is_a_fault_of_its_place() {
        let long = "x".repeat(LABEL_BYTES_MAX + 1);
        assert!(Record::new(draft(&[("n", &long[1..])], json!(1)), Place::default()).is_ok());
        assert!(refused(draft(&[("n", &long)], json!(1))).contains("labels"));
        assert!(refused(draft(&[(&long, "v")], json!(1))).contains("labels"));
        let names: Vec<String> = (0..=LABELS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(refused(draft(&many, json!(1))).contains("257 labels"));
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        assert!(refused(draft(&[], deep)).contains("Vm/a"));
    }

    #[test]
    fn the_state_hash_is_that_of_the_text_that_travels() {
        for state in [json!({"b": 1, "a": [true, null]}), json!({"é": 0.1, "n": 1e300, "z": "\n"})] {
            let record = Record::new(draft(&[], state.clone()), Place::default()).unwrap();
            assert_eq!(record.state_hash, Hash32::of(canonical::text(&state).unwrap().as_bytes()));
        }
    }
}
