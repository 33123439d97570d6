//! The desk where agents and readers are enrolled: the roster of the managed server, the feeds of readers, and the
//! facts about both. On a NATS that is not farside's own it says what its owner has to do.
//!
//! Must not know: what a tenant may see (the console's rule), what an identity may do (the bus's).

use std::{sync::Arc, time::Duration};

use bus::{
    Bus, BusError, RequestError,
    managed::{AgentId, AgentIdentity, ManagedServer, ReaderIdentity, Roster, RosterError},
};
use bus_schema::{
    Name,
    command::target::{self, Reply, StateCommand, Stated},
    fact::{
        Fact,
        agent::{self, AgentFact},
        tenant::{ReaderEnrolled, ReaderRevoked, TenantFact},
    },
    subject,
};
use console::{
    auth::{AuthError, whole_pools},
    ports::{Enrolment, Pending, PortError},
    view::{AgentView, EnrolledView, ReaderView, RevokedView},
};
use projector::Reader;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::incarnation::Control;

/// How often readers are held against the grants of their tenants, and their feeds against the logs: another process
/// may have changed the one, and a disk the other.
const SETTLE_EVERY: Duration = Duration::from_secs(15);
/// How long whoever acts for the target may take to state a fact.
const STATE_WAIT: Duration = Duration::from_secs(5);
/// How long the pool may take to have every grant that was stated, before readers are held against them.
const GRANTS_WAIT: Duration = Duration::from_secs(5);

/// Who may come in, and where they come in.
pub(super) struct Desk {
    managed: Option<Managed>,
    bus: Bus,
    target: Name,
    control: Control,
    reader: watch::Receiver<Reader>,
}

struct Managed {
    roster: Roster,
    servers: String,
}

impl Desk {
    pub(super) fn new(
        managed: Option<&ManagedServer>,
        bus: Bus,
        target: &Name,
        control: Control,
        reader: watch::Receiver<Reader>,
    ) -> Self {
        let managed =
            managed.map(|server| Managed { roster: server.roster(), servers: server.url().to_owned() });
        Self { managed, bus, target: target.clone(), control, reader }
    }

    /// Holds readers against grants and logs until `stop`.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(SETTLE_EVERY) => {}
            }
            if let Err(error) = self.settled().await {
                tracing::debug!(%error, "readers are held against their grants again later");
            }
        }
    }

    fn managed(&self) -> Result<&Managed, PortError> {
        let foreign = || {
            PortError::Conflict(
                "this NATS is not farside's own ('farside up' runs one), so who may come in stands in its own configuration: change it there, and reload it".to_owned(),
            )
        };
        self.managed.as_ref().ok_or_else(foreign)
    }

    async fn let_agent_in(&self, agent: AgentIdentity, actor: String) -> Result<EnrolledView, PortError> {
        let Some(managed) = &self.managed else {
            return Ok(EnrolledView {
                permissions: Some(agent.permissions_text()),
                ..EnrolledView::default()
            });
        };
        let fact = AgentFact::Enrolled(agent::Enrolled {
            site: agent.scope.id.site.clone(),
            agent: agent.scope.id.name.clone(),
            clusters: agent.scope.clusters.clone(),
            stems: agent.scope.stems.clone(),
            public_key: agent.public_key.to_string(),
            actor,
        });
        managed.roster.enroll_agent(agent).await.map_err(refused)?;
        Ok(self.enrolled(managed, Fact::Agent(fact)).await)
    }

    async fn let_reader_in(&self, reader: ReaderIdentity, actor: String) -> Result<EnrolledView, PortError> {
        let managed = self.managed()?;
        self.feed(&reader).await.map_err(unreached)?;
        let fact = TenantFact::ReaderEnrolled(ReaderEnrolled {
            tenant: reader.tenant.clone(),
            reader: reader.name.clone(),
            pools: reader.pools.iter().cloned().collect(),
            public_key: reader.public_key.to_string(),
            actor,
        });
        managed.roster.enroll_reader(reader).await.map_err(refused)?;
        Ok(self.enrolled(managed, Fact::Tenant(fact)).await)
    }

    async fn enrolled(&self, managed: &Managed, fact: Fact) -> EnrolledView {
        let (place, warning) = self.state(&fact).await;
        let tls = managed.servers.starts_with("tls:");
        EnrolledView { servers: Some(managed.servers.clone()), tls, place, warning, permissions: None }
    }

    async fn shut_agent_out(&self, id: AgentId, actor: String) -> Result<RevokedView, PortError> {
        let gone = self.managed()?.roster.revoke_agent(&id).await.map_err(refused)?;
        let public_key = gone.public_key.to_string();
        let (site, agent) = (id.site, id.name);
        let fact = AgentFact::Revoked(agent::Revoked { site, agent, public_key: public_key.clone(), actor });
        let (place, warning) = self.state(&Fact::Agent(fact)).await;
        Ok(RevokedView { public_key, place, warning })
    }

    async fn shut_reader_out(&self, name: &Name, actor: String) -> Result<RevokedView, PortError> {
        let gone = self.managed()?.roster.revoke_reader(name).await.map_err(refused)?;
        for (stream, _) in gone.feeds() {
            // Nobody can read from it any more; it is in nobody's way.
            if let Err(error) = self.bus.remove_feed(&stream, &gone.consumer()).await {
                tracing::warn!(stream, consumer = gone.consumer(), %error, "a feed that nobody reads stays");
            }
        }
        let public_key = gone.public_key.to_string();
        let (tenant, reader) = (gone.tenant, gone.name);
        let fact = TenantFact::ReaderRevoked(ReaderRevoked {
            tenant,
            reader,
            public_key: public_key.clone(),
            actor,
        });
        let (place, warning) = self.state(&Fact::Tenant(fact)).await;
        Ok(RevokedView { public_key, place, warning })
    }

    /// Makes the consumers that a reader reads from.
    async fn feed(&self, reader: &ReaderIdentity) -> Result<(), BusError> {
        for (stream, filters) in reader.feeds() {
            self.bus.ensure_feed(&stream, &reader.consumer(), &filters).await?;
        }
        Ok(())
    }

    /// Shuts out the readers whose tenants may not see all of their clusters any more; makes feeds that are gone.
    async fn settled(&self) -> Result<(), PortError> {
        let Some(managed) = &self.managed else { return Ok(()) };
        let readers = managed.roster.readers().await;
        if readers.is_empty() {
            return Ok(());
        }
        self.grants_are_known().await?;
        let directory = self.reader.borrow().clone();
        for reader in readers {
            let may = match whole_pools(&reader.tenant, &directory) {
                Ok(pools) => reader.pools.is_subset(&pools),
                Err(AuthError::Directory(error)) => return Err(PortError::Failed(error.to_string())),
                Err(_) => false,
            };
            if may {
                self.feed(&reader).await.map_err(unreached)?;
                continue;
            }
            let (name, tenant) = (&reader.name, &reader.tenant);
            tracing::warn!(%name, %tenant, "a reader is shut out: its tenant may not see all of its clusters any more");
            let why =
                format!("the grants of tenant {tenant}, which do not cover all of its clusters any more");
            self.shut_reader_out(name, why).await?;
        }
        Ok(())
    }

    /// Waits until the pool has every grant: one that is being read again knows no tenants yet.
    async fn grants_are_known(&self) -> Result<(), PortError> {
        let facts = subject::target_stream(&self.target);
        let last = self.bus.stream_state(&facts).await.map_err(unreached)?.last_seq;
        let progress = self.control.current.borrow().handle.progress().clone();
        let late = progress.passes(&facts, last, GRANTS_WAIT).await;
        late.map_err(|error| PortError::Failed(format!("the pool does not have every grant yet: {error}")))
    }

    /// Has the fact stated: where it stands, or a warning that it does not. What was done is done all the same.
    async fn state(&self, fact: &Fact) -> (Option<String>, Option<String>) {
        let stream = subject::target_stream(&self.target);
        match self.stated(fact).await {
            Ok(seq) => (Some(format!("{stream}:{seq}")), None),
            Err(why) => {
                let name = format!("{}.{}", fact.stem(), fact.name());
                tracing::warn!(fact = name, why, "it was done, and is not in the target's log");
                (None, Some(format!("it is done, but {name} could not be stated in the target's log: {why}")))
            }
        }
    }

    async fn stated(&self, fact: &Fact) -> Result<u64, String> {
        let data = fact.data().and_then(|data| serde_json::from_slice(&data)).map_err(|e| e.to_string())?;
        let command = StateCommand { stem: fact.stem(), event: fact.name().to_owned(), data };
        let to = subject::target_command(&self.target, bus_schema::Stem::Log, target::STATE);
        match self.bus.request::<_, Reply<Stated>>(&to, &command, STATE_WAIT).await {
            Ok(Reply::Done { answer }) => Ok(answer.seq),
            Ok(Reply::Refused { reason }) => Err(reason),
            Err(RequestError::NoResponders { .. }) => Err("no process acts for the target".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn refused(error: RosterError) -> PortError {
    let text = error.to_string();
    match error {
        RosterError::Unfit(_) => PortError::Refused(text),
        RosterError::Taken(_) | RosterError::Configured(_) => PortError::Conflict(text),
        RosterError::Unknown(_) => PortError::Missing(text),
        RosterError::Reload { .. } | RosterError::File(_) => PortError::Failed(text),
    }
}

fn unreached(error: BusError) -> PortError {
    match error {
        BusError::Link { .. } => PortError::Unreachable(error.to_string()),
        other => PortError::Failed(other.to_string()),
    }
}

impl Enrolment for Desk {
    fn agents(&self) -> Pending<'_, Vec<AgentView>> {
        Box::pin(async move {
            let Some(Managed { roster, .. }) = &self.managed else { return Ok(vec![]) };
            let (configured, enrolled) = (roster.configured().await, roster.agents().await);
            let configured = configured.into_iter().map(|agent| AgentView::new(agent, true));
            Ok(configured.chain(enrolled.into_iter().map(|agent| AgentView::new(agent, false))).collect())
        })
    }

    fn enroll_agent(&self, agent: AgentIdentity, actor: String) -> Pending<'_, EnrolledView> {
        Box::pin(self.let_agent_in(agent, actor))
    }

    fn revoke_agent(&self, id: AgentId, actor: String) -> Pending<'_, RevokedView> {
        Box::pin(self.shut_agent_out(id, actor))
    }

    fn readers(&self) -> Pending<'_, Vec<ReaderView>> {
        Box::pin(async move {
            let Some(Managed { roster, .. }) = &self.managed else { return Ok(vec![]) };
            Ok(roster.readers().await.into_iter().map(ReaderView::from).collect())
        })
    }

    fn enroll_reader(&self, reader: ReaderIdentity, actor: String) -> Pending<'_, EnrolledView> {
        Box::pin(self.let_reader_in(reader, actor))
    }

    fn revoke_reader(&self, name: Name, actor: String) -> Pending<'_, RevokedView> {
        Box::pin(async move { self.shut_reader_out(&name, actor).await })
    }

    fn settle(&self) -> Pending<'_, ()> {
        Box::pin(self.settled())
    }
}
