//! What happened to an entity before and at a message, told from the log: for one message, and for a history.

use bus::LogMessage;
use bus_schema::{EventSubject, PoolId, ResourceKey, Stem, subject::ROOT};
use serde_json::Value;

use crate::{
    api::{Api, unread},
    problem::Problem,
    trail::{Document, changes, entry},
    view::trail::{EffectView, EntryView},
};

/// Events that are looked at backwards until one tells a whole state: notices and copies in a row are few.
const BACK_MAX: usize = 64;

/// What a message did, and the message that it is compared with.
pub(super) struct Story {
    pub(super) previous: Option<String>,
    pub(super) effect: EffectView,
}

/// The story of one message.
pub(super) async fn told(api: &Api, message: &LogMessage) -> Result<Story, Problem> {
    if let Some((pool, key, subjects)) = resource(message) {
        let mut before = before(api, message.stream(), &pool, key.as_ref(), &subjects, message.seq()).await?;
        let refused = refused(api, message).await?;
        let effect = before.document.take(&entry(message), refused.as_deref());
        return Ok(Story { previous: before.place, effect });
    }
    // Of anything else, the one before it that says the same kind of thing of the same entity.
    let bus = &api.parts.bus;
    let last =
        bus.message_before(message.stream(), message.subject(), message.seq()).await.map_err(unread)?;
    let value =
        |entry: &EntryView| -> Option<Value> { serde_json::from_str(entry.data.as_ref()?.get()).ok() };
    let now = entry(message);
    let effect = match &now.unreadable {
        Some(why) => EffectView::nothing(format!("it cannot be read: {why}")),
        None => {
            let old = last.as_ref().and_then(|last| value(&entry(last)));
            EffectView { changes: changes(old.as_ref(), value(&now).as_ref()), none: None }
        }
    };
    Ok(Story { previous: last.map(|last| place(&last)), effect })
}

/// The pool and the key of an event about a resource, and the subjects of all events about it.
fn resource(message: &LogMessage) -> Option<(PoolId, Option<ResourceKey>, String)> {
    let subject = EventSubject::parse(message.subject()).ok()?;
    let is_of_resource = matches!(subject.event, "changed" | "noticed" | "deleted");
    (subject.stem == Stem::Resource && is_of_resource).then_some(())?;
    let EventSubject { site, cluster, token, .. } = subject;
    let subjects = format!("{ROOT}.{site}.evt.{cluster}.resource.{token}.*");
    Some((subject.pool().ok()?, entry(message).entity.parse().ok(), subjects))
}

/// A resource before a message.
#[derive(Default)]
pub(super) struct Before {
    pub(super) document: Document,
    /// The event before, `stream:seq`.
    pub(super) place: Option<String>,
}

/// A resource as the events before a sequence tell it.
pub(super) async fn before(
    api: &Api,
    stream: &str,
    pool: &PoolId,
    key: Option<&ResourceKey>,
    subjects: &str,
    seq: u64,
) -> Result<Before, Problem> {
    let (mut events, mut at) = (Vec::new(), seq);
    while events.len() < BACK_MAX {
        let found = api.parts.bus.message_before(stream, subjects, at).await.map_err(unread)?;
        let Some(message) = found else { break };
        at = message.seq();
        let told = entry(&message);
        let is_whole = told.event_type != "resource.noticed" && told.unreadable.is_none();
        // A copy may not count; what it is compared with stands before it.
        let ends = is_whole && told.redrive_of.is_none() && refused(api, &message).await?.is_none();
        events.push(message);
        if ends {
            break;
        }
    }
    let buried = match key {
        Some(key) => buried(api, stream, pool, key).await?,
        None => Vec::new(),
    };
    let mut before = Before { place: events.first().map(place), ..Before::default() };
    let mut buried = buried.into_iter().filter(|buried| (at..seq).contains(buried)).peekable();
    for message in events.into_iter().rev() {
        while buried.next_if(|buried| *buried < message.seq()).is_some() {
            before.document.bury();
        }
        let refused = refused(api, &message).await?;
        before.document.take(&entry(&message), refused.as_deref());
    }
    if let Some(last) = buried.last() {
        before.document.bury();
        before.place = Some(format!("{stream}:{last}"));
    }
    Ok(before)
}

/// The sequences of the full answers that deleted a resource because they did not have it.
pub(super) async fn buried(
    api: &Api,
    stream: &str,
    pool: &PoolId,
    key: &ResourceKey,
) -> Result<Vec<u64>, Problem> {
    let (pool, key) = (pool.clone(), key.clone());
    let found = api.read(move |reader| reader.buried(&pool, &key)).await?.value;
    Ok(found.into_iter().filter(|(of, _)| of == stream).map(|(_, seq)| seq).collect())
}

/// Why the pool has not taken in a message.
pub(super) async fn refused(api: &Api, message: &LogMessage) -> Result<Option<String>, Problem> {
    let (stream, seq) = (message.stream().to_owned(), message.seq());
    if let Some(origin) = entry(message).redrive_of.and_then(|of| of.rsplit_once(':')?.1.parse().ok()) {
        let known = api.read(move |reader| reader.parked_record(&stream, origin)).await?.value;
        let why = match known.filter(|known| known.redriven == Some(seq)) {
            Some(known) if known.changed => return Ok(None),
            Some(_) => {
                "it was taken in and changed nothing: what is newer stands, or its source has said since what there is"
            }
            None => {
                "its original is no dead letter, or another copy of it was taken in, or this one could not be"
            }
        };
        return Ok(Some(why.to_owned()));
    }
    let parked = api.read(move |reader| reader.parked(&stream, seq)).await?.value;
    Ok(parked.map(|refusal| format!("it is a dead letter: {} (at {})", refusal.reason, refusal.path)))
}

fn place(message: &LogMessage) -> String {
    format!("{}:{}", message.stream(), message.seq())
}
