//! Sends a shipment to the log once and says what came of it. Repeating, waiting and giving up are
//! decided by the agent; what is repeated is the same bytes under the same ids.

use bus::{Outgoing, PublishError, PublishErrorKind, Publisher};
use uuid::Uuid;

use crate::{ledger::outbox::Parcel, sequencer::Shipment};

/// What came of a shipment.
#[derive(Debug)]
pub(crate) enum Landing {
    /// The log has all of it.
    Stored,
    /// It cannot go as a batch; its events shall go one by one.
    GoPlain(String),
    /// Not stored, or not known whether: send it again unchanged.
    Again(String),
    /// Not stored, and somebody has to do something first.
    Blocked(String),
    /// An event is larger than the server takes; bytes of the largest.
    TooLarge(usize),
}

pub(crate) fn outgoing(parcel: &Parcel) -> Outgoing {
    Outgoing {
        subject: parcel.head.subject.clone(),
        headers: parcel.head.headers.clone(),
        body: parcel.body.clone(),
        message_id: parcel.head.message_id.clone(),
    }
}

/// Sends a shipment once.
pub(crate) async fn send(publisher: Publisher, stream: String, shipment: &Shipment) -> Landing {
    let messages: Vec<Outgoing> = shipment.parcels.iter().map(outgoing).collect();
    if shipment.cut.batch {
        let batch_id = Uuid::now_v7().to_string();
        return match publisher.publish_batch(&stream, &batch_id, &messages, None).await {
            Ok(_) => Landing::Stored,
            Err(error) => refused(&error, shipment),
        };
    }
    for message in &messages {
        match publisher.publish(&stream, message, None).await {
            Ok(published) if published.duplicate && !shipment.sent_before => {
                tracing::warn!(id = %message.message_id, seq = published.seq,
                    "the log had this event before it was sent: two agents may share one ledger");
            }
            Ok(_) => {}
            Err(error) => return refused(&error, shipment),
        }
    }
    Landing::Stored
}

/// Whether the log cannot have had the events of this attempt from this agent.
fn is_twin(kind: PublishErrorKind, sent_before: bool) -> bool {
    kind == PublishErrorKind::Duplicate && !sent_before
}

fn refused(error: &PublishError, shipment: &Shipment) -> Landing {
    if is_twin(error.kind, shipment.sent_before) {
        tracing::warn!(epoch = %shipment.epoch, first = shipment.cut.first, last = shipment.cut.last,
            "the log had events of this batch before it was sent: two agents share one ledger or a copy of it; stop one of them");
    }
    let largest = || shipment.parcels.iter().map(|parcel| parcel.body.len()).max().unwrap_or(0);
    match error.kind {
        // Boundaries never move, so one stored event means that the whole batch is stored.
        PublishErrorKind::Duplicate if shipment.cut.batch && shipment.sent_before => Landing::Stored,
        PublishErrorKind::Duplicate | PublishErrorKind::Busy | PublishErrorKind::TooLarge
            if shipment.cut.batch =>
        {
            Landing::GoPlain(error.to_string())
        }
        PublishErrorKind::TooLarge => Landing::TooLarge(largest()),
        PublishErrorKind::Duplicate
        | PublishErrorKind::Busy
        | PublishErrorKind::Unknown
        | PublishErrorKind::Link
        | PublishErrorKind::Server => Landing::Again(error.to_string()),
        PublishErrorKind::Full
        | PublishErrorKind::Refused
        | PublishErrorKind::NoStream
        | PublishErrorKind::Invalid
        | PublishErrorKind::Fenced => Landing::Blocked(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Epoch;

    use super::*;
    use crate::ledger::outbox::Cut;

    #[test]
    fn a_batch_that_the_log_had_before_it_was_sent_has_a_twin() {
        let refuse = |sent_before| {
            let (stream, what, reason) = (String::new(), String::new(), String::new());
            let kind = PublishErrorKind::Duplicate;
            let error = PublishError { kind, code: None, stream, what, reason, source: None };
            let cut = Cut { first: 1, last: 9, batch: true };
            refused(&error, &Shipment { epoch: Epoch(1), cut, sent_before, parcels: Vec::new() })
        };
        assert!(is_twin(PublishErrorKind::Duplicate, false) && matches!(refuse(false), Landing::GoPlain(_)));
        assert!(!is_twin(PublishErrorKind::Duplicate, true) && matches!(refuse(true), Landing::Stored));
        assert!(!is_twin(PublishErrorKind::Busy, false));
    }
}
