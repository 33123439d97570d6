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

fn refused(error: &PublishError, shipment: &Shipment) -> Landing {
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
