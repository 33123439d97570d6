//! Performs what the state machine decided: states the request, sends it, and reports the answer.

use std::time::Duration;

use bus_schema::{
    Source, Timestamp,
    command::resource::{SYNC, SyncReply, SyncRequest, UpdateInfo},
    digest::{Digest, Node},
    fact::{
        Fact,
        resource::{ResourceFact, SyncFailed, SyncRequested},
    },
};

use super::{
    ports::{Pool, Ports, ask},
    state::{Input, Sync},
};

/// What the target knows of an owner (R5). An owner that the pool does not know has nothing there.
pub(crate) fn update_info<P: Ports>(ports: &P, owner: &Source) -> Result<UpdateInfo, projector::StoreError> {
    let known = ports.pool().owner(&owner.pool, &owner.to_string())?;
    let nothing = Digest { root: Node::default(), count: 0 };
    Ok(UpdateInfo {
        since: known.as_ref().and_then(|owner| owner.at),
        outstanding: known.as_ref().map_or(0, |owner| owner.since_sync.outstanding),
        digest: known.map_or(nothing, |owner| owner.digest),
    })
}

/// States that a sync is requested (unless it is asked for `again`), sends the request, and answers
/// what became of it.
pub(crate) async fn request<P: Ports>(
    ports: &P,
    owner: &Source,
    sync: &Sync,
    again: bool,
    wait: Duration,
) -> Input {
    match try_request(ports, owner, sync, again, wait).await {
        Ok(SyncReply::Accepted { scope }) => Input::Accepted { sync_id: sync.id.clone(), scope },
        Ok(SyncReply::Refused { reason }) => {
            let reason = format!("the agent refused: {reason}");
            Input::Failed { sync_id: sync.id.clone(), reason }
        }
        Err(reason) => Input::Failed { sync_id: sync.id.clone(), reason },
    }
}

async fn try_request<P: Ports>(
    ports: &P,
    owner: &Source,
    sync: &Sync,
    again: bool,
    wait: Duration,
) -> Result<SyncReply, String> {
    let update_info = update_info(ports, owner).map_err(|error| error.to_string())?;
    let wanted = &sync.wanted;
    if !again {
        let requested = SyncRequested {
            pool: owner.pool.clone(),
            owner: owner.to_string(),
            sync_id: sync.id.clone(),
            reason: wanted.reason,
            scope: wanted.scope,
            update_info: update_info.clone(),
        };
        let fact = Fact::Resource(ResourceFact::SyncRequested(requested));
        ports.state(fact, format!("requested/{}", sync.id)).await.map_err(|error| error.to_string())?;
    }
    let lease = ports.lease().ok_or("the lease is with another process now")?;
    let command = SyncRequest {
        agent: owner.agent.clone(),
        sync_id: sync.id.clone(),
        reason: wanted.reason,
        scope: wanted.scope,
        update_info,
        keys: wanted.differing.keys.clone(),
        addresses: wanted.differing.addresses.clone(),
        rebase: wanted.rebase,
        lease: lease.seq,
        lease_log: Some(lease.log_created),
    };
    tracing::info!(%owner, sync = sync.id, reason = ?wanted.reason, scope = ?wanted.scope, again, "sync requested");
    ask(ports, &owner.pool, SYNC, &command, wait).await.map_err(|silence| silence.0)
}

/// States that a sync failed.
pub(crate) async fn state_failed<P: Ports>(
    ports: &P,
    owner: &Source,
    sync_id: String,
    reason: String,
    retry_at: Timestamp,
) {
    tracing::warn!(%owner, sync = sync_id, reason, %retry_at, "sync failed");
    let id = format!("failed/{sync_id}/{}", retry_at.unix_ms());
    let failed = SyncFailed {
        pool: owner.pool.clone(),
        owner: owner.to_string(),
        sync_id,
        reason,
        retry_at: Some(retry_at),
    };
    if let Err(error) = ports.state(Fact::Resource(ResourceFact::SyncFailed(failed)), id).await {
        // The failure itself is remembered, and the next one is stated again.
        tracing::warn!(%owner, %error, "the failure could not be stated");
    }
}
