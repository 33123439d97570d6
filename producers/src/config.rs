//! What an agent is told: one agent is one source device with one or more clusters. Parsed once, checked
//! here; unknown fields are refused so that a typing error never becomes a default.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use bus_schema::{Hash32, Name, TenantId, Timestamp, subject::LOCAL};
use serde::{Deserialize, Serialize};

use crate::{redact::RedactConfig, resource::format::Format};

mod check;

pub use check::check_together;

/// A source agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The source site; `local` on a machine that is its own source and target.
    #[serde(default = "local_site")]
    pub site: Name,
    /// The agent's name, unique at its site.
    pub name: Name,
    /// The agent's ledger: a file on a disk that survives it.
    pub ledger: PathBuf,
    /// A heartbeat goes out every so many seconds, and at once when its trouble changes.
    #[serde(default = "seconds::<10>")]
    pub heartbeat_s: u32,
    /// How long the target may take to answer the greeting at start, in milliseconds; then the agent goes on.
    #[serde(default = "milliseconds::<2000>")]
    pub hello_wait_ms: u64,
    /// How long a stopping agent may take to send what it has, in seconds.
    #[serde(default = "seconds::<10>")]
    pub drain_s: u32,
    /// Most bytes that wait for the log, per cluster; beyond it the agent gives the epoch up and sends everything later.
    #[serde(default = "bytes::<268435456>")]
    pub outbox_bytes_max: u64,
    /// How many changes back the journal can answer "what changed since?", per cluster.
    #[serde(default = "count::<200000>")]
    pub journal_events_max: u64,
    /// Most bytes of acknowledged events that the journal keeps whole, per cluster, so that a log that lost them can
    /// have them again; the oldest go first. 0 = none: what the log loses, the agent cannot give back.
    #[serde(default = "bytes::<268435456>")]
    pub journal_bytes_max: u64,
    /// The source clusters.
    pub clusters: Vec<ClusterConfig>,
    /// The file that this was read from; set by whoever read it.
    #[serde(skip)]
    pub config_file: Option<PathBuf>,
}

/// One source cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The cluster's name, unique at its site.
    pub name: Name,
    /// Where its inventory is read.
    pub source: SourceConfig,
    /// What is sent in full, and what is only announced.
    #[serde(default)]
    pub push: PushConfig,
    /// What is taken out of states beyond the rules, and what is left in.
    #[serde(default)]
    pub redact: RedactConfig,
    /// The access keys that are announced before the first sync.
    #[serde(default)]
    pub keys: Vec<KeyConfig>,
    /// The label that names a resource's tenant, as `l1` or `l1.l2`.
    #[serde(default = "tenant_label")]
    pub tenant_label: String,
    /// Whose a resource is that names nobody.
    #[serde(default)]
    pub tenant: Option<TenantId>,
}

/// Where an inventory is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "adapter", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceConfig {
    /// A tree of YAML and JSON files, watched.
    Directory {
        /// Its root.
        path: PathBuf,
        /// It is also read as a whole every so many seconds.
        #[serde(default = "seconds::<60>")]
        every_s: u32,
    },
    /// A command that prints an inventory.
    Exec {
        /// Program and arguments; no shell stands between.
        command: Vec<String>,
        /// It runs every so many seconds.
        #[serde(default = "seconds::<60>")]
        every_s: u32,
        /// It may take so many seconds.
        #[serde(default = "seconds::<60>")]
        timeout_s: u32,
        /// It may print so many bytes.
        #[serde(default = "bytes::<67108864>")]
        output_bytes_max: u64,
        /// What it prints; none = recognised by content.
        #[serde(default)]
        format: Option<Format>,
    },
}

impl SourceConfig {
    /// The time between two whole readings.
    pub fn every(&self) -> Duration {
        let (Self::Directory { every_s, .. } | Self::Exec { every_s, .. }) = self;
        Duration::from_secs(u64::from((*every_s).max(1)))
    }
}

/// What is sent in full, and what is only announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushConfig {
    /// Kinds whose changes are only announced; a sync fetches them.
    pub notice_kinds: BTreeSet<String>,
    /// A state larger than this is only announced, in bytes.
    pub notice_above_bytes: u64,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self { notice_kinds: BTreeSet::new(), notice_above_bytes: 256 << 10 }
    }
}

/// An access key of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Its public name.
    pub id: Name,
    /// The level-1 tenant that it belongs to.
    pub tenant: TenantId,
    /// When it ends.
    #[serde(default)]
    pub not_after: Option<Timestamp>,
    /// A file with the secret, readable by the agent alone; the secret is hashed and never sent.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Instead of the secret: 32 random bytes in hex …
    #[serde(default)]
    pub salt: Option<Hash32>,
    /// … and SHA-256(salt ‖ secret).
    #[serde(default)]
    pub hash: Option<Hash32>,
}

fn local_site() -> Name {
    // The name is a constant of the contract and obeys its own rule.
    LOCAL.parse().unwrap_or_else(|_| unreachable!("`local` is a valid name"))
}

fn tenant_label() -> String {
    "farside/tenant".to_owned()
}

const fn seconds<const N: u32>() -> u32 {
    N
}

const fn milliseconds<const N: u64>() -> u64 {
    N
}

const fn bytes<const N: u64>() -> u64 {
    N
}

const fn count<const N: u64>() -> u64 {
    N
}
