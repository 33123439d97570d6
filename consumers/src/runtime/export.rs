//! Export: a part of a log as evidence, with the checkpoints that sign it. It begins behind a checkpoint's mark, or with the
//! log, so that whoever reads it can check the running hash from there.

use audit::{
    KeyFile, SigningKey,
    evidence::{FORMAT, Header, Writer},
};
use bus::{Bus, LogMessage, StreamState};
use bus_schema::{
    Hash32, Name,
    fact::{key::Rotated, log::LogMark},
    subject,
};
use tokio::sync::mpsc;

use super::{
    bounds::Bounds,
    pump::CHUNK_EVENTS_MAX,
    replay::still_has,
    signed::{Signed, SignedFacts},
};
use crate::{error::ConsumersError, task::blocking};

/// Pieces of a file that wait for a slow reader.
const PIECES_MAX: usize = 4;

/// A file that is being written.
pub struct Exported {
    /// What it shows.
    pub header: Header,
    /// Its pieces in order; one that is an error is the last: there is no file.
    pub pieces: mpsc::Receiver<Result<Vec<u8>, ConsumersError>>,
}

/// What is exported, and with what.
pub(crate) struct Export {
    /// The bus.
    pub bus: Bus,
    /// The target.
    pub target: Name,
    /// The key that signs.
    pub keys: KeyFile,
    /// Which part of which log.
    pub bounds: Bounds,
}

/// A checkpoint as far as it speaks of the log.
struct Marked {
    number: u64,
    /// Its sequence in the target log.
    at: u64,
    mark: Option<LogMark>,
}

/// What stands in the file beside the messages, in order of the target log.
struct Beside {
    rotations: std::iter::Peekable<std::vec::IntoIter<(u64, Rotated)>>,
    checkpoints: std::iter::Peekable<std::vec::IntoIter<Marked>>,
}

/// A file as it is written on a thread that may wait.
type Draft = Writer<Vec<u8>>;

impl Export {
    /// Begins a file. Errors: the range is none, nothing signs it, this process has not the key; the bus.
    pub(crate) async fn begin(self) -> Result<Exported, ConsumersError> {
        let facts = SignedFacts::of(&self.bus, &self.target);
        let key = self.key(&facts).await?;
        let stream = self.bounds.stream.clone().unwrap_or_default();
        let state = self.bus.stream_state(&stream).await?;
        let (rotations, marked) = signed(&facts, &stream).await?;
        let (header, first) = self.header(&state, &marked).await?;
        let checkpoints: Vec<_> = marked.into_iter().skip(first).collect();
        let beside = Beside {
            rotations: rotations.into_iter().peekable(),
            checkpoints: checkpoints.into_iter().peekable(),
        };
        let (out, pieces) = mpsc::channel(PIECES_MAX);
        let of = header.clone();
        tokio::spawn(async move {
            if let Err(error) = self.write(of, beside, facts, key, &out).await {
                // Who reads it may have gone.
                let _ = out.send(Err(error)).await;
            }
        });
        Ok(Exported { header, pieces })
    }

    async fn key(&self, facts: &SignedFacts) -> Result<SigningKey, ConsumersError> {
        let unsigned = || {
            ConsumersError::Unprovable(
                "nothing of this target is signed yet; the first checkpoint follows its first events"
                    .to_owned(),
            )
        };
        let named = facts.key().await?.ok_or_else(unsigned)?;
        let key = self.keys.load()?;
        let has = key.as_ref().map_or("not there".to_owned(), SigningKey::public);
        key.filter(|key| key.public() == named).ok_or_else(|| {
            let path = self.keys.path().display().to_string();
            ConsumersError::WrongSigningKey { path, has, named }
        })
    }

    /// What the file shows, and the first checkpoint in it.
    async fn header(
        &self,
        state: &StreamState,
        marked: &[Marked],
    ) -> Result<(Header, usize), ConsumersError> {
        let stream = state.stream.clone();
        let of_log = |marked: &Marked| marked.mark.as_ref().is_some_and(|mark| mark.created == state.created);
        let incarnation = marked.iter().filter(|marked| of_log(marked));
        let incarnation = incarnation.filter_map(|marked| Some(marked.mark.as_ref()?.incarnation)).max();
        let incarnation = incarnation.ok_or_else(|| {
            ConsumersError::Unprovable(format!(
                "no checkpoint speaks of the log {stream} as it is; wait for the next one"
            ))
        })?;
        let mark = |marked: &Marked| {
            marked
                .mark
                .clone()
                .filter(|mark| (mark.created, mark.incarnation) == (state.created, incarnation))
        };
        let (from, to) = self.bounds.of(&self.bus, state).await?;
        // A trimmed log begins with the message of a mark.
        let from = if self.bounds.from.is_none() && state.begins_late() { state.first_seq + 1 } else { from };
        let last = marked.iter().filter_map(mark).map(|mark| mark.seq).max().unwrap_or(0);
        let to = if self.bounds.to.is_some() { to } else { last };
        let mut base =
            marked.iter().enumerate().filter_map(|(at, marked)| Some((at, marked.number, mark(marked)?)));
        let base = base.rfind(|(_, _, mark)| mark.seq < from && mark.seq > 0);
        let (first, checkpoint, from, running) = match base {
            Some((at, number, mark)) => (at, number, mark.seq + 1, mark.running),
            None => {
                let first = marked.iter().position(|marked| mark(marked).is_some());
                (first.unwrap_or(0), 0, 1, Hash32::ZERO)
            }
        };
        if from < state.first_seq || from > to {
            return Err(ConsumersError::Unprovable(format!(
                "{stream}:{from}-{to} is no range of that log, which has {}-{} and is signed up to {last}",
                state.first_seq, state.last_seq
            )));
        }
        let (format, target, created) = (FORMAT.to_owned(), self.target.clone(), state.created);
        Ok((Header { format, target, stream, created, incarnation, from, to, running, checkpoint }, first))
    }

    async fn write(
        &self,
        header: Header,
        mut beside: Beside,
        facts: SignedFacts,
        key: SigningKey,
        out: &mpsc::Sender<Result<Vec<u8>, ConsumersError>>,
    ) -> Result<(), ConsumersError> {
        let to = header.to;
        let mut draft = Writer::begin(Vec::new(), header.clone())?;
        let mut log = self.bus.read_log(&header.stream, header.from, None).await?;
        let mut last = header.from - 1;
        beside.put(&mut draft, &header, last, &facts).await?;
        while let Some(mut chunk) = log.next_stored(CHUNK_EVENTS_MAX, to).await? {
            while !chunk.is_empty() {
                // Up to the next mark, which its checkpoint stands behind.
                let mark = beside.next_mark(&header).unwrap_or(u64::MAX).min(to);
                let rest = chunk.split_off(chunk.partition_point(|message| message.seq() <= mark));
                if let Some(read) = chunk.last() {
                    last = read.seq();
                    draft = blocking("export", move || messages(draft, &chunk)).await?;
                }
                if !rest.is_empty() {
                    last = rest.first().map_or(last, LogMessage::seq) - 1;
                }
                beside.put(&mut draft, &header, last, &facts).await?;
                chunk = rest;
            }
            if out.send(Ok(std::mem::take(draft.output()))).await.is_err() {
                return Ok(());
            }
        }
        still_has(&self.bus, &header.stream, header.from).await?;
        beside.put(&mut draft, &header, to, &facts).await?;
        beside.rotations.by_ref().try_for_each(|(_, rotated)| draft.rotation(&rotated))?;
        let _ = out.send(Ok(draft.end(&key)?)).await;
        Ok(())
    }
}

fn messages(mut draft: Draft, chunk: &[LogMessage]) -> Result<Draft, ConsumersError> {
    chunk.iter().try_for_each(|message| message.with_stored(|stored| draft.message(stored)))?;
    Ok(draft)
}

/// The rotations, each with its place in the target log, and the checkpoints as far as they speak of a log.
async fn signed(
    facts: &SignedFacts,
    stream: &str,
) -> Result<(Vec<(u64, Rotated)>, Vec<Marked>), ConsumersError> {
    let (mut rotations, mut marked) = (Vec::new(), Vec::new());
    facts
        .each(|at, signed| match signed {
            Signed::Rotation(rotated) => rotations.push((at, rotated)),
            Signed::Checkpoint(checkpoint) => {
                let mark = checkpoint.logs.into_iter().find(|mark| mark.stream == stream);
                marked.push(Marked { number: checkpoint.number, at, mark });
            }
            // A verification tells of it; here the history has a hole that the reader of the file finds.
            Signed::Unreadable(_) => {}
        })
        .await?;
    Ok((rotations, marked))
}

impl Beside {
    /// The mark of the next checkpoint; none = there is no more, or it says nothing of the log.
    fn next_mark(&mut self, header: &Header) -> Option<u64> {
        self.checkpoints.peek().map(|next| seq_of(next, header))
    }

    /// Writes the checkpoints whose marks have been reached, each behind the rotations before it.
    async fn put(
        &mut self,
        draft: &mut Draft,
        header: &Header,
        reached: u64,
        facts: &SignedFacts,
    ) -> Result<(), ConsumersError> {
        while let Some(next) = self.checkpoints.next_if(|next| seq_of(next, header) <= reached) {
            while let Some((_, rotated)) = self.rotations.next_if(|(at, _)| *at < next.at) {
                draft.rotation(&rotated)?;
            }
            if let Some(checkpoint) = facts.checkpoint(next.at).await? {
                draft.checkpoint(&checkpoint)?;
            }
        }
        Ok(())
    }
}

/// Where a checkpoint stands in the file: one that says nothing of the log stands where it comes.
fn seq_of(marked: &Marked, header: &Header) -> u64 {
    let is_it = |mark: &&LogMark| (mark.created, mark.incarnation) == (header.created, header.incarnation);
    marked.mark.as_ref().filter(is_it).map_or(0, |mark| mark.seq)
}

/// The log of a part that names none: the one that there is.
pub(crate) fn one_log(target: &Name, sites: &[Name], bounds: Bounds) -> Result<Bounds, ConsumersError> {
    let mut logs: Vec<_> = sites.iter().map(subject::site_stream).collect();
    match (&bounds.stream, logs.as_slice()) {
        (None, [one]) => Ok(Bounds { stream: Some(one.clone()), ..bounds }),
        (None, _) => Err(ConsumersError::Unprovable(format!(
            "there are several logs; name one with --stream: {}",
            logs.join(", ")
        ))),
        (Some(named), _) => {
            logs.push(subject::target_stream(target));
            if logs.contains(named) {
                return Ok(bounds);
            }
            Err(ConsumersError::Unprovable(format!(
                "{named} is no log of this target; name one of {}",
                logs.join(", ")
            )))
        }
    }
}
