//! Examines evidence, line by line: order, count, hashes, the running hash at every mark, the history of the checkpoints,
//! the chains of the events, the trailer. Everything that is wrong is named with its line.

use std::io::{self, BufRead, Read};

use bus_schema::{
    Hash32, Timestamp,
    envelope::Stored,
    fact::log::{Checkpoint, LogMark},
    proof,
};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::{Absent, FORMAT, Header, LINE_BYTES_MAX, Line, Message, Trailer};
use crate::{History, Walk, signing};

/// Faults that are told one by one; what more there are is only counted.
const FAULTS_MAX: usize = 100;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub text: String,
}

/// What a file is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// What it says that it shows; none when its first line cannot be read.
    pub header: Option<Header>,
    /// Messages in it.
    pub messages: u64,
    /// The numbers of the checkpoints that hold for it.
    pub checkpoints: Vec<u64>,
    /// The last sequence that a checkpoint in it signs; what follows is signed by the trailer alone.
    pub signed_seq: u64,
    /// What is wrong, in order of the lines; none = it is good.
    pub faults: Vec<Fault>,
    /// Faults beyond those.
    pub more: u64,
    /// What is no fault and should be known.
    pub notes: Vec<String>,
}

/// Examines a file, in which every signature must be of the holder of `key` or of whom that one named as a successor.
/// Errors: it cannot be read.
pub fn examine(from: impl BufRead, key: &str) -> io::Result<Examined> {
    let mut examination = Examination::new(key);
    let mut from = from;
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(examination.end());
        }
        examination.line += 1;
        if text.last() != Some(&b'\n') {
            examination.fault(
                "the line does not end: the file was cut off here, or holds something else".to_owned(),
            );
            return Ok(examination.end());
        }
        examination.take(&text);
    }
}

/// An examination that is under way.
struct Examination<'k> {
    key: &'k str,
    line: u64,
    /// All lines so far.
    lines: Sha256,
    found: Examined,
    history: Option<History>,
    walk: Option<Walk>,
    running: Hash32,
    next_seq: u64,
    has_ended: bool,
}

impl<'k> Examination<'k> {
    fn new(key: &'k str) -> Self {
        Self {
            key,
            line: 0,
            lines: Sha256::new(),
            found: Examined::default(),
            history: None,
            walk: None,
            running: Hash32::ZERO,
            next_seq: 0,
            has_ended: false,
        }
    }

    fn fault(&mut self, text: String) {
        if self.found.faults.len() < FAULTS_MAX {
            self.found.faults.push(Fault { line: self.line, text });
        } else {
            self.found.more += 1;
        }
    }

    fn take(&mut self, text: &[u8]) {
        let line = serde_json::from_slice(text);
        if self.has_ended {
            self.fault("something stands behind the trailer".to_owned());
        }
        match line {
            Ok(Line::Trailer(trailer)) => return self.trailer(&trailer),
            Ok(Line::Header(header)) => self.header(header),
            Ok(_) if self.found.header.is_none() => {
                self.fault("the file does not begin with its header".to_owned());
            }
            Ok(Line::Rotation(rotated)) => {
                let wrong = self.history.as_mut().and_then(|history| history.rotate(&rotated).err());
                if let Some(wrong) = wrong {
                    self.fault(wrong.to_string());
                }
            }
            Ok(Line::Checkpoint(checkpoint)) => self.checkpoint(&checkpoint),
            Ok(Line::Message(message)) => self.message(&message),
            Ok(Line::Absent(Absent { first, last })) => {
                self.expect(first, last, &format!("the absence of {first}-{last}"));
            }
            Err(error) => self.fault(format!("it is no line of evidence: {error}")),
        }
        self.lines.update(text);
    }

    fn header(&mut self, header: Header) {
        if self.line > 1 {
            return self.fault("a second header".to_owned());
        }
        if header.format != FORMAT {
            self.fault(format!(
                "the form {:?} is not {FORMAT:?}; use a farside that writes it",
                header.format
            ));
        }
        if header.checkpoint == 0 && (header.running != Hash32::ZERO || header.from != 1) {
            self.fault(
                "it begins in the middle of the log and names no checkpoint whose mark is there".to_owned(),
            );
        }
        self.history = Some(History::excerpt(&header.target));
        self.walk = Some(Walk::begin(&header.stream, header.from));
        (self.running, self.next_seq) = (header.running, header.from);
        self.found.signed_seq = header.from.saturating_sub(1);
        self.found.header = Some(header);
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        let (Some(history), Some(header)) = (self.history.as_mut(), self.found.header.clone()) else {
            return;
        };
        let wrong = history.follow(checkpoint);
        let is_it = |log: &&LogMark| {
            (&log.stream, log.created, log.incarnation)
                == (&header.stream, header.created, header.incarnation)
        };
        let mark = checkpoint.logs.iter().find(is_it);
        if wrong.is_empty() {
            self.found.checkpoints.push(checkpoint.number);
            if let Some(mark) = mark {
                self.mark(checkpoint.number, mark, &header);
            }
        }
        wrong.into_iter().for_each(|wrong| self.fault(wrong.to_string()));
    }

    /// Holds what was read against what a checkpoint signs of it.
    fn mark(&mut self, number: u64, mark: &LogMark, header: &Header) {
        if number < header.checkpoint {
            return;
        }
        let (first, last) = (self.found.signed_seq + 1, mark.seq);
        if last + 1 != self.next_seq {
            let at = self.next_seq.saturating_sub(1);
            return self.fault(format!(
                "checkpoint {number} signs {}:{last}, but stands behind {}:{at}: it is in another's place, or messages are missing or doubled",
                header.stream, header.stream
            ));
        }
        if mark.running != self.running {
            let what = if number == header.checkpoint {
                "the header's running hash".to_owned()
            } else {
                format!("{}:{first}-{last}", header.stream)
            };
            self.fault(format!("{what} is not what checkpoint {number} signs: something there was changed"));
        }
        // Each range is checked from what is signed, so that one fault does not make all that follow wrong.
        (self.running, self.found.signed_seq) = (mark.running, last);
    }

    fn message(&mut self, message: &Message) {
        let Message { seq, stored_at_unix_ms, subject, headers, body, hash } = message;
        self.expect(*seq, *seq, &format!("message {seq}"));
        self.found.messages += 1;
        let body = match BASE64.decode(body.as_bytes()) {
            Ok(body) => body,
            Err(error) => {
                self.running = proof::extend(self.running, *hash);
                return self.fault(format!("the body of message {seq} is not base64: {error}"));
            }
        };
        let stream = self.found.header.as_ref().map_or("", |header| header.stream.as_str()).to_owned();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let stored_at = Timestamp::from_unix_ms(*stored_at_unix_ms);
        let stored =
            Stored { subject, headers: &headers, body: &body, stream: &stream, seq: *seq, stored_at };
        let of_body = Hash32::of(&body);
        let found = stored.hash_with(of_body);
        if found != *hash {
            self.fault(format!(
                "message {seq} ({stream}:{seq}) is not what its hash says: its time, subject, headers or body were changed"
            ));
        }
        if let Some(walk) = &mut self.walk {
            walk.push(stored, of_body);
        }
        self.running = proof::extend(self.running, found);
    }

    /// Every sequence stands once, in order.
    fn expect(&mut self, first: u64, last: u64, what: &str) {
        let next = self.next_seq;
        if first > next {
            let missing = if first == next + 1 { next.to_string() } else { format!("{next}-{}", first - 1) };
            self.fault(format!("{what} stands where {next} should: {missing} is missing"));
        } else if first < next {
            self.fault(format!("{what} stands behind {}: it is doubled, or in another's place", next - 1));
        }
        if last < first {
            self.fault(format!("{what} names no range"));
        }
        self.next_seq = self.next_seq.max(last.saturating_add(1));
    }

    fn trailer(&mut self, trailer: &Trailer) {
        self.has_ended = true;
        let Trailer { from, to, count, running, sha256, key, signature } = trailer;
        let signed = trailer.signed().map_err(|error| error.to_string());
        let verified = signed.and_then(|text| {
            signing::verify(key, text.as_bytes(), signature).map_err(|error| error.to_string())
        });
        if let Err(why) = verified {
            self.fault(format!("the trailer: {why}"));
        }
        let trusted = self.history.as_ref().is_some_and(|history| history.descends(key, self.key));
        if !trusted {
            self.fault(format!(
                "the file is signed by the key {key}, which is neither {} nor one that it named as its successor",
                self.key
            ));
        }
        if let Some(header) = &self.found.header
            && (header.from, header.to) != (*from, *to)
        {
            let text = format!("the trailer says {from}-{to}, but the header {}-{}", header.from, header.to);
            self.fault(text);
        }
        if self.next_seq != to.saturating_add(1) {
            self.fault(format!(
                "the trailer says that the file ends with {to}, but it ends with {}",
                self.next_seq.saturating_sub(1)
            ));
        }
        if *count != self.found.messages {
            let found = self.found.messages;
            self.fault(format!("the trailer counts {count} messages, but {found} are there"));
        }
        if *running != self.running {
            self.fault(
                "the running hash behind the last message is not the trailer's: something was changed"
                    .to_owned(),
            );
        }
        if *sha256 != Hash32(self.lines.clone().finalize().into()) {
            self.fault("the lines before the trailer are not those that it signs".to_owned());
        }
    }

    fn end(mut self) -> Examined {
        self.line = self.line.max(1);
        if self.found.header.is_none() && self.found.faults.is_empty() {
            self.fault("the file does not begin with its header".to_owned());
        }
        if !self.has_ended {
            self.fault("the file ends without its trailer: it was cut off".to_owned());
        }
        self.chains();
        if let Some(header) = self.found.header.clone() {
            if header.checkpoint > 0 && self.found.checkpoints.first() != Some(&header.checkpoint) {
                self.line = 1;
                self.fault(format!(
                    "checkpoint {}, whose mark the file begins behind, is not in it or is not good",
                    header.checkpoint
                ));
            }
            if self.found.signed_seq < header.to {
                let first = self.found.signed_seq + 1;
                let text = format!(
                    "{first}-{} is signed by the trailer only: no checkpoint in the file covers it",
                    header.to
                );
                self.found.notes.push(text);
            }
        }
        self.found
    }

    fn chains(&mut self) {
        let Some(walk) = self.walk.take() else { return };
        let walked = walk.finish(&[]);
        let is_whole = self.found.header.as_ref().is_some_and(|header| header.from <= 1);
        for found in walked.breaks {
            self.fault(format!(
                "{}: event {} of {} does not follow the one before it in its chain: one of the two was changed",
                found.place, found.at.seq, found.owner
            ));
        }
        for missing in walked.missing {
            let gap = missing.gap;
            let text = format!(
                "{}: events {}-{} of {} are missing in its chain",
                gap.place,
                gap.after.seq + 1,
                gap.before.seq - 1,
                gap.owner
            );
            // A part of a log may begin with copies of events that were lost before it.
            if is_whole { self.fault(text) } else { self.found.notes.push(text) }
        }
        if walked.unchained > 0 {
            let text = format!(
                "{} messages have no place in a chain: the running hash alone covers them",
                walked.unchained
            );
            self.found.notes.push(text);
        }
    }
}
