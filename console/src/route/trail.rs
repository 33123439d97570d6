//! The logs for people: messages as they come, and one message with all that is known of it.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use bus::LogMessage;
use bus_schema::{Envelope, EventSubject, Hash32, Name, PoolId, Stem, Timestamp, envelope::Form, subject};
use futures_util::stream;
use projector::{Owner, Reader, StoreError};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{place, story};
use crate::{
    api::{Api, unread},
    extract::{Operator, Params},
    problem::Problem,
    trail::{Filter, Reading, Span, entry},
    view::trail::{LinkView, ParkedView, SealState, ShownView, TailLine},
};

/// What of which logs is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `cluster`, or `site/cluster`.
    cluster: Option<String>,
    stem: Option<Stem>,
    kind: Option<String>,
    entity: Option<String>,
    actor: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: Option<u64>,
    #[serde(default)]
    follow: bool,
}

impl Wanted {
    fn filter(&self) -> Result<Filter, Problem> {
        let name = |text: &str| text.parse::<Name>().map_err(|error| Problem::bad_request(error.to_string()));
        let cluster = match self.cluster.as_deref().map(|text| (text, text.split_once('/'))) {
            None => None,
            Some((_, Some((site, cluster)))) => Some((Some(name(site)?), name(cluster)?)),
            Some((cluster, None)) => Some((None, name(cluster)?)),
        };
        let (stem, kind) = (self.stem, self.kind.clone());
        Ok(Filter { cluster, stem, kind, entity: self.entity.clone(), actor: self.actor.clone() })
    }
}

/// `GET /v1/audit/events`: JSON lines, as long as the client reads them.
pub(super) async fn tail(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    let filter = wanted.filter()?;
    let Wanted { since, until, follow, .. } = wanted;
    // What is stored after a moment can still be waited for, but nobody has asked for that.
    let span = Span { since, until, follow: follow && until.is_none() };
    api.linked()?;
    let permit = api.tails.clone().try_acquire_owned().map_err(|_| {
        Problem::throttled(5, "too many logs are being followed by others; end one of those, or ask again")
    })?;
    let parts = &api.parts;
    let sites =
        parts.sites.iter().filter_map(|site| Some((subject::site_stream(site), filter.events_of(site)?)));
    let facts = (subject::target_stream(&parts.target), filter.facts_of(&parts.target));
    let wanted_logs: Vec<_> = sites.chain([facts]).collect();
    let reading = Reading::open(&parts.bus, &wanted_logs, span).await.map_err(unread)?;
    let left = wanted.limit.unwrap_or(u64::MAX);
    let tail = Tail { reading, filter, left, ending: api.ending.clone(), _permit: permit };
    let lines = stream::unfold(Some(tail), |tail| async move {
        let mut tail = tail?;
        let line = tail.next().await?;
        let is_last = matches!(line, TailLine::Ended(_));
        let text = serde_json::to_string(&line).map(|text| text + "\n").map_err(io::Error::other);
        Some((text, Some(tail).filter(|_| !is_last)))
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response())
}

/// An answer that goes on.
struct Tail {
    reading: Reading,
    filter: Filter,
    /// So many more are wanted.
    left: u64,
    ending: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Tail {
    /// The next line; none = that was all.
    async fn next(&mut self) -> Option<TailLine> {
        self.left = self.left.checked_sub(1)?;
        loop {
            let read = tokio::select! {
                biased;
                () = self.ending.cancelled() => {
                    let text = "farside is ending; start it again, then go on with --since and the last time";
                    return Some(TailLine::Ended(text.to_owned()));
                }
                read = self.reading.next() => read,
            };
            let message = match read {
                Ok(message) => message?,
                Err(error) => {
                    let text =
                        format!("a log cannot be read on: {error}; look at 'farside status', then ask again");
                    return Some(TailLine::Ended(text));
                }
            };
            let (told, is_fact) = (entry(&message), EventSubject::parse(message.subject()).is_err());
            let is_fact = is_fact && message.stream().starts_with("FARSIDE_TGT_");
            if self.filter.passes(&told, is_fact) {
                return Some(TailLine::Entry(Box::new(told)));
            }
        }
    }
}

/// `GET /v1/audit/events/{place}`
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    _: Operator,
    Path(text): Path<String>,
) -> Result<Json<ShownView>, Problem> {
    let (stream, seq) = place::place(&api, &text)?;
    api.linked()?;
    let message = api.parts.bus.message_unless_unsure(&stream, seq).await.map_err(unread)?;
    let message = match message {
        Some(message) => message,
        None => return Err(no_message(&api, &stream, seq).await),
    };
    let story = story::told(&api, &message).await?;
    let (hash, told) = (message.hash(), entry(&message));
    let known = api.read(move |reader| known(reader, &stream, seq, hash)).await?;
    let (form, chain) = envelope(&api, &message, known.is_parked()).await?;
    let mut headers: Vec<_> =
        message.headers().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    headers.sort();
    Ok(Json(ShownView {
        entry: told,
        subject: message.subject().to_owned(),
        headers,
        bytes: message.body().len() as u64,
        form,
        chain,
        seal: known.seal,
        parked: known.parked,
        previous: story.previous,
        effect: story.effect,
    }))
}

/// Why there is no message at a place.
async fn no_message(api: &Api, stream: &str, seq: u64) -> Problem {
    match api.parts.bus.stream_state(stream).await {
        Ok(state) if seq > state.last_seq => {
            Problem::not_found(format!("{stream} ends with {}; name a sequence up to there", state.last_seq))
        }
        Ok(state) if seq < state.first_seq => Problem::not_found(format!(
            "{stream} begins with {}: what stood before is not kept any more",
            state.first_seq
        )),
        Ok(_) => Problem::not_found(format!(
            "{stream} has lost the message {seq}; 'farside audit damage' tells what became of it"
        )),
        Err(error) => unread(error),
    }
}

/// What the pool knows of a message.
struct Known {
    seal: SealState,
    parked: Option<ParkedView>,
}

impl Known {
    fn is_parked(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.redriven.is_none())
    }
}

fn known(reader: &Reader, stream: &str, seq: u64, hash: Hash32) -> Result<Known, StoreError> {
    let read = reader.seals(stream, seq)?.and_then(|frame| frame.seal(seq));
    let seal = match read {
        None => SealState::Unread,
        Some(seal) if seal.is_of(hash) => SealState::Equal,
        Some(_) => SealState::Different,
    };
    let parked = reader.parked_record(stream, seq)?.value;
    let parked = parked.map(|record| {
        let redriven = record.redriven.map(|copy| format!("{stream}:{copy}"));
        ParkedView { reason: record.reason, path: record.path, redriven }
    });
    Ok(Known { seal, parked })
}

/// The form of a message, and its place in a chain.
async fn envelope(
    api: &Api,
    message: &LogMessage,
    is_parked: bool,
) -> Result<(Option<String>, Option<LinkView>), Problem> {
    let read = message.with_stored(|stored| {
        let envelope = Envelope::read(stored).ok()?;
        let pool = envelope.subject.pool().ok()?;
        Some((envelope.form, pool, envelope.source.into_owned(), envelope.link.zip(envelope.hash)))
    });
    let Some((form, pool, source, link)) = read else { return Ok((None, None)) };
    let form = match form {
        Form::Plain => "plain",
        Form::Structured => "structured",
        Form::Binary => "binary",
    };
    let Some((link, hash)) = link else { return Ok((Some(form.to_owned()), None)) };
    let owner = owner(api, pool, source).await?;
    let checked = checked(owner.as_ref(), link.at, hash, is_parked);
    let at = format!("{}:{}", link.at.epoch, link.at.seq);
    Ok((Some(form.to_owned()), Some(LinkView { at, prev: link.prev, hash, checked })))
}

async fn owner(api: &Api, pool: PoolId, source: String) -> Result<Option<Owner>, Problem> {
    Ok(api.read(move |reader| reader.owner(&pool, &source)).await?.value)
}

/// What the pool made of a place in a chain, in words.
fn checked(
    owner: Option<&Owner>,
    at: bus_schema::chain::ChainPoint,
    hash: Hash32,
    is_parked: bool,
) -> String {
    let Some(owner) = owner else { return "not read yet".to_owned() };
    let current = owner.at.filter(|last| last.epoch == at.epoch);
    let last = current.or_else(|| owner.retired.iter().find(|last| last.epoch == at.epoch).copied());
    match last {
        _ if is_parked => "refused: it is a dead letter".to_owned(),
        None => "its epoch is not known any more, or not read yet".to_owned(),
        Some(last) if at.seq > last.seq => "not read yet, or refused: the chain ends before it".to_owned(),
        Some(last) if last == at && current.is_some() && owner.hash.is_some_and(|known| known != hash) => {
            "refused: another event has this place in the chain".to_owned()
        }
        Some(_)
            if owner.fork.as_ref().is_some_and(|fork| fork.at.epoch == at.epoch && fork.at.seq < at.seq) =>
        {
            "behind a fork of its chain".to_owned()
        }
        Some(_) => "checked when it was read: it joins the chain".to_owned(),
    }
}
