//! Places in a log that are not known by their sequence: what stands before a moment, and what stands before a message
//! on its subject. JetStream answers neither, so both are searched by halves.

use bus_schema::Timestamp;

use crate::{Bus, BusError, LogMessage, StreamState};

/// Sequences behind one that is missing that are looked at for a time.
const NEIGHBOURS_MAX: u64 = 1_000;

impl Bus {
    /// The last sequence of a log whose message was stored early enough; the one before the log's first when none was.
    ///
    /// Errors: the link.
    pub async fn last_stored(
        &self,
        log: &StreamState,
        is_early_enough: impl Fn(Timestamp) -> bool,
    ) -> Result<u64, BusError> {
        let (mut low, mut high) = (log.first_seq.saturating_sub(1), log.last_seq);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let (seq, stored_at) = self.first_from(&log.stream, middle, high).await?;
            if stored_at.is_some_and(&is_early_enough) {
                low = seq;
            } else {
                high = middle - 1;
            }
        }
        Ok(low)
    }

    /// When the first message at a sequence or behind it was stored.
    async fn first_from(
        &self,
        stream: &str,
        seq: u64,
        last: u64,
    ) -> Result<(u64, Option<Timestamp>), BusError> {
        for at in seq..=last.min(seq + NEIGHBOURS_MAX) {
            if let Some(message) = self.message(stream, at).await? {
                return Ok((at, Some(message.stored_at())));
            }
        }
        Ok((last, None))
    }

    /// The last message under a subject (wildcards allowed) before a sequence; none when there is none. Asks the server
    /// twice as often as the distance has binary digits, at most.
    ///
    /// Errors: [`BusError::NoStream`], the link.
    pub async fn message_before(
        &self,
        stream: &str,
        subject: &str,
        seq: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        // Backwards in strides until one is there, then by halves up to the last one.
        let (mut low, mut high, mut stride) = (seq, seq, 1);
        let mut found = None;
        while found.is_none() && low > 1 {
            (high, low) = (low, low.saturating_sub(stride).max(1));
            stride *= 2;
            found = self.next_before(stream, subject, low, seq).await?;
        }
        let Some(mut last) = found else { return Ok(None) };
        while last.seq() + 1 < high {
            let middle = last.seq() + 1 + (high - last.seq() - 1) / 2;
            match self.next_before(stream, subject, middle, seq).await? {
                Some(message) => last = message,
                None => high = middle,
            }
        }
        Ok(Some(last))
    }

    /// The first message at `from` or behind it, if it stands before `seq`.
    async fn next_before(
        &self,
        stream: &str,
        subject: &str,
        from: u64,
        seq: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        let next = self.next_message(stream, from, subject).await?;
        Ok(next.filter(|message| message.seq() < seq))
    }
}
