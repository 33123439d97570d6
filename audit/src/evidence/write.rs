//! Writes evidence, message by message. What it writes it compares with what is signed: a log that is not what a
//! checkpoint says makes no evidence.

use std::io::{self, Write};

use bus_schema::{
    Hash32,
    envelope::Stored,
    fact::{key::Rotated, log::Checkpoint},
    proof,
};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::{Absent, Header, Line, Message, Trailer};
use crate::signing::{SignatureError, SigningKey};

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// It cannot be written.
    #[error("the evidence cannot be written: {0}")]
    Output(#[from] io::Error),
    /// The log has something else than what was signed.
    #[error(
        "{stream}:{first_seq}-{last_seq} is not what checkpoint {number} signs, so it makes no evidence: 'farside audit verify' says what is wrong there; a range that begins behind {last_seq} can be exported"
    )]
    NotWhatIsSigned {
        /// The log.
        stream: String,
        /// The first sequence that is not certain.
        first_seq: u64,
        /// The mark.
        last_seq: u64,
        /// The checkpoint.
        number: u64,
    },
    /// It cannot be signed.
    #[error("the evidence cannot be signed: {0}")]
    Signature(#[from] SignatureError),
}

/// Evidence that is being written.
pub struct Writer<W> {
    to: W,
    lines: Sha256,
    header: Header,
    running: Hash32,
    /// The first sequence behind what a checkpoint has signed so far.
    unsigned_seq: u64,
    next_seq: u64,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with what the file shows.
    pub fn begin(to: W, header: Header) -> Result<Self, EvidenceError> {
        let (running, from) = (header.running, header.from);
        let (lines, count) = (Sha256::new(), 0);
        let mut writer =
            Self { to, lines, header: header.clone(), running, unsigned_seq: from, next_seq: from, count };
        writer.line(&Line::Header(header))?;
        Ok(writer)
    }

    /// Where it goes.
    pub fn output(&mut self) -> &mut W {
        &mut self.to
    }

    /// The next sequence that is expected.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The next rotation of the key.
    pub fn rotation(&mut self, rotated: &Rotated) -> Result<(), EvidenceError> {
        self.line(&Line::Rotation(rotated.clone()))
    }

    /// The next checkpoint, behind the last message up to its mark. Errors: the log is not what it signs.
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), EvidenceError> {
        let Header { stream, created, incarnation, .. } = self.header.clone();
        let is_it = |log: &&bus_schema::fact::log::LogMark| {
            (&log.stream, log.created, log.incarnation) == (&stream, created, incarnation)
        };
        if let Some(mark) = checkpoint.logs.iter().find(is_it).filter(|mark| mark.seq + 1 >= self.header.from)
        {
            self.absent(mark.seq)?;
            if mark.running != self.running {
                let (first_seq, last_seq, number) = (self.unsigned_seq, mark.seq, checkpoint.number);
                return Err(EvidenceError::NotWhatIsSigned { stream, first_seq, last_seq, number });
            }
            self.unsigned_seq = mark.seq + 1;
        }
        self.line(&Line::Checkpoint(Box::new(checkpoint.clone())))
    }

    /// The next message.
    pub fn message(&mut self, stored: Stored<'_>) -> Result<(), EvidenceError> {
        self.absent(stored.seq.saturating_sub(1))?;
        let hash = stored.hash();
        let headers = stored.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.line(&Line::Message(Message {
            seq: stored.seq,
            stored_at_unix_ms: stored.stored_at.unix_ms(),
            subject: stored.subject.to_owned(),
            headers: headers.collect(),
            body: BASE64.encode(stored.body),
            hash,
        }))?;
        (self.running, self.next_seq) = (proof::extend(self.running, hash), stored.seq + 1);
        self.count += 1;
        Ok(())
    }

    /// Ends it under the key.
    pub fn end(mut self, key: &SigningKey) -> Result<W, EvidenceError> {
        let Header { from, to, .. } = self.header;
        self.absent(to)?;
        let (sha256, running, count) =
            (Hash32(self.lines.clone().finalize().into()), self.running, self.count);
        let (key_text, signature) = (key.public(), String::new());
        let mut trailer = Trailer { from, to, count, running, sha256, key: key_text, signature };
        let signed = trailer.signed().map_err(io::Error::other)?;
        trailer.signature = key.sign(signed.as_bytes())?;
        self.line(&Line::Trailer(trailer))?;
        self.to.flush()?;
        Ok(self.to)
    }

    /// Everything from the next sequence up to this one is not there.
    fn absent(&mut self, last: u64) -> Result<(), EvidenceError> {
        if last < self.next_seq {
            return Ok(());
        }
        self.line(&Line::Absent(Absent { first: self.next_seq, last }))?;
        self.next_seq = last + 1;
        Ok(())
    }

    fn line(&mut self, line: &Line) -> Result<(), EvidenceError> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
        text.push(b'\n');
        self.lines.update(&text);
        Ok(self.to.write_all(&text)?)
    }
}
