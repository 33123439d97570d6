//! Stating facts: binary CloudEvents in the target log, each fenced by the lease.

use std::time::Duration;

use bus::{Bus, LeaseToken, Outgoing, PublishError, PublishErrorKind, Publisher};
use bus_schema::{Name, envelope::SPECVERSION, fact::Fact, subject};
use tokio::sync::watch;

use super::clock;
use crate::error::ConsumersError;

/// Most attempts to state one fact while the link is down or no answer comes; the message id keeps it single.
const ATTEMPTS_MAX: u32 = 10;
/// The wait between two attempts: ten of them outlast the restart of a nats-server.
const ATTEMPT_WAIT: Duration = Duration::from_millis(500);

/// States facts for a target, as long as this process holds the lease.
#[derive(Clone, Debug)]
pub struct FactPublisher {
    publisher: Publisher,
    target: Name,
    stream: String,
    lease: watch::Receiver<Option<LeaseToken>>,
}

impl FactPublisher {
    /// States facts under a lease.
    pub fn new(bus: &Bus, target: &Name, lease: watch::Receiver<Option<LeaseToken>>) -> Self {
        let stream = subject::target_stream(target);
        Self { publisher: bus.publisher(), target: target.clone(), stream, lease }
    }

    /// The lease that this process holds.
    pub fn token(&self) -> Option<LeaseToken> {
        self.lease.borrow().clone()
    }

    /// The target.
    pub fn target(&self) -> &Name {
        &self.target
    }

    /// The target log's stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// The watch on the lease.
    pub fn lease(&self) -> watch::Receiver<Option<LeaseToken>> {
        self.lease.clone()
    }

    /// The subject of a fact.
    pub fn subject(&self, fact: &Fact) -> String {
        subject::fact(&self.target, fact.stem(), &fact.entity(), fact.name())
    }

    /// States a fact and answers its sequence. `id` names it: the same fact stated again under the same id
    /// within the log's duplicate window is stored once.
    ///
    /// Errors: no lease, another process has it by now, or the log cannot be reached.
    pub async fn state(&self, fact: &Fact, id: &str) -> Result<u64, ConsumersError> {
        let message = self.message(fact, id)?;
        let mut attempt = 1;
        loop {
            let Some(token) = self.token() else {
                return Err(ConsumersError::NotHolder { target: self.target.to_string() });
            };
            match self.publisher.publish(&self.stream, &message, Some(&token.fence())).await {
                Ok(published) => return Ok(published.seq),
                Err(error) if attempt < ATTEMPTS_MAX && is_passing(&error) => {
                    tracing::debug!(%error, attempt, "state a fact again");
                    attempt += 1;
                    tokio::time::sleep(ATTEMPT_WAIT).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn message(&self, fact: &Fact, id: &str) -> Result<Outgoing, ConsumersError> {
        let event = format!("{}.{}", fact.stem(), fact.name());
        let body = fact.data().map_err(|source| ConsumersError::Encode { fact: event.clone(), source })?;
        let headers = [
            ("ce-specversion", SPECVERSION.to_owned()),
            ("ce-id", id.to_owned()),
            ("ce-source", format!("/{}/target/{}/service", self.target, fact.stem())),
            ("ce-type", event),
            ("ce-time", clock::now().to_string()),
            ("ce-datacontenttype", "application/json".to_owned()),
        ];
        Ok(Outgoing {
            subject: self.subject(fact),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: body.into(),
            message_id: format!("{}/{id}", self.target),
        })
    }
}

fn is_passing(error: &PublishError) -> bool {
    matches!(error.kind, PublishErrorKind::Unknown | PublishErrorKind::Link | PublishErrorKind::Busy)
}
