//! What the reactions need from outside: agents to ask, facts to state, the pool to look at, the time.
//! The real ones stand here; the recording ones of the tests are in `recording.rs`.

use std::{future::Future, time::Duration};

use bus::{Bus, LeaseToken, RequestError};
use bus_schema::{
    Name, PoolId, ResourceKey, Source, Stem, Timestamp,
    fact::{Fact, log::LogFact},
    subject,
};
use projector::{
    AccessKey, Answer, DigestItems, DigestNodes, Owner, Reader, Row, StoreError, SyncRecord, TenantState,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::ConsumersError,
    runtime::{applied::Progress, clock, facts::FactPublisher},
};

/// Facts about logs that are looked through for a rewound log.
const LOG_FACTS_MAX: usize = 1_000;

/// An agent that did not answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Silence(pub String);

/// Everything outside of the reactions.
pub trait Ports: Send + Sync + 'static {
    /// The pool.
    type Pool: Pool;

    /// The present time.
    fn now(&self) -> Timestamp;

    /// The fencing token of the lease; none = another process acts.
    fn lease(&self) -> Option<LeaseToken>;

    /// Looks at the pool.
    fn pool(&self) -> &Self::Pool;

    /// The largest message that NATS takes, in bytes.
    fn payload_bytes_max(&self) -> usize;

    /// Sends a command of the stem `resource` to the agents of a pool, and waits for the answer.
    fn ask(
        &self,
        pool: &PoolId,
        verb: &'static str,
        command: Value,
        wait: Duration,
    ) -> impl Future<Output = Result<Value, Silence>> + Send;

    /// States a fact under an id and answers its sequence.
    fn state(&self, fact: Fact, id: String) -> impl Future<Output = Result<u64, ConsumersError>> + Send;
}

/// The questions that reactions have about the pool.
pub trait Pool: Send + Sync {
    /// Every pool.
    fn pools(&self) -> Result<Vec<PoolId>, StoreError>;
    /// The owners of a pool.
    fn owners(&self, pool: &PoolId) -> Result<Vec<Owner>, StoreError>;
    /// One owner.
    fn owner(&self, pool: &PoolId, source: &str) -> Result<Option<Owner>, StoreError>;
    /// One row, a tombstone too.
    fn row(&self, pool: &PoolId, key: &ResourceKey) -> Result<Option<Row>, StoreError>;
    /// The access keys that the sources of a pool announced.
    fn keys(&self, pool: &PoolId) -> Result<Vec<AccessKey>, StoreError>;
    /// Every access key: those that the target issued, and those of all sources.
    fn all_keys(&self) -> Result<Vec<AccessKey>, StoreError>;
    /// Every tenant.
    fn tenants(&self) -> Result<Vec<TenantState>, StoreError>;
    /// The level-1 tenants that were removed and not created since.
    fn removed_tenants(&self) -> Result<Vec<Name>, StoreError>;
    /// Whether a person paused a pool's schedule.
    fn is_paused(&self, pool: &PoolId) -> Result<bool, StoreError>;
    /// The last syncs of a pool, newest first.
    fn syncs(&self, pool: &PoolId, limit: usize) -> Result<Vec<SyncRecord>, StoreError>;
    /// One sync of a pool.
    fn sync(&self, pool: &PoolId, sync_id: &str) -> Result<Option<SyncRecord>, StoreError>;
    /// When it was stated last that a log had lost what was read from it.
    fn rewound_at(&self, stream: &str) -> Result<Option<Timestamp>, StoreError>;
    /// Nodes of an owner's digest; may read all of its rows, so not on a thread that others wait for.
    fn digest_nodes(
        &self,
        owner: &Source,
        depth: u8,
        above: u8,
        below: &[u32],
    ) -> impl Future<Output = Result<DigestNodes, String>> + Send;
    /// Items of an owner's digest; reads all of its rows, likewise.
    fn digest_items(
        &self,
        owner: &Source,
        above: u8,
        below: &[u32],
    ) -> impl Future<Output = Result<DigestItems, String>> + Send;
    /// How far the pool is.
    fn progress(&self) -> &Progress;
}

/// Sends a command as JSON and reads its answer. Errors: why there is no usable answer.
pub(crate) async fn ask<P: Ports, C: Serialize, R: DeserializeOwned>(
    ports: &P,
    pool: &PoolId,
    verb: &'static str,
    command: &C,
    wait: Duration,
) -> Result<R, Silence> {
    let unreadable = |error: serde_json::Error| {
        Silence(format!(
            "the answer to resource.{verb} cannot be read: {error}; both sides must run the same version"
        ))
    };
    let command = serde_json::to_value(command).map_err(unreadable)?;
    serde_json::from_value(ports.ask(pool, verb, command, wait).await?).map_err(unreadable)
}

/// The real ports.
pub(crate) struct Live {
    /// The bus.
    pub bus: Bus,
    /// States facts.
    pub facts: FactPublisher,
    /// The pool.
    pub pool: LivePool,
}

/// The real pool.
pub(crate) struct LivePool {
    /// Answers questions.
    pub reader: Reader,
    /// How far the pool is.
    pub progress: Progress,
}

/// Reads on a thread of its own.
async fn off_the_way<T: Send + 'static>(
    read: impl FnOnce() -> Result<Answer<T>, StoreError> + Send + 'static,
) -> Result<T, String> {
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
    read.map(|answer| answer.value).map_err(|error| error.to_string())
}

impl Ports for Live {
    type Pool = LivePool;

    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn lease(&self) -> Option<LeaseToken> {
        self.facts.token()
    }

    fn pool(&self) -> &LivePool {
        &self.pool
    }

    fn payload_bytes_max(&self) -> usize {
        self.bus.server().payload_bytes_max
    }

    async fn ask(
        &self,
        pool: &PoolId,
        verb: &'static str,
        command: Value,
        wait: Duration,
    ) -> Result<Value, Silence> {
        let subject = subject::command(pool, Stem::Resource, verb);
        self.bus.request(&subject, &command, wait).await.map_err(|error| {
            Silence(match error {
                RequestError::NoResponders { .. } => {
                    format!("no agent of {pool} is connected; start it, or see its log")
                }
                error => error.to_string(),
            })
        })
    }

    async fn state(&self, fact: Fact, id: String) -> Result<u64, ConsumersError> {
        self.facts.state(&fact, &id).await
    }
}

impl Pool for LivePool {
    fn pools(&self) -> Result<Vec<PoolId>, StoreError> {
        Ok(self.reader.pools()?.value.into_iter().map(|summary| summary.pool).collect())
    }

    fn owners(&self, pool: &PoolId) -> Result<Vec<Owner>, StoreError> {
        Ok(self.reader.owners(pool)?.value)
    }

    fn owner(&self, pool: &PoolId, source: &str) -> Result<Option<Owner>, StoreError> {
        Ok(self.reader.owner(pool, source)?.value)
    }

    fn row(&self, pool: &PoolId, key: &ResourceKey) -> Result<Option<Row>, StoreError> {
        Ok(self.reader.row(pool, key)?.value)
    }

    fn keys(&self, pool: &PoolId) -> Result<Vec<AccessKey>, StoreError> {
        Ok(self.reader.keys(pool)?.value)
    }

    fn all_keys(&self) -> Result<Vec<AccessKey>, StoreError> {
        let mut keys = self.reader.issued_keys()?.value;
        for pool in self.pools()? {
            keys.extend(self.keys(&pool)?);
        }
        Ok(keys)
    }

    fn tenants(&self) -> Result<Vec<TenantState>, StoreError> {
        Ok(self.reader.tenants()?.value)
    }

    fn removed_tenants(&self) -> Result<Vec<Name>, StoreError> {
        Ok(self.reader.removed_tenants()?.value)
    }

    fn is_paused(&self, pool: &PoolId) -> Result<bool, StoreError> {
        Ok(self.reader.is_paused(pool)?.value)
    }

    fn syncs(&self, pool: &PoolId, limit: usize) -> Result<Vec<SyncRecord>, StoreError> {
        Ok(self.reader.syncs(pool, limit)?.value)
    }

    fn sync(&self, pool: &PoolId, sync_id: &str) -> Result<Option<SyncRecord>, StoreError> {
        Ok(self.reader.sync(pool, sync_id)?.value)
    }

    fn rewound_at(&self, stream: &str) -> Result<Option<Timestamp>, StoreError> {
        let facts = self.reader.log_facts(LOG_FACTS_MAX)?.value;
        Ok(facts.into_iter().find_map(|record| match record.fact {
            LogFact::Rewound(rewound) if rewound.stream == stream => Some(record.stored_at),
            _ => None,
        }))
    }

    async fn digest_nodes(
        &self,
        owner: &Source,
        depth: u8,
        above: u8,
        below: &[u32],
    ) -> Result<DigestNodes, String> {
        let (reader, owner, below) = (self.reader.clone(), owner.clone(), below.to_vec());
        off_the_way(move || reader.digest_nodes(&owner.pool, &owner.to_string(), depth, above, &below)).await
    }

    async fn digest_items(&self, owner: &Source, above: u8, below: &[u32]) -> Result<DigestItems, String> {
        let (reader, owner, below) = (self.reader.clone(), owner.clone(), below.to_vec());
        off_the_way(move || reader.digest_items(&owner.pool, &owner.to_string(), above, &below)).await
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }
}
