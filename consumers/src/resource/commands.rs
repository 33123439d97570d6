//! Serves the commands to the target: sync, confirm, recheck, state. Only while this process holds the lease.

use std::{future::Future, sync::Arc, time::Duration};

use bus::{Bus, BusError, Request, Requests};
use bus_schema::{
    Name, Stem,
    command::target::{
        CONFIRM, ConfirmCommand, Confirmation, RECHECK, RecheckCommand, Reply, STATE, SYNC, StateCommand,
        Stated, SyncCommand, SyncsStarted,
    },
    fact::Fact,
    subject,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    confirm::Confirm,
    ports::{Pool, Ports},
    reactor::ManualSync,
    tenants::Registry,
};

/// Commands of one kind that run side by side; each confirmation holds one read of its source open.
const SIDE_BY_SIDE_MAX: usize = 32;
/// How long a stated fact waits to be visible in the pool before it is answered all the same.
const VISIBLE_WAIT_MAX: Duration = Duration::from_secs(5);

/// Serves the commands.
pub(crate) struct Commands<P> {
    /// The target.
    pub target: Name,
    /// Everything outside.
    pub ports: Arc<P>,
    /// Where syncs that persons ask for go.
    pub manuals: mpsc::Sender<ManualSync>,
}

impl<P> Clone for Commands<P> {
    fn clone(&self) -> Self {
        let Self { target, ports, manuals } = self;
        Self { target: target.clone(), ports: ports.clone(), manuals: manuals.clone() }
    }
}

/// The subjects of the commands, served from now on.
pub(crate) struct Subjects {
    sync: Requests,
    confirm: Requests,
    recheck: Requests,
    state: Requests,
}

impl Subjects {
    /// Opens them; when it returns, a command finds somebody. Errors: the bus.
    pub(crate) async fn open(bus: &Bus, target: &Name) -> Result<Self, BusError> {
        let subject = |stem, verb| subject::target_command(target, stem, verb);
        Ok(Self {
            sync: bus.serve(&subject(Stem::Resource, SYNC)).await?,
            confirm: bus.serve(&subject(Stem::Resource, CONFIRM)).await?,
            recheck: bus.serve(&subject(Stem::Resource, RECHECK)).await?,
            state: bus.serve(&subject(Stem::Log, STATE)).await?,
        })
    }
}

impl<P: Ports> Commands<P> {
    /// Serves until `shutdown`.
    pub(crate) async fn run(self, subjects: Subjects, shutdown: CancellationToken) {
        let (sync, confirm, recheck, state) = (self.clone(), self.clone(), self.clone(), self);
        tokio::join!(
            serve(subjects.sync, SIDE_BY_SIDE_MAX, &shutdown, move |command| sync.clone().sync(command)),
            serve(subjects.confirm, SIDE_BY_SIDE_MAX, &shutdown, move |command| confirm
                .clone()
                .confirm(command)),
            serve(subjects.recheck, SIDE_BY_SIDE_MAX, &shutdown, move |command| recheck
                .clone()
                .recheck(command)),
            // One after the other: each is judged by what the one before has made true.
            serve(subjects.state, 1, &shutdown, move |command| state.clone().state(command)),
        );
    }

    async fn sync(self, command: SyncCommand) -> Result<SyncsStarted, String> {
        let (reply, answer) = oneshot::channel();
        let manual = ManualSync { pool: command.pool, full: command.full, reply };
        let gone = "the lease is passing to another process; ask again";
        self.manuals.send(manual).await.map_err(|_| gone)?;
        Ok(SyncsStarted { sync_ids: answer.await.map_err(|_| gone)?? })
    }

    async fn confirm(self, command: ConfirmCommand) -> Result<Confirmation, String> {
        Confirm::run(self.ports, command).await
    }

    async fn recheck(self, command: RecheckCommand) -> Result<Confirmation, String> {
        Confirm::recheck(self.ports, command).await
    }

    async fn state(self, command: StateCommand) -> Result<Stated, String> {
        let data = serde_json::to_vec(&command.data).map_err(|error| error.to_string())?;
        let fact = Fact::decode(command.stem, &command.event, &data).map_err(|error| error.to_string())?;
        let pool = self.ports.pool();
        let tenants = pool.tenants().map_err(|error| error.to_string())?;
        let keys = pool.all_keys().map_err(|error| error.to_string())?;
        let removed = pool.removed_tenants().map_err(|error| error.to_string())?;
        Registry { tenants, keys, removed }
            .check(&fact, self.ports.now())
            .map_err(|denied| denied.to_string())?;
        let id = uuid::Uuid::now_v7().to_string();
        let seq = self.ports.state(fact, id).await.map_err(|error| error.to_string())?;
        let stream = subject::target_stream(&self.target);
        if let Err(error) = pool.progress().passes(&stream, seq, VISIBLE_WAIT_MAX).await {
            tracing::warn!(%error, "the fact is stated and not visible yet");
        }
        Ok(Stated { seq })
    }
}

async fn serve<C, A, F>(
    mut requests: Requests,
    side_by_side_max: usize,
    shutdown: &CancellationToken,
    handle: impl Fn(C) -> F,
) where
    C: DeserializeOwned,
    A: Serialize + Send + Sync + 'static,
    F: Future<Output = Result<A, String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(side_by_side_max));
    let mut running = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.ok();
        let request = tokio::select! {
            () = shutdown.cancelled() => break,
            request = requests.next() => request,
        };
        let Some(request) = request else { break };
        let handled = read(&request).map(&handle);
        running.spawn(async move {
            let _place = place;
            let answer = match handled {
                Ok(handled) => handled.await,
                Err(reason) => Err(reason),
            };
            reply(&request, answer).await;
        });
        while running.try_join_next().is_some() {}
    }
    // Who waits for a confirmation now would wait for a lease that is gone.
    running.shutdown().await;
}

fn read<C: DeserializeOwned>(request: &Request) -> Result<C, String> {
    serde_json::from_slice(&request.body)
        .map_err(|error| format!("the command on {} cannot be read: {error}", request.subject))
}

async fn reply<A: Serialize + Send + Sync>(request: &Request, answer: Result<A, String>) {
    let reply = match answer {
        Ok(answer) => Reply::Done { answer },
        Err(reason) => Reply::Refused { reason },
    };
    if let Err(error) = request.reply(&reply).await {
        tracing::warn!(%error, subject = request.subject, "a command's answer could not be sent");
    }
}
