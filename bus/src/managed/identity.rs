//! Who may come in besides the service and the publishers, and on which subjects: agents and readers. Pure.
//!
//! Each has an account of its own in the server, which reaches the service's account through imports of its own
//! subjects only. A log answers a publish on whatever subject the publisher names, in the publisher's account: what
//! is led there meets nobody else, and no import but the identity's own. See docs/decisions/0007.
//!
//! Must not know: files, the server.

use std::{collections::BTreeSet, fmt, str::FromStr};

use bus_schema::{
    Name, PoolId, Stem, TenantId,
    command::agent::{HELLO, REPLAY},
    envelope::PLAIN_AGENT,
    subject::{self, ROOT},
};
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use crate::options::private_inbox_prefix;

/// The cluster's place in the subjects of commands to the target itself.
const TARGET: &str = "target";
/// What a reader's JetStream requests begin with instead of `$JS.API`: client libraries call it the domain.
pub const READER_DOMAIN: &str = "FARSIDE";

/// The public half of a user's nkey, `U…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

/// A text that is no public key of a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{shown:?} is not the public key of an nkey user ({reason}); it has 56 characters and begins with U: 'nk -gen user -pubout' makes a pair and shows it last"
)]
pub struct PublicKeyError {
    shown: String,
    reason: String,
}

impl PublicKey {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, PublicKeyError> {
        let wrong = |reason: String| {
            // A seed that was taken for a public key must not be repeated in a log.
            let secret = text.starts_with('S');
            let shown = if secret { "S…".to_owned() } else { text.chars().take(60).collect() };
            PublicKeyError { shown, reason }
        };
        if text.starts_with('S') {
            return Err(wrong("it looks like a seed, which is the secret half".to_owned()));
        }
        let pair = KeyPair::from_public_key(text).map_err(|e| wrong(e.to_string()))?;
        match pair.key_pair_type() {
            KeyPairType::User => Ok(Self(text.to_owned())),
            other => Err(wrong(format!("it is one of another kind, {other:?}"))),
        }
    }
}

impl TryFrom<String> for PublicKey {
    type Error = PublicKeyError;

    fn try_from(text: String) -> Result<Self, PublicKeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an agent is called: its name is unique at its site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AgentId {
    /// The site.
    pub site: Name,
    /// The name.
    pub name: Name,
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.site, self.name)
    }
}

/// What an agent may speak for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentScope {
    /// Its name.
    #[serde(flatten)]
    pub id: AgentId,
    /// Its clusters, of its site.
    pub clusters: BTreeSet<Name>,
    /// The systems whose commands it hears.
    pub stems: BTreeSet<Stem>,
}

/// An agent that may come in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentIdentity {
    /// What it may speak for.
    #[serde(flatten)]
    pub scope: AgentScope,
    /// The key that it comes in with.
    pub public_key: PublicKey,
}

/// A reader that may come in: somebody of a tenant who reads whole clusters from the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderIdentity {
    /// Its name.
    pub name: Name,
    /// For whom it reads.
    pub tenant: TenantId,
    /// The clusters that it reads, as a whole.
    pub pools: BTreeSet<PoolId>,
    /// The key that it comes in with.
    pub public_key: PublicKey,
}

impl AgentScope {
    /// Errors: in words, what cannot be and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { id, clusters, stems } = self;
        if id.name.as_str() == PLAIN_AGENT {
            return Err(format!(
                "the name {PLAIN_AGENT} is kept for publishers without an agent; take another"
            ));
        }
        if clusters.is_empty() {
            return Err(format!("the agent {id} has no clusters; name at least one"));
        }
        if clusters.iter().any(|cluster| cluster.as_str() == TARGET) {
            return Err(format!(
                "the cluster {TARGET} of the agent {id} has a name that stands for the target itself in subjects; give it another"
            ));
        }
        let house = [Stem::Agent, Stem::Key, Stem::Tenant, Stem::Log];
        match stems.iter().find(|stem| house.contains(stem)) {
            Some(stem) => Err(format!("{stem} is no system with agents; name one like {}", Stem::Resource)),
            None if stems.is_empty() => Err(format!("the agent {id} serves no system; name at least one")),
            None => Ok(()),
        }
    }

    /// What it may publish: events of its clusters, and its greeting.
    fn says(&self) -> Vec<String> {
        let Self { id: AgentId { site, .. }, clusters, .. } = self;
        let events = clusters.iter().map(|cluster| format!("{ROOT}.{site}.evt.{cluster}.>"));
        let hello = clusters.iter().map(|cluster| subject::command(&pool(site, cluster), Stem::Agent, HELLO));
        events.chain(hello).collect()
    }

    /// The commands that it hears.
    fn hears(&self) -> Vec<String> {
        let Self { id: AgentId { site, .. }, clusters, stems } = self;
        // Not all of the agents' own stem: the greetings there are the target's to hear.
        let verbs = stems.iter().map(|stem| (*stem, "*")).chain([(Stem::Agent, REPLAY)]);
        let of = |(stem, verb)| {
            clusters.iter().map(move |cluster| subject::command(&pool(site, cluster), stem, verb))
        };
        verbs.flat_map(of).collect()
    }
}

fn pool(site: &Name, cluster: &Name) -> PoolId {
    PoolId { site: site.clone(), cluster: cluster.clone() }
}

impl AgentIdentity {
    /// The account that is its alone. Names have no `_`, so no two agents share one.
    pub(crate) fn account(&self) -> String {
        let AgentId { site, name } = &self.scope.id;
        format!("AGENT_{site}_{name}")
    }

    /// Its account in the server's configuration; `main` is the account with the logs.
    pub(crate) fn account_text(&self, main: &str) -> String {
        let Self { scope, public_key } = self;
        let (says, hears) = (scope.says(), scope.hears());
        let may = list(says.iter().chain([&"$JS.API.INFO".to_owned()]).map(|subject| quoted(subject)));
        let inbox = format!("{}.>", private_inbox_prefix(public_key.as_str()));
        let hear = list(hears.iter().chain([&inbox]).map(|subject| quoted(subject)));
        let imports = list(says.iter().map(|subject| service_from(main, subject)));
        let exports = list(
            hears.iter().map(|subject| format!("{{ service: {}, accounts: [{main}] }}", quoted(subject))),
        );
        format!(
            "{account}: {{\n  users: [ {{ nkey: {public_key}, permissions: {{\n    \
               publish: {{ allow: [{may}] }}\n    subscribe: {{ allow: [{hear}] }}\n    \
               allow_responses: {{ max: 10, expires: \"10m\" }}\n  }} }} ]\n  \
               imports: [{imports}]\n  exports: [{exports}]\n}}\n",
            account = quoted(&self.account())
        )
    }

    /// What the account with the logs imports, so that a command reaches the agent.
    pub(crate) fn imports(&self) -> Vec<String> {
        let account = quoted(&self.account());
        self.scope.hears().iter().map(|subject| service_from(&account, subject)).collect()
    }

    /// What the owner of a NATS that is not farside's own puts into its configuration for this agent, when the
    /// logs and the service's user are in an account `FARSIDE`.
    pub fn permissions_text(&self) -> String {
        let exports = list(AGENT_EXPORTS.iter().map(|subject| format!("{{ service: {} }}", quoted(subject))));
        let imports = list(self.imports());
        format!(
            "# in the account with the logs and the service's user, here FARSIDE:\n\
             exports: [{exports}]\nimports: [{imports}]\n\
             # beside it, among the accounts:\n{}",
            self.account_text("FARSIDE")
        )
    }
}

/// What the account with the logs offers to agents.
pub(crate) const AGENT_EXPORTS: [&str; 2] = ["far.v1.*.evt.>", "far.v1.*.cmd.*.agent.hello"];
/// What it offers to readers with one answer, …
pub(crate) const READER_EXPORTS: [&str; 2] = ["$JS.API.CONSUMER.INFO.*.*", "$JS.ACK.*.*.>"];
/// … and with many.
pub(crate) const READER_STREAM_EXPORT: &str = "$JS.API.CONSUMER.MSG.NEXT.*.*";

impl ReaderIdentity {
    /// The consumer that it reads from, in the log of each of its sites.
    pub fn consumer(&self) -> String {
        format!("reader-{}", self.name)
    }

    /// Its logs: of each site the stream and what of it the reader gets.
    pub fn feeds(&self) -> Vec<(String, Vec<String>)> {
        let sites: BTreeSet<_> = self.pools.iter().map(|pool| &pool.site).collect();
        let of = |site: &Name| {
            let own = self.pools.iter().filter(|pool| pool.site == *site);
            let filters = own.map(|pool| format!("{ROOT}.{site}.evt.{}.>", pool.cluster)).collect();
            (subject::site_stream(site), filters)
        };
        sites.into_iter().map(of).collect()
    }

    /// Its account in the server's configuration.
    pub(crate) fn account_text(&self, main: &str) -> String {
        let (consumer, public_key) = (self.consumer(), &self.public_key);
        let (mut may, mut imports) = (vec![], vec![]);
        for (stream, _) in self.feeds() {
            for verb in ["MSG.NEXT", "INFO"] {
                let asked = format!("API.CONSUMER.{verb}.{stream}.{consumer}");
                let local = format!("$JS.{READER_DOMAIN}.{asked}");
                let from = quoted(&format!("$JS.{asked}"));
                imports.push(format!(
                    "{{ service: {{ account: {main}, subject: {from} }}, to: {} }}",
                    quoted(&local)
                ));
                may.push(quoted(&local));
            }
            let ack = format!("$JS.ACK.{stream}.{consumer}.>");
            imports.push(service_from(main, &ack));
            may.push(quoted(&ack));
        }
        format!(
            "{account}: {{\n  users: [ {{ nkey: {public_key}, permissions: {{\n    \
               publish: {{ allow: [{may}] }}\n    subscribe: {{ allow: [\"_INBOX.>\", {inbox}] }}\n  }} }} ]\n  \
               imports: [{imports}]\n}}\n",
            account = quoted(&format!("READER_{}", self.name)),
            may = list(may),
            inbox = quoted(&format!("{}.>", private_inbox_prefix(public_key.as_str()))),
            imports = list(imports)
        )
    }
}

pub(crate) fn service_from(account: &str, subject: &str) -> String {
    format!("{{ service: {{ account: {account}, subject: {} }} }}", quoted(subject))
}

pub(crate) fn list(each: impl IntoIterator<Item = String>) -> String {
    each.into_iter().collect::<Vec<_>>().join(", ")
}

pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_half_of_a_users_key_is_one_and_a_seed_is_not_repeated() {
        let user = KeyPair::new_user();
        assert_eq!(user.public_key().parse::<PublicKey>().unwrap().as_str(), user.public_key());
        let seed = user.seed().unwrap();
        let error = seed.parse::<PublicKey>().unwrap_err().to_string();
        assert!(error.contains("secret half") && !error.contains(&seed[4..]), "{error}");
        let mut bent = user.public_key();
        bent.replace_range(20..21, if &bent[20..21] == "A" { "B" } else { "A" });
        for wrong in [KeyPair::new_account().public_key(), bent, "U".to_owned(), String::new()] {
            let error = wrong.parse::<PublicKey>().unwrap_err().to_string();
            assert!(error.contains("begins with U"), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_agent_without_clusters_or_with_a_name_of_the_contract_is_none() {
        let names = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let scope = |name: &str, clusters: &[&str], stems: &[Stem]| AgentScope {
            id: AgentId { site: "local".parse().unwrap(), name: name.parse().unwrap() },
            clusters: names(clusters),
            stems: stems.iter().copied().collect(),
        };
        scope("inv", &["dc1"], &[Stem::Resource]).check().unwrap();
        for (scope, words) in [
            (scope("inv", &[], &[Stem::Resource]), "name at least one"),
            (scope("inv", &["dc1", "target"], &[Stem::Resource]), "the target itself"),
            (scope(PLAIN_AGENT, &["dc1"], &[Stem::Resource]), "take another"),
            (scope("inv", &["dc1"], &[]), "serves no system"),
            (scope("inv", &["dc1"], &[Stem::Key]), "no system with agents"),
        ] {
            let error = scope.check().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
