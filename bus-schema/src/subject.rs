//! Subjects and stream names: where each event, fact, command and dead letter travels.
//!
//! ```text
//! far.v1.<site>.evt.<cluster>.<stem>.<token>.<event>    site log      FARSIDE_<SITE>
//! far.v1.<target>.tgt.<stem>.<token>.<event>            target log    FARSIDE_TGT_<TARGET>
//! far.v1.<site>.cmd.<cluster>.<stem>.<verb>             request/reply, not stored
//! far.v1.<target>.cmd.target.<stem>.<verb>              request/reply, to the lease holder
//! far.v1.<target>.lease.<lease>                         renewals      FARSIDE_LEASE_<TARGET>
//! far.v1.<target>.dlq.<consumer>.<stem>                 dead letters  FARSIDE_DLQ_<TARGET>
//! ```

use std::fmt;

use crate::{
    id::{Name, PoolId, Stem},
    text::parts,
};

/// The prefix of every subject; the number is the contract's version.
pub const ROOT: &str = "far.v1";
/// The site's name on a machine that is its own source and target.
pub const LOCAL: &str = "local";

/// The parts of a site log's subject, borrowed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSubject<'a> {
    /// The source site.
    pub site: &'a str,
    /// The source cluster.
    pub cluster: &'a str,
    /// The system, or a reserved stem.
    pub stem: Stem,
    /// The entity's token, see [`crate::token`].
    pub token: &'a str,
    /// The event's name, past tense.
    pub event: &'a str,
}

/// A subject that does not follow the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "subject {subject:?} is not one of Farside's: {reason}; write {ROOT}.<site>.evt.<cluster>.<stem>.<token>.<event>"
)]
pub struct SubjectError {
    subject: String,
    reason: &'static str,
}

impl<'a> EventSubject<'a> {
    /// Reads a site log's subject. Errors: says which part is wrong.
    pub fn parse(subject: &'a str) -> Result<Self, SubjectError> {
        let wrong = |reason| SubjectError { subject: subject.to_owned(), reason };
        let rest = subject.strip_prefix("far.v1.").ok_or_else(|| wrong("it does not start with far.v1."))?;
        let mut parts = parts(rest, b'.');
        let mut next = |reason| parts.next().filter(|part| !part.is_empty()).ok_or_else(|| wrong(reason));
        let site = next("the site is missing")?;
        let evt = next("`evt` is missing")?;
        let cluster = next("the cluster is missing")?;
        let stem = next("the stem is missing")?;
        let token = next("the entity's token is missing")?;
        let event = next("the event's name is missing")?;
        if evt != "evt" {
            return Err(wrong("the fourth part is not `evt`"));
        }
        if !Name::is_valid(site) || !Name::is_valid(cluster) {
            return Err(wrong("a site or cluster name breaks its rule (a-z, 0-9, -)"));
        }
        let stem = stem.parse().map_err(|_| wrong("the stem is unknown"))?;
        if parts.next().is_some() {
            return Err(wrong("it has too many parts (a dot in a token is written =2E)"));
        }
        Ok(Self { site, cluster, stem, token, event })
    }

    /// The pool that the event belongs to.
    pub fn pool(&self) -> Result<PoolId, crate::id::IdError> {
        Ok(PoolId { site: self.site.parse()?, cluster: self.cluster.parse()? })
    }
}

impl fmt::Display for EventSubject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, cluster, stem, token, event } = self;
        write!(f, "{ROOT}.{site}.evt.{cluster}.{stem}.{token}.{event}")
    }
}

/// Every event of a site: `far.v1.<site>.evt.>`.
pub fn site_events(site: &Name) -> String {
    format!("{ROOT}.{site}.evt.>")
}

/// Every event of one entity, which is its history: `far.v1.<site>.evt.<cluster>.<stem>.<token>.*`.
pub fn entity_events(pool: &PoolId, stem: Stem, key: &str) -> String {
    format!("{ROOT}.{}.evt.{}.{stem}.{}.*", pool.site, pool.cluster, crate::token::of(key))
}

/// Every fact of a target: `far.v1.<target>.tgt.>`.
pub fn target_facts(target: &Name) -> String {
    format!("{ROOT}.{target}.tgt.>")
}

/// The subject of a target's fact about one entity.
pub fn fact(target: &Name, stem: Stem, key: &str, event: &str) -> String {
    format!("{ROOT}.{target}.tgt.{stem}.{}.{event}", crate::token::of(key))
}

/// Every fact of a name about logs: `far.v1.<target>.tgt.log.*.<event>`.
pub fn log_facts(target: &Name, event: &str) -> String {
    format!("{ROOT}.{target}.tgt.{}.*.{event}", Stem::Log)
}

/// The subject whose last sequence is the fencing token of a lease.
pub fn lease(target: &Name, lease: &Name) -> String {
    fact(target, Stem::Log, lease.as_str(), "lease_acquired")
}

/// The subject of a command to the agents of one cluster and stem, or (`agent.hello`) to the target.
pub fn command(pool: &PoolId, stem: Stem, verb: &str) -> String {
    format!("{ROOT}.{}.cmd.{}.{stem}.{verb}", pool.site, pool.cluster)
}

/// The subject of a command to the process that holds a target's lease.
pub fn target_command(target: &Name, stem: Stem, verb: &str) -> String {
    format!("{ROOT}.{target}.cmd.target.{stem}.{verb}")
}

/// The lease whose holder acts for a target.
pub const TARGET_LEASE: &str = "target";

/// Where the holder of a lease says that it lives; the last message only is kept, in a stream of its
/// own, because a renewal on [`lease`] would fence the holder itself.
pub fn lease_renewal(target: &Name, lease: &Name) -> String {
    format!("{ROOT}.{target}.lease.{lease}")
}

/// The name of the stream of lease renewals.
pub fn lease_stream(target: &Name) -> String {
    format!("FARSIDE_LEASE_{}", upper(target))
}

/// The subject of a dead letter: what `consumer` could not take in.
pub fn dead_letter(target: &Name, consumer: &Name, stem: &str) -> String {
    format!("{ROOT}.{target}.dlq.{consumer}.{stem}")
}

/// Every dead letter of a target.
pub fn dead_letters(target: &Name) -> String {
    format!("{ROOT}.{target}.dlq.>")
}

/// The name of a site log's stream.
pub fn site_stream(site: &Name) -> String {
    format!("FARSIDE_{}", upper(site))
}

/// The name of a target log's stream.
pub fn target_stream(target: &Name) -> String {
    format!("FARSIDE_TGT_{}", upper(target))
}

/// The name of a target's stream of dead letters.
pub fn dead_letter_stream(target: &Name) -> String {
    format!("FARSIDE_DLQ_{}", upper(target))
}

fn upper(name: &Name) -> String {
    name.as_str().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_subject_reads_back_what_it_writes() {
        let text = "far.v1.local.evt.dc1.resource.Pod=2Fweb.changed";
        let subject = EventSubject::parse(text).unwrap();
        assert_eq!((subject.cluster, subject.stem, subject.event), ("dc1", Stem::Resource, "changed"));
        assert_eq!(subject.to_string(), text);
    }

    #[test]
    fn a_wrong_subject_is_refused_with_the_part_that_is_wrong() {
        for (subject, why) in [
            ("foo.bar", "far.v1."),
            ("far.v1.local.cmd.dc1.resource.a.b", "`evt`"),
            ("far.v1.local.evt.DC1.resource.a.b", "name"),
            ("far.v1.local.evt.dc1.rocket.a.b", "stem"),
            ("far.v1.local.evt.dc1.resource.a", "event's name"),
            ("far.v1.local.evt.dc1.resource.a.b.c", "too many"),
        ] {
            let error = EventSubject::parse(subject).unwrap_err().to_string();
            assert!(error.contains(why), "{subject}: {error}");
        }
    }
}
