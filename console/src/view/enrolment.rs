//! Who may come in to NATS, as the API answers it. Public keys only.

use bus::managed::{AgentIdentity, ReaderIdentity};
use bus_schema::{Name, PoolId, Stem, TenantId};
use serde::{Deserialize, Serialize};

/// An agent that may come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its site.
    pub site: Name,
    /// Its name, unique at its site.
    pub name: Name,
    /// The clusters that it may speak for.
    pub clusters: Vec<Name>,
    /// The systems whose commands it hears.
    pub stems: Vec<Stem>,
    /// The public half of its nkey.
    pub public_key: String,
    /// Whether it runs by farside's own configuration; else somebody enrolled it.
    pub configured: bool,
}

impl AgentView {
    /// What is shown of an agent.
    pub fn new(agent: AgentIdentity, configured: bool) -> Self {
        let AgentIdentity { scope, public_key } = agent;
        Self {
            site: scope.id.site,
            name: scope.id.name,
            clusters: scope.clusters.into_iter().collect(),
            stems: scope.stems.into_iter().collect(),
            public_key: public_key.into(),
            configured,
        }
    }
}

/// A reader that may come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderView {
    /// Its name.
    pub name: Name,
    /// For whom it reads.
    pub tenant: TenantId,
    /// The clusters that it reads, as a whole.
    pub pools: Vec<PoolId>,
    /// The streams that it reads from.
    pub streams: Vec<String>,
    /// Its consumer there.
    pub consumer: String,
    /// The public half of its nkey.
    pub public_key: String,
}

impl From<ReaderIdentity> for ReaderView {
    fn from(reader: ReaderIdentity) -> Self {
        Self {
            streams: reader.feeds().into_iter().map(|(stream, _)| stream).collect(),
            consumer: reader.consumer(),
            name: reader.name,
            tenant: reader.tenant,
            pools: reader.pools.into_iter().collect(),
            public_key: reader.public_key.into(),
        }
    }
}

/// What came of an enrolment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolledView {
    /// Where it connects. Absent: nobody was enrolled, because the NATS is not farside's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<String>,
    /// Whether it needs TLS there.
    #[serde(default)]
    pub tls: bool,
    /// What the owner of a NATS that is not farside's own puts into its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<String>,
    /// `stream:seq` of the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What was not done although somebody may expect it, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What came of a revocation: whoever it was has no connection any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedView {
    /// The public key that opens nothing any more.
    pub public_key: String,
    /// `stream:seq` of the fact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What was not done although somebody may expect it, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}
