//! Who may come in to the managed server: kept in a file, written into its configuration, taken in by the running
//! server without a restart. Whoever is revoked is disconnected at once.
//!
//! Must not know: what an identity may do ([`super::identity`]); tenants and their grants.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    ManagedError,
    config::Config,
    file_error,
    identity::{AgentId, AgentIdentity, PublicKey, ReaderIdentity},
    keys::Keys,
    owner::write_private,
};
use crate::{Bus, BusError, ConnectOptions};

/// The file of those who were enrolled, in the store directory.
const FILE: &str = "enrolled.json";
/// How long the server may take to take a configuration in; it may be starting again in this moment.
const RELOAD_WAIT: Duration = Duration::from_secs(15);
/// How long one request to do so may take.
const RELOAD_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Between two of them.
const RELOAD_AGAIN: Duration = Duration::from_millis(100);

/// Why somebody was not enrolled or revoked: each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Unfit(String),
    /// The name or the key is somebody else's.
    #[error("{0}")]
    Taken(String),
    /// Nobody of this name is enrolled.
    #[error("{0}")]
    Unknown(String),
    /// The agent runs by the configuration of the server's owner.
    #[error("the agent {0} is one of farside's own configuration; take it out there and start farside again")]
    Configured(AgentId),
    /// The server did not take it in.
    #[error(
        "nats-server did not take its new configuration in: {reason}; it holds when the server starts again: look at nats-server.log"
    )]
    Reload {
        /// What it said.
        reason: String,
    },
    /// A file.
    #[error(transparent)]
    File(#[from] ManagedError),
}

/// Who was enrolled: what the file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrolled {
    #[serde(default)]
    agents: Vec<AgentIdentity>,
    #[serde(default)]
    readers: Vec<ReaderIdentity>,
}

/// Everybody who may come in besides the service and the publishers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    configured: Vec<AgentIdentity>,
    enrolled: Enrolled,
}

impl Members {
    /// Reads who was enrolled, and takes in the agents of the configuration. Errors: the file; an agent of the
    /// configuration that is enrolled with another key.
    pub(crate) fn load(
        config: &super::ManagedOptions,
        store_dir: &Path,
        keys: &Keys,
    ) -> Result<Self, ManagedError> {
        let mut members = Self { configured: vec![], enrolled: read(&store_dir.join(FILE))? };
        for scope in &config.agents {
            let public_key = keys.agent_public(&scope.id)?;
            let known = members.enrolled.agents.iter().position(|agent| agent.scope.id == scope.id);
            if let Some(known) = known {
                if members.enrolled.agents[known].public_key != public_key {
                    return Err(ManagedError::Enrolled { agent: scope.id.clone() });
                }
                members.enrolled.agents.remove(known);
            }
            scope.check().map_err(ManagedError::Agent)?;
            members.configured.push(AgentIdentity { scope: scope.clone(), public_key });
        }
        Ok(members)
    }

    /// Every agent.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &AgentIdentity> {
        self.configured.iter().chain(&self.enrolled.agents)
    }

    /// Every reader.
    pub(crate) fn readers(&self) -> &[ReaderIdentity] {
        &self.enrolled.readers
    }

    /// Errors: whose key it is already. The server takes no configuration with a key in it twice.
    fn check_key(&self, key: &PublicKey, keys: &Keys) -> Result<(), RosterError> {
        let agent = self.agents().find(|agent| agent.public_key == *key);
        let agent = agent.map(|agent| format!("the agent {}", agent.scope.id));
        let reader = self.readers().iter().find(|reader| reader.public_key == *key);
        let reader = reader.map(|reader| format!("the reader {}", reader.name));
        let own = [&keys.service_public, &keys.system_public].contains(&&key.as_str().to_owned());
        match agent.or(reader).or(own.then(|| "farside itself".to_owned())) {
            None => Ok(()),
            Some(whose) => Err(RosterError::Taken(format!(
                "the public key {key} is that of {whose}; make another pair of keys"
            ))),
        }
    }
}

/// The roster of a running server. Clones share it.
#[derive(Clone, Debug)]
pub struct Roster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    system: ConnectOptions,
    /// Held while somebody is enrolled or revoked: one after the other.
    members: Mutex<Members>,
}

impl Roster {
    pub(crate) fn new(config: Config, system: ConnectOptions, members: Members) -> Self {
        Self { inner: Arc::new(Inner { config, system, members: Mutex::new(members) }) }
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.config.keys
    }

    /// The agents of the owner's configuration, …
    pub async fn configured(&self) -> Vec<AgentIdentity> {
        self.inner.members.lock().await.configured.clone()
    }

    /// … and those that were enrolled.
    pub async fn agents(&self) -> Vec<AgentIdentity> {
        self.inner.members.lock().await.enrolled.agents.clone()
    }

    /// The readers.
    pub async fn readers(&self) -> Vec<ReaderIdentity> {
        self.inner.members.lock().await.enrolled.readers.clone()
    }

    /// Lets an agent in from now on. Errors: its name or key is taken; the server, which then stays as it was.
    pub async fn enroll_agent(&self, agent: AgentIdentity) -> Result<(), RosterError> {
        let mut members = self.inner.members.lock().await;
        let id = &agent.scope.id;
        agent.scope.check().map_err(RosterError::Unfit)?;
        if let Some(known) = members.agents().find(|known| known.scope.id == *id) {
            let clusters: Vec<_> = known.scope.clusters.iter().map(|name| name.as_str()).collect();
            return Err(RosterError::Taken(format!(
                "an agent {id} is enrolled already, for {}; take another name, or revoke that one first",
                clusters.join(", ")
            )));
        }
        members.check_key(&agent.public_key, self.keys())?;
        self.take_in(&mut members, |enrolled| enrolled.agents.push(agent)).await
    }

    /// Lets an agent in no more, and ends its connections. Errors: nobody of this name is enrolled; the server.
    pub async fn revoke_agent(&self, id: &AgentId) -> Result<AgentIdentity, RosterError> {
        let mut members = self.inner.members.lock().await;
        let at = members.enrolled.agents.iter().position(|agent| agent.scope.id == *id);
        let Some(at) = at else {
            return Err(match members.configured.iter().any(|agent| agent.scope.id == *id) {
                true => RosterError::Configured(id.clone()),
                false => RosterError::Unknown(format!(
                    "no agent {id} is enrolled; 'farside agent list' shows those that are"
                )),
            });
        };
        let gone = members.enrolled.agents.remove(at);
        self.write(&members)?;
        self.reload().await?;
        self.forget_seed(id);
        Ok(gone)
    }

    /// Lets a reader in from now on. Errors: its name or key is taken; the server, which then stays as it was.
    pub async fn enroll_reader(&self, reader: ReaderIdentity) -> Result<(), RosterError> {
        let mut members = self.inner.members.lock().await;
        if reader.pools.is_empty() {
            return Err(RosterError::Unfit("a reader without clusters reads nothing; name one".to_owned()));
        }
        if let Some(known) = members.readers().iter().find(|known| known.name == reader.name) {
            return Err(RosterError::Taken(format!(
                "a reader {} is enrolled already, for tenant {}; take another name, or revoke that one first",
                known.name, known.tenant
            )));
        }
        members.check_key(&reader.public_key, self.keys())?;
        self.take_in(&mut members, |enrolled| enrolled.readers.push(reader)).await
    }

    /// Lets a reader in no more, and ends its connections. Errors: nobody of this name is enrolled; the server.
    pub async fn revoke_reader(&self, name: &bus_schema::Name) -> Result<ReaderIdentity, RosterError> {
        let mut members = self.inner.members.lock().await;
        let at = members.readers().iter().position(|reader| reader.name == *name).ok_or_else(|| {
            RosterError::Unknown(format!(
                "no reader {name} is enrolled; 'farside reader list' shows those that are"
            ))
        })?;
        let gone = members.enrolled.readers.remove(at);
        self.write(&members)?;
        self.reload().await?;
        Ok(gone)
    }

    /// Enrols somebody; undone when the server does not take it in.
    async fn take_in(
        &self,
        members: &mut Members,
        change: impl FnOnce(&mut Enrolled),
    ) -> Result<(), RosterError> {
        let before = members.enrolled.clone();
        change(&mut members.enrolled);
        let taken = match self.write(members) {
            Ok(()) => self.reload().await,
            Err(error) => Err(error.into()),
        };
        if taken.is_err() {
            members.enrolled = before;
            self.write(members)?;
        }
        taken
    }

    /// A seed that opens nothing any more would be in the way of the next one of that name.
    fn forget_seed(&self, id: &AgentId) {
        let path = self.keys().agent_seed(id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove a seed that opens nothing any more");
        }
    }

    fn write(&self, members: &Members) -> Result<(), ManagedError> {
        let path = self.inner.config.store_dir.join(FILE);
        let text = serde_json::to_string_pretty(&members.enrolled);
        let text = text.map_err(|e| file_error("write", &path)(io::Error::other(e)))?;
        // First who may come in at all, so that no start lets in whom a crash between the two left out.
        write_private(&path, &format!("{text}\n"))?;
        self.inner.config.write(members)
    }

    /// Has the running server read its configuration; when it answers, whoever is not in it is disconnected.
    ///
    /// Twice: nats-server 2.15.1 ties the imports of an account that is new to those that were there only when it reads
    /// the same once more. Until then whoever is in it is told that nobody responds.
    async fn reload(&self) -> Result<(), RosterError> {
        self.reload_once().await?;
        self.reload_once().await
    }

    async fn reload_once(&self) -> Result<(), RosterError> {
        let deadline = Instant::now() + RELOAD_WAIT;
        loop {
            let reason = match self.ask_to_reload().await {
                Ok(Answer { error: None }) => return Ok(()),
                Ok(Answer { error: Some(error) }) => {
                    return Err(RosterError::Reload { reason: error.description });
                }
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(RosterError::Reload { reason });
            }
            sleep(RELOAD_AGAIN).await;
        }
    }

    async fn ask_to_reload(&self) -> Result<Answer, String> {
        let said = |e: BusError| e.to_string();
        let bus = Bus::connect(self.inner.system.clone()).await.map_err(said)?;
        let subject = format!("$SYS.REQ.SERVER.{}.RELOAD", bus.client().server_info().server_id);
        let answer = bus.request(&subject, &json!({}), RELOAD_ANSWER_WAIT).await;
        bus.drain().await;
        answer.map_err(|e| e.to_string())
    }
}

/// What the server answers.
#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    description: String,
}

fn read(path: &Path) -> Result<Enrolled, ManagedError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Enrolled::default()),
        Err(e) => return Err(file_error("read", path)(e)),
    };
    serde_json::from_str(&text).map_err(|e| {
        let cure = format!("it is not what farside wrote ({e}); restore it from a backup, or remove it and enrol everybody again");
        file_error("use", path)(io::Error::other(cure))
    })
}
