//! The events that wrote what a rebuild found different, as the logs have them.

use bus::{Bus, BusError, LogMessage};
use bus_schema::{Envelope, Name, PoolId, Timestamp, subject, token};
use console::ports::{CausingEvent, NamedEvent, RebuildDifference};
use projector::compare::{Cause, Difference};

/// A difference with the events that wrote both sides. What the logs do not have any more, or cannot be asked for, stands
/// there by its place alone.
pub(super) async fn with_events(bus: &Bus, target: &Name, found: Difference) -> RebuildDifference {
    let Difference { pool, what, left: live, right: rebuilt, left_cause, right_cause, .. } = found;
    let rebuilt_event = event(bus, target, &pool, right_cause.as_ref()).await;
    let live_event = match (&left_cause, &right_cause) {
        (left, right) if left == right => rebuilt_event.clone(),
        (left, _) => event(bus, target, &pool, left.as_ref()).await,
    };
    RebuildDifference { pool, what, live, live_event, rebuilt, rebuilt_event }
}

async fn event(bus: &Bus, target: &Name, pool: &str, cause: Option<&Cause>) -> Option<CausingEvent> {
    let cause = cause?;
    match (message(bus, target, pool, cause).await, cause) {
        (Ok(Some(message)), _) => {
            let place = format!("{}:{}", message.stream(), message.seq());
            Some(CausingEvent { place, event: Some(named(&message)) })
        }
        (_, Cause::Place(place)) => Some(CausingEvent { place: place.clone(), event: None }),
        _ => None,
    }
}

async fn message(
    bus: &Bus,
    target: &Name,
    pool: &str,
    cause: &Cause,
) -> Result<Option<LogMessage>, BusError> {
    match cause {
        Cause::Place(place) => match place.rsplit_once(':').map(|(stream, seq)| (stream, seq.parse())) {
            Some((stream, Ok(seq))) => bus.message(stream, seq).await,
            _ => Ok(None),
        },
        Cause::Event { stem, entity } => match pool.parse::<PoolId>() {
            Ok(pool) => {
                let (stream, subjects) =
                    (subject::site_stream(&pool.site), subject::entity_events(&pool, *stem, entity));
                bus.last_message(&stream, &subjects).await
            }
            Err(_) => Ok(None),
        },
        Cause::Fact { stem, entity, name } => {
            let subjects = format!(
                "{}.{target}.tgt.{stem}.{}.{}",
                subject::ROOT,
                token::of(entity),
                name.unwrap_or("*")
            );
            bus.last_message(&subject::target_stream(target), &subjects).await
        }
    }
}

/// What an event calls itself; of one that cannot be read, what its subject does.
fn named(message: &LogMessage) -> NamedEvent {
    message.with_stored(|stored| {
        if let Ok(envelope) = Envelope::read(stored) {
            let (event_type, id) = (envelope.event_type.into_owned(), envelope.id.into_owned());
            return NamedEvent { event_type, time: envelope.time, id };
        }
        let header = |name: &str| {
            let found = stored.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
            found.map(|(_, value)| (*value).to_owned())
        };
        let time = header("ce-time").and_then(|time| time.parse::<Timestamp>().ok());
        NamedEvent {
            event_type: header("ce-type").unwrap_or_else(|| stored.subject.to_owned()),
            time: time.unwrap_or(stored.stored_at),
            id: header("ce-id").unwrap_or_else(|| format!("{}:{}", stored.stream, stored.seq)),
        }
    })
}
