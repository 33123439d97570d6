//! Identities: sites, clusters, agents, stems, tenants, sources, resources. Builds and parses them.

use std::{fmt, str::FromStr};

use crate::text::{parts, text_form};

/// Longest name of a site, cluster, agent or target, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest `kind` of a resource, in bytes.
pub const KIND_BYTES_MAX: usize = 128;
/// Longest `id` of a resource, in bytes.
pub const RESOURCE_ID_BYTES_MAX: usize = 1024;
/// Longest revision, in bytes.
pub const REVISION_BYTES_MAX: usize = 128;
/// Most labels of a resource, so that one event cannot make an index of its own.
pub const LABELS_MAX: usize = 256;
/// Longest label name or value, in bytes.
pub const LABEL_BYTES_MAX: usize = 1024;
/// Longest CloudEvents `source` that is accepted as the name of an owner, in bytes.
pub const OWNER_BYTES_MAX: usize = 512;

/// An identity that breaks its rule; the text says the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct IdError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl IdError {
    /// What the identity is of and which rule it breaks, without the text itself, for where that may be a secret.
    pub const fn rule(&self) -> (&'static str, &'static str) {
        (self.what, self.rule)
    }
}

fn invalid(what: &'static str, text: &str, rule: &'static str) -> IdError {
    let text = text.chars().take(80).collect();
    IdError { what, text, rule }
}

/// The name of a site, cluster, agent or target: `[a-z0-9][a-z0-9-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is a valid name.
    pub fn is_valid(text: &str) -> bool {
        !text.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

impl FromStr for Name {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        const RULE: &str = "use 1 to 63 of a-z, 0-9 and -, not starting with -";
        Self::is_valid(text).then(|| Self(text.into())).ok_or_else(|| invalid("name", text, RULE))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Name, "Name", "^[a-z0-9][a-z0-9-]{0,62}$", "The name of a site, cluster, agent or target.");

/// One of the five systems, or one of the reserved stems of the house itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stem {
    /// Inventory of source clusters.
    Resource,
    /// Synchronous volume replication.
    Volume,
    /// Container images.
    Image,
    /// Stateful applications.
    Application,
    /// Chassis information.
    Chassis,
    /// Life of agents: start, heartbeat, end.
    Agent,
    /// Access keys.
    Key,
    /// Tenants.
    Tenant,
    /// Housekeeping of the log itself.
    Log,
}

impl Stem {
    /// The stem as it stands in a subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Application => "application",
            Self::Chassis => "chassis",
            Self::Agent => "agent",
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Log => "log",
        }
    }
}

impl FromStr for Stem {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        use Stem::{Agent, Application, Chassis, Image, Key, Log, Resource, Tenant, Volume};
        const RULE: &str =
            "it is one of resource, volume, image, application, chassis, agent, key, tenant, log";
        [Resource, Volume, Image, Application, Chassis, Agent, Key, Tenant, Log]
            .into_iter()
            .find(|stem| stem.as_str() == text)
            .ok_or_else(|| invalid("stem", text, RULE))
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

text_form!(
    Stem,
    "Stem",
    "^(resource|volume|image|application|chassis|agent|key|tenant|log)$",
    "One of the five systems, or a reserved stem."
);

/// A tenant: `l1`, or `l1/l2` for a level-2 tenant below a level-1 tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId {
    /// The level-1 tenant.
    pub level1: Name,
    /// The level-2 tenant below it, if this is one.
    pub level2: Option<Name>,
}

impl FromStr for TenantId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = |_| invalid("tenant", text, "write l1 or l1/l2, each 1 to 63 of a-z, 0-9 and -");
        let (level1, level2) = match text.split_once('/') {
            Some((level1, level2)) => (level1, Some(level2.parse().map_err(wrong)?)),
            None => (text, None),
        };
        Ok(Self { level1: level1.parse().map_err(wrong)?, level2 })
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.level2 {
            Some(level2) => write!(f, "{}/{level2}", self.level1),
            None => write!(f, "{}", self.level1),
        }
    }
}

text_form!(
    TenantId,
    "TenantId",
    "^[a-z0-9][a-z0-9-]{0,62}(/[a-z0-9][a-z0-9-]{0,62})?$",
    "A level-1 tenant, or a level-2 tenant as l1/l2."
);

/// A pool's name: `site/cluster`. Pools map one to one to source clusters (R3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The source site.
    pub site: Name,
    /// The source cluster at that site.
    pub cluster: Name,
}

impl FromStr for PoolId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || invalid("pool", text, "write site/cluster");
        let (site, cluster) = text.split_once('/').ok_or_else(wrong)?;
        let part = |name: &str| name.parse().map_err(|_| wrong());
        Ok(Self { site: part(site)?, cluster: part(cluster)? })
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.cluster)
    }
}

text_form!(
    PoolId,
    "PoolId",
    "^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}$",
    "A pool: site/cluster of the source cluster."
);

/// The CloudEvents `source` of a Farside agent: `/<site>/<cluster>/<stem>/<agent>`. It owns what it reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The pool that the source feeds.
    pub pool: PoolId,
    /// The system that the agent serves.
    pub stem: Stem,
    /// The agent's name.
    pub agent: Name,
}

/// The parts of a source, borrowed from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceParts<'a> {
    /// The site.
    pub site: &'a str,
    /// The cluster.
    pub cluster: &'a str,
    /// The system that the agent serves.
    pub stem: Stem,
    /// The agent's name.
    pub agent: &'a str,
}

impl Source {
    /// Takes the text of a source apart; none if it is not a Farside agent's.
    pub fn split(text: &str) -> Option<SourceParts<'_>> {
        let mut parts = parts(text.strip_prefix('/')?, b'/');
        let (site, cluster) = (parts.next()?, parts.next()?);
        let (stem, agent) = (parts.next()?.parse().ok()?, parts.next()?);
        let is_valid =
            parts.next().is_none() && [site, cluster, agent].iter().all(|name| Name::is_valid(name));
        is_valid.then_some(SourceParts { site, cluster, stem, agent })
    }
}

impl FromStr for Source {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let parts = Self::split(text)
            .ok_or_else(|| invalid("source", text, "write /<site>/<cluster>/<stem>/<agent>"))?;
        let pool = PoolId { site: parts.site.parse()?, cluster: parts.cluster.parse()? };
        Ok(Self { pool, stem: parts.stem, agent: parts.agent.parse()? })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}/{}", self.pool, self.stem, self.agent)
    }
}

text_form!(
    Source,
    "Source",
    "^/[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}/[a-z]+/[a-z0-9][a-z0-9-]{0,62}$",
    "A source: /<site>/<cluster>/<stem>/<agent>."
);

/// A resource inside its cluster: `kind/id`. The kind has no slash; the id may hold anything but
/// control characters, up to [`RESOURCE_ID_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceKey(Box<str>);

impl ResourceKey {
    /// The key of a kind and an id. Errors: says which rule is broken.
    pub fn new(kind: &str, id: &str) -> Result<Self, IdError> {
        const KIND: &str = "use 1 to 128 bytes without / and without control characters";
        const ID: &str = "use 1 to 1024 bytes without control characters";
        let fits = |text: &str, bytes_max| {
            !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
        };
        if !fits(kind, KIND_BYTES_MAX) || kind.contains('/') {
            return Err(invalid("kind", kind, KIND));
        }
        if !fits(id, RESOURCE_ID_BYTES_MAX) {
            return Err(invalid("resource id", id, ID));
        }
        Ok(Self(format!("{kind}/{id}").into()))
    }

    /// `kind/id`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind.
    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    /// The id.
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }
}

impl FromStr for ResourceKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (kind, id) = text.split_once('/').ok_or_else(|| invalid("resource", text, "write kind/id"))?;
        Self::new(kind, id)
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(ResourceKey, "ResourceKey", "^[^/]+/.+$", "A resource inside its cluster: kind/id.");

/// A resource's revision: an opaque string of 1 to 128 bytes, compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Box<str>);

impl Revision {
    /// The revision as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Revision {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=REVISION_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        let rule = "use 1 to 128 bytes without control characters";
        fits.then(|| Self(text.into())).ok_or_else(|| invalid("revision", text, rule))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Revision, "Revision", "^.{1,128}$", "An opaque revision, compared for equality only.");

/// The life of one outbox: a random 64-bit number made with it; as text, 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl FromStr for Epoch {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = if hex { u64::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or_else(|| invalid("epoch", text, "write 16 lower-case hex digits"))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

text_form!(Epoch, "Epoch", "^[0-9a-f]{16}$", "The life of one outbox, lower-case hex.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_reads_back_what_it_writes() {
        assert_eq!("dc1".parse::<Name>().unwrap().to_string(), "dc1");
        assert_eq!("acme/web".parse::<TenantId>().unwrap().to_string(), "acme/web");
        assert_eq!(
            "/local/dc1/resource/inv".parse::<Source>().unwrap().to_string(),
            "/local/dc1/resource/inv"
        );
        assert_eq!("00000000000000ff".parse::<Epoch>().unwrap(), Epoch(255));
        let key: ResourceKey = "Pod/a.b/c d".parse().unwrap();
        assert_eq!((key.kind(), key.id()), ("Pod", "a.b/c d"));
    }

    #[test]
    fn broken_identities_are_refused_with_the_rule() {
        for name in ["", "-a", "A", "a_b", "a.b", &"a".repeat(64)] {
            assert!(name.parse::<Name>().unwrap_err().to_string().contains("1 to 63"), "{name}");
        }
        for source in
            ["local/dc1/resource/a", "/local/dc1/resource", "/local/dc1/rocket/a", "/a/b/resource/c/d"]
        {
            assert!(source.parse::<Source>().is_err(), "{source}");
        }
        assert!("Pod".parse::<ResourceKey>().is_err());
        assert!(ResourceKey::new("Pod", &"x".repeat(1025)).is_err());
        assert!("FF00000000000000".parse::<Epoch>().is_err());
    }
}
