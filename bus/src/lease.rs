//! The lease: who may act for a target. Its token is the sequence of a message on the lease subject of
//! the target log, written only at acquisition, so a [`Fence`] made of it stops a stale holder's writes
//! at the server, whatever its clock believes.
//!
//! ```text
//! contending --nobody holds it, or its holder was silent for the TTL--> holding
//!     ^                                                                   |
//!     +---- not renewed for the TTL less its margin, or taken over -------+
//! ```
//! Renewals go to a stream of their own: on the lease subject they would fence the holder itself. A
//! contender judges silence by its own monotonic clock and only over one and the same connection.

use std::time::Duration;

use bus_schema::{
    Name, Timestamp,
    fact::{Fact, log::LeaseAcquired, log::LogFact},
    subject,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use crate::{Bus, BusError, Fence, LinkState, Outgoing, PublishError, PublishErrorKind, link::now};
use async_nats::jetstream::stream::{self, DiscardPolicy};

/// Bytes set aside for renewals: one short message for each lease of the target.
const RENEWAL_BYTES_MAX: i64 = 1 << 20;
/// Looks, renewals and margin in parts of the TTL: a holder may miss two renewals, and gives up a
/// quarter of the TTL before anybody else may take over.
const LOOKS_PER_TTL: u32 = 6;
const RENEWALS_PER_TTL: u32 = 4;
const MARGIN_PARTS: u32 = 4;

/// How a lease is contended for.
#[derive(Clone, Debug)]
pub struct LeaseOptions {
    /// The target.
    pub target: Name,
    /// The lease's name, for example `pump`.
    pub lease: Name,
    /// Who asks: host, process id and a random part; no two contenders have the same.
    pub holder: String,
    /// A holder that was silent for this long is taken over.
    pub ttl: Duration,
    /// Copies of the stream of renewals in a NATS cluster: as many as the logs have, or the loss of the one node
    /// that has it stops the target.
    pub replicas: usize,
}

/// The right to act: its sequence grows with every acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseToken {
    /// The sequence of the acquisition in the target log.
    pub seq: u64,
    /// The subject of the acquisition.
    pub subject: String,
    /// When the target log was made, or came back with its renewals made anew: sequences of before are not compared with
    /// this one.
    pub log_created: Timestamp,
}

impl LeaseToken {
    /// The fence that everything written under this lease carries.
    pub fn fence(&self) -> Fence {
        Fence { subject: self.subject.clone(), seq: self.seq }
    }
}

/// One contender for a lease; it contends until it is released or dropped.
#[derive(Debug)]
pub struct Lease {
    token: watch::Receiver<Option<LeaseToken>>,
    stop: DropGuard,
    task: AbortOnDropHandle<()>,
}

impl Lease {
    /// Starts to contend: acquires as soon as nobody holds it, renews, and contends again when it is lost.
    /// Makes the stream of renewals if it is not there, and gives it more copies if it has fewer.
    ///
    /// Errors: [`BusError::NoStream`] when the target log does not exist, the link.
    pub async fn contend(bus: &Bus, options: LeaseOptions) -> Result<Self, BusError> {
        let contender = Contender::new(bus.clone(), options);
        contender.bus.stream_state(&contender.log).await?;
        contender.ensure_renewals().await?;
        let (tell, token) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(contender.run(tell, stop.clone()));
        Ok(Self { token, stop: stop.drop_guard(), task: AbortOnDropHandle::new(task) })
    }

    /// The token while this process holds the lease, none while it does not.
    pub fn token(&self) -> watch::Receiver<Option<LeaseToken>> {
        self.token.clone()
    }

    /// Gives the lease up so that the next contender need not wait, and stops contending.
    pub async fn release(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the lease's task failed");
        }
    }
}

/// A renewal's body.
#[derive(Serialize, Deserialize)]
struct Renewal {
    /// The token that it renews.
    token: u64,
    /// The holder gave it up.
    released: bool,
}

/// What a contender sees; as long as it stays the same, the holder is silent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sight {
    link: LinkState,
    acquired_seq: u64,
    renewed_seq: u64,
}

struct Contender {
    bus: Bus,
    options: LeaseOptions,
    log: String,
    lease_subject: String,
    renewals: String,
    renewal_subject: String,
}

impl Contender {
    fn new(bus: Bus, options: LeaseOptions) -> Self {
        let LeaseOptions { target, lease, .. } = &options;
        Self {
            log: subject::target_stream(target),
            lease_subject: subject::lease(target, lease),
            renewals: subject::lease_stream(target),
            renewal_subject: subject::lease_renewal(target, lease),
            bus,
            options,
        }
    }

    async fn ensure_renewals(&self) -> Result<(), BusError> {
        let config = stream::Config {
            name: self.renewals.clone(),
            subjects: vec![format!("{}.{}.lease.>", subject::ROOT, self.options.target)],
            max_messages_per_subject: 1,
            max_bytes: RENEWAL_BYTES_MAX,
            max_messages: -1,
            max_message_size: -1,
            max_consumers: -1,
            num_replicas: self.options.replicas,
            discard: DiscardPolicy::Old,
            ..stream::Config::default()
        };
        let made = self.bus.make_stream(&config).await?;
        if made.config.num_replicas < self.options.replicas {
            self.raise_replicas().await;
        }
        Ok(())
    }

    /// A cluster that has too few nodes now is no reason not to act.
    async fn raise_replicas(&self) {
        let (stream, replicas) = (&self.renewals, self.options.replicas);
        if let Err(error) = self.bus.raise_replicas(stream, replicas).await {
            tracing::warn!(stream, replicas, %error, "the renewals of the lease have too few copies, so the loss of one node may stop the target; start again when the cluster is whole");
        }
    }

    async fn run(self, tell: watch::Sender<Option<LeaseToken>>, stop: CancellationToken) {
        let name = self.options.lease.as_str();
        loop {
            let token = tokio::select! {
                () = stop.cancelled() => return,
                token = self.acquire() => token,
            };
            tracing::info!(lease = name, token = token.seq, "the lease is held");
            tell.send_replace(Some(token.clone()));
            let lost = tokio::select! {
                () = stop.cancelled() => None,
                reason = self.hold(&token) => Some(reason),
            };
            tell.send_replace(None);
            match lost {
                Some(reason) => tracing::warn!(lease = name, token = token.seq, reason, "the lease is lost"),
                None => return self.say(&token, true).await.unwrap_or_else(|error| {
                    tracing::debug!(lease = name, %error, "the release was not told; others wait for the TTL");
                }),
            }
        }
    }

    /// Waits until the lease is free and takes it.
    async fn acquire(&self) -> LeaseToken {
        let mut seen: Option<(Sight, Instant)> = None;
        let mut told = String::new();
        loop {
            match self.look().await {
                Ok((sight, free)) => {
                    told.clear();
                    let unchanged_since = match seen {
                        Some((before, since)) if before == sight => since,
                        _ => Instant::now(),
                    };
                    seen = Some((sight, unchanged_since));
                    let silent = unchanged_since.elapsed() >= self.options.ttl;
                    let taken = match free {
                        Free::Ours(token) => self.keep(token).await,
                        Free::AfterSilence if !silent => None,
                        Free::Now | Free::AfterSilence => self.take(sight.acquired_seq).await,
                    };
                    if let Some(token) = taken {
                        return token;
                    }
                }
                Err(error) => {
                    self.tell_blind(&error, &mut told);
                    self.miss(&error).await;
                }
            }
            sleep(self.options.ttl / LOOKS_PER_TTL).await;
        }
    }

    /// Who cannot look does not act: people are told why, once and not at every look.
    fn tell_blind(&self, error: &BusError, told: &mut String) {
        let (lease, reason) = (self.options.lease.as_str(), error.to_string());
        if *told == reason {
            tracing::debug!(lease, reason, "cannot look at the lease");
        } else {
            tracing::warn!(lease, reason, "cannot look at the lease, and does not act until it can");
            *told = reason;
        }
    }

    /// Makes the stream of renewals again when it is gone.
    async fn miss(&self, error: &BusError) {
        if matches!(error, BusError::NoStream { stream } if *stream == self.renewals)
            && let Err(error) = self.ensure_renewals().await
        {
            tracing::warn!(lease = %self.options.lease, %error, "the stream of renewals is gone and cannot be made");
        }
    }

    async fn look(&self) -> Result<(Sight, Free), BusError> {
        let link = *self.bus.link().borrow();
        // A server without file handles says that nobody has it, and may let everybody take it.
        let acquired = self.bus.last_message_for_sure(&self.log, &self.lease_subject).await?;
        let renewed = self.bus.last_message(&self.renewals, &self.renewal_subject).await?;
        let Some(acquired) = acquired else {
            return Ok((Sight { link, acquired_seq: 0, renewed_seq: 0 }, Free::Now));
        };
        let acquired_seq = acquired.seq();
        let holder = serde_json::from_slice::<LeaseAcquired>(acquired.body()).map(|fact| fact.holder);
        if holder.is_ok_and(|holder| holder == self.options.holder) {
            // An acquisition whose answer was lost, or one that nobody has taken over since.
            let token = self.token(acquired_seq).await?;
            return Ok((Sight { link, acquired_seq, renewed_seq: 0 }, Free::Ours(token)));
        }
        let renewal = renewed.and_then(|message| {
            let renewal = serde_json::from_slice::<Renewal>(message.body()).ok()?;
            (renewal.token == acquired_seq).then_some((message.seq(), renewal.released))
        });
        let (renewed_seq, released) = renewal.unwrap_or((0, false));
        let free = if released { Free::Now } else { Free::AfterSilence };
        Ok((Sight { link, acquired_seq, renewed_seq }, free))
    }

    async fn token(&self, seq: u64) -> Result<LeaseToken, BusError> {
        // A log that came back out of a backup gives sequences out again; the stream of renewals is in no backup, so it
        // is younger then, and nobody takes the new holder for an old one.
        let log_created = self.bus.stream_state(&self.log).await?.created;
        let log_created = log_created.max(self.bus.stream_state(&self.renewals).await?.created);
        Ok(LeaseToken { seq, subject: self.lease_subject.clone(), log_created })
    }

    /// Who cannot renew holds nothing: nobody would see that it lives.
    async fn keep(&self, token: LeaseToken) -> Option<LeaseToken> {
        match self.say(&token, false).await {
            Ok(()) => Some(token),
            Err(error) => {
                tracing::warn!(lease = %self.options.lease, %error, "cannot renew the lease");
                None
            }
        }
    }

    /// Writes the acquisition, on the condition that nobody wrote one since `acquired_seq`.
    async fn take(&self, acquired_seq: u64) -> Option<LeaseToken> {
        let fence = Fence { subject: self.lease_subject.clone(), seq: acquired_seq };
        let published = match self.acquisition() {
            Ok(fact) => self.bus.publisher().publish(&self.log, &fact, Some(&fence)).await,
            Err(error) => {
                tracing::error!(lease = %self.options.lease, %error, "cannot write the acquisition");
                return None;
            }
        };
        match published {
            // When the log cannot be looked at now, the next look finds that the lease is ours.
            Ok(published) => self.token(published.seq).await.ok(),
            Err(error) => {
                if error.kind != PublishErrorKind::Fenced {
                    tracing::warn!(lease = %self.options.lease, %error, "cannot take the lease");
                }
                None
            }
        }
    }

    fn acquisition(&self) -> Result<Outgoing, serde_json::Error> {
        let LeaseOptions { target, lease, holder, .. } = &self.options;
        let fact = LogFact::LeaseAcquired(LeaseAcquired { lease: lease.clone(), holder: holder.clone() });
        let fact = Fact::Log(fact);
        let id = format!("{lease}-{:016x}", getrandom::u64().unwrap_or_default());
        let headers = [
            ("ce-specversion", "1.0".to_owned()),
            ("ce-id", id.clone()),
            ("ce-source", format!("/{target}/target/log/lease")),
            ("ce-type", format!("{}.{}", fact.stem(), fact.name())),
            ("ce-time", now().to_string()),
            ("content-type", "application/json".to_owned()),
        ];
        Ok(Outgoing {
            subject: self.lease_subject.clone(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: fact.data()?.into(),
            message_id: id,
        })
    }

    /// Renews until the lease is lost; says why.
    async fn hold(&self, token: &LeaseToken) -> &'static str {
        let ttl = self.options.ttl;
        let mut give_up = Instant::now() + ttl - ttl / MARGIN_PARTS;
        loop {
            let asked = Instant::now();
            let renewed = tokio::select! {
                renewed = self.renew(token) => renewed,
                () = sleep_until(give_up) => return "it could not be renewed in time",
            };
            match renewed {
                Ok(true) => give_up = asked + ttl - ttl / MARGIN_PARTS,
                Ok(false) => return "another process has taken it over",
                Err(error) => {
                    tracing::debug!(lease = %self.options.lease, %error, "the lease was not renewed")
                }
            }
            tokio::select! {
                () = sleep(ttl / RENEWALS_PER_TTL) => {}
                () = sleep_until(give_up) => return "it could not be renewed in time",
            }
        }
    }

    /// Whether the lease still is ours, and if so, says that we live.
    async fn renew(&self, token: &LeaseToken) -> Result<bool, RenewError> {
        let acquired = self.bus.last_message_for_sure(&self.log, &self.lease_subject).await?;
        if acquired.is_none_or(|message| message.seq() != token.seq) {
            return Ok(false);
        }
        self.say(token, false).await?;
        Ok(true)
    }

    async fn say(&self, token: &LeaseToken, released: bool) -> Result<(), RenewError> {
        let body = serde_json::to_vec(&Renewal { token: token.seq, released })?.into();
        let (subject, message_id) = (self.renewal_subject.clone(), String::new());
        let renewal = Outgoing { subject, headers: Vec::new(), body, message_id };
        self.bus.publisher().publish(&self.renewals, &renewal, None).await?;
        Ok(())
    }
}

/// Whether a contender may take the lease.
enum Free {
    /// Nobody has it.
    Now,
    /// It is this contender's already.
    Ours(LeaseToken),
    /// Somebody has it, who may have ended without a word.
    AfterSilence,
}

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
