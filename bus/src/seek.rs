//! Places in a log that are not known by their sequence: what stands before a moment, and what stands before a message
//! on its subject. JetStream answers neither, so both are searched by halves.

use bus_schema::Timestamp;

use crate::{Bus, BusError, LogMessage, StreamState, reader::ALL};

impl Bus {
    /// The last sequence of a log whose message was stored early enough; the one before the log's first when none was.
    ///
    /// What NATS cannot read of the log is got past. Errors: [`BusError::Unsure`], the link.
    pub async fn last_stored(
        &self,
        log: &StreamState,
        is_early_enough: impl Fn(Timestamp) -> bool,
    ) -> Result<u64, BusError> {
        let (mut low, mut high) = (log.first_seq.saturating_sub(1), log.last_seq);
        let mut is_rotten = false;
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            // Sequences may be missing, as many as there are: the next message behind them counts.
            let mut next = self.next_message(&log.stream, middle, ALL).await?;
            if next.is_none() {
                // There is one behind it, the last; of a block that cannot be read NATS says that there is none. To be
                // sure of that takes seconds, so that it is done once, and at the end. What is behind `high` does not count.
                next = match is_rotten {
                    false => self.first_readable(&log.stream, ALL, middle, high).await?,
                    true => self.behind(&log.stream, ALL, middle, high).await?,
                };
                is_rotten = true;
            }
            let next = next.filter(|message| message.seq() <= high);
            match next.filter(|message| is_early_enough(message.stored_at())) {
                Some(message) => low = message.seq(),
                None => high = middle - 1,
            }
        }
        if is_rotten {
            self.has_handles(&log.stream).await?;
        }
        Ok(low)
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

    /// The first message at `from` or behind it, if it stands before `seq`. Errors: [`BusError::NoStream`], the link.
    pub async fn next_before(
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
