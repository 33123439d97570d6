//! States `resource.sync_completed` for every closed sync, exactly once, after the pool has its answer.
//!
//! A durable consumer brings each `sync_closed`. Whether it was stated before is asked of the pool, which
//! has to be up to date with the target log for that; only the lease holder writes there, so nothing can
//! come in between, and a crash after stating finds the fact.
//!
//! A close that the pool refused ends its sync, too (`equal` says what came of it): the answer is over, and
//! whoever waits for it has to ask for something else. Why it was refused stands among the dead letters.

use std::{sync::Arc, time::Duration};

use bus::{Bus, DurableOptions, LogMessage, Outcome};
use bus_schema::{
    Envelope, Name, PoolId,
    event::resource::{ResourceEvent, SyncClosed},
    fact::{
        Fact,
        resource::{ResourceFact, SyncCompleted},
    },
    subject,
};
use projector::SyncRecord;
use tokio_util::sync::CancellationToken;

use super::ports::{Pool, Ports};
use crate::error::ConsumersError;

/// How long one delivery waits for the pool; then it comes again.
const POOL_WAIT_MAX: Duration = Duration::from_secs(10);
/// The wait before a delivery that could not be handled comes again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The name of the durable consumer.
const CONSUMER: &str = "sync-completed";

/// The loop of one site.
pub(crate) struct Completed<P> {
    /// The bus.
    pub bus: Bus,
    /// The target.
    pub target: Name,
    /// The site.
    pub site: Name,
    /// Everything outside.
    pub ports: Arc<P>,
}

impl<P: Ports> Completed<P> {
    /// Runs until `shutdown`. Errors: the bus.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), ConsumersError> {
        let Ok(consumer) = format!("{CONSUMER}-{}", self.target).parse::<Name>() else {
            let reason = "its name is too long for a consumer; use at most 48 characters".to_owned();
            return Err(ConsumersError::Config { what: format!("the target {}", self.target), reason });
        };
        let options = DurableOptions {
            stream: subject::site_stream(&self.site),
            consumer,
            filters: vec![format!("{}.{}.evt.*.resource.*.sync_closed", subject::ROOT, self.site)],
            target: self.target.clone(),
            // One after the other, so that the question whether it was stated before has an answer.
            in_flight_max: 1,
        };
        let durable = self.bus.subscribe(options).await?;
        let this = Arc::new(self);
        durable
            .run(shutdown, move |message| {
                let this = this.clone();
                async move { this.handle(message).await }
            })
            .await?;
        Ok(())
    }

    async fn handle(&self, message: LogMessage) -> Outcome {
        // What is wrong in it is among the dead letters already: the projector read it, too.
        let Some((pool, owner, closed)) = read(&message) else { return Outcome::Ack };
        match self.complete(&message, pool, owner, closed).await {
            Ok(()) => Outcome::Ack,
            Err(error) => {
                tracing::debug!(%error, seq = message.seq(), "complete the sync later");
                Outcome::RetryAfter(RETRY_AFTER)
            }
        }
    }

    async fn complete(
        &self,
        message: &LogMessage,
        pool: PoolId,
        owner: String,
        closed: SyncClosed,
    ) -> Result<(), ConsumersError> {
        let progress = self.ports.pool().progress().clone();
        progress.passes(message.stream(), message.seq(), POOL_WAIT_MAX).await?;
        let target_stream = subject::target_stream(&self.target);
        let stated_up_to = self.bus.stream_state(&target_stream).await?.last_seq;
        progress.passes(&target_stream, stated_up_to, POOL_WAIT_MAX).await?;
        let record = self.ports.pool().sync(&pool, &closed.sync_id)?.filter(|record| record.owner == owner);
        let record = record.as_ref();
        if record.is_some_and(|record| record.completed.is_some()) {
            return Ok(());
        }
        let equal = self.is_equal(&pool, &owner, &closed)?;
        let completed = completed(pool, owner, closed, equal, record, message);
        let id = format!("completed/{}/{}", completed.owner, completed.sync_id);
        self.ports.state(Fact::Resource(ResourceFact::SyncCompleted(completed)), id).await?;
        Ok(())
    }

    /// What the pool found at the close; of a close that is not the last one, what its digest says now.
    fn is_equal(&self, pool: &PoolId, owner: &str, closed: &SyncClosed) -> Result<bool, ConsumersError> {
        let owner = self.ports.pool().owner(pool, owner)?;
        Ok(owner.is_some_and(|owner| match &owner.last_sync {
            Some(last) if last.sync_id == closed.sync_id => last.equal,
            _ => owner.digest == closed.digest,
        }))
    }
}

fn read(message: &LogMessage) -> Option<(PoolId, String, SyncClosed)> {
    message.with_stored(|stored| {
        let envelope = Envelope::read(stored).ok()?;
        let pool = envelope.subject.pool().ok()?;
        match ResourceEvent::decode(envelope.subject.event, &envelope.data).ok()? {
            ResourceEvent::SyncClosed(closed) => Some((pool, envelope.source.into_owned(), closed)),
            _ => None,
        }
    })
}

fn completed(
    pool: PoolId,
    owner: String,
    closed: SyncClosed,
    equal: bool,
    record: Option<&SyncRecord>,
    message: &LogMessage,
) -> SyncCompleted {
    let requested = record.and_then(|record| record.requested.as_ref());
    let took_ms = requested.map_or(0, |(at, _)| message.stored_at().ms_since(*at));
    let SyncClosed { sync_id, scope, resources, bytes, .. } = closed;
    SyncCompleted { pool, owner, sync_id, scope, resources, bytes, took_ms, equal }
}
