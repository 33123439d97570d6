//! What can be read of a log whose block is rotten. nats-server does not know that it lost the block's messages: it
//! counts them, answers "no message found" for each, and for the next message behind any of them too; a consumer that
//! comes to the block stands still for ever. Only a question for a sequence behind the block is answered.
//!
//! It says the same of a block that it cannot open for a while, so that is told apart first (`absence.rs`), before the
//! end of the block is looked for and behind that.

use crate::{Bus, BusError, LogMessage};

/// Every subject.
pub(crate) const ALL: &str = ">";
/// The longest step behind what cannot be read. A question costs the server a read of the whole block (3 ms to 6 ms at
/// 8 MiB), so that a block of 100,000 messages takes some eight seconds; between two blocks that are both rotten, fewer
/// good messages than this may be passed over, which are a block only if each has more than 128 KiB.
const STEP_MAX: u64 = 64;

impl Bus {
    /// The first message at `first` or behind it, up to `last`, that NATS can read and that the filter lets through;
    /// none = it reads none of them. Errors: [`BusError::Unsure`], the link.
    pub(crate) async fn first_readable(
        &self,
        stream: &str,
        filter: &str,
        first: u64,
        last: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        if let Some(found) = self.next_message_for_sure(stream, first, filter).await? {
            return Ok(Some(found));
        }
        let found = self.behind(stream, filter, first, last).await?;
        // Each of these questions was asked once: had the server no handles meanwhile, nothing that it said counts.
        self.has_handles(stream).await?;
        Ok(self.next_message(stream, first, filter).await?.or(found))
    }

    /// The first message behind the block that `first` is in.
    pub(crate) async fn behind(
        &self,
        stream: &str,
        filter: &str,
        first: u64,
        last: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        // Of any subject first: the end of the block is found by its first neighbour, which the filter may not let through.
        let Some(neighbour) = self.galloped(stream, ALL, first, last).await? else { return Ok(None) };
        let found = self.next_message(stream, neighbour.seq(), filter).await?;
        if found.is_some() || filter == ALL {
            return Ok(found);
        }
        self.galloped(stream, filter, neighbour.seq(), last).await
    }

    /// The first message that is answered for a sequence behind one that has no answer.
    async fn galloped(
        &self,
        stream: &str,
        filter: &str,
        first: u64,
        last: u64,
    ) -> Result<Option<LogMessage>, BusError> {
        let (mut unreadable, mut step) = (first, 1);
        while unreadable < last {
            let seq = last.min(unreadable + step);
            if let Some(found) = self.next_message(stream, seq, filter).await? {
                return self.bisected(stream, filter, unreadable, seq, found).await.map(Some);
            }
            (unreadable, step) = (seq, STEP_MAX.min(step * 2));
        }
        Ok(None)
    }

    /// What is answered for the least sequence above `unreadable`; `readable` is one that has an answer.
    async fn bisected(
        &self,
        stream: &str,
        filter: &str,
        mut unreadable: u64,
        mut readable: u64,
        mut found: LogMessage,
    ) -> Result<LogMessage, BusError> {
        while readable - unreadable > 1 {
            let middle = unreadable + (readable - unreadable) / 2;
            match self.next_message(stream, middle, filter).await? {
                Some(message) => (readable, found) = (middle, message),
                None => unreadable = middle,
            }
        }
        Ok(found)
    }
}
