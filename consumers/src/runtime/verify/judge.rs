//! What a comparison found of one log, in words, as far as it is of the range that is meant. Pure.

use audit::{Checked, Verdict, Walked};
use bus_schema::fact::log::{Loss, LossFound};

use super::{Fault, FaultKind, Part, Verified, VerifiedLog};
use crate::runtime::{scrub::Compared, unread::Stretches};

/// Puts it into the result.
pub(super) fn judge(part: &Part, compared: Compared, messages: u64, found: &mut Verified) {
    let mut judge = Judge { part, found };
    let Compared { walked, losses, checked, absent, unread } = compared;
    judge.losses(&losses);
    let signed_seq = judge.ranges(&checked, &absent, &unread.passed);
    judge.chains(&walked);
    let (stream, from, to) = (part.state.stream.clone(), part.from, part.to);
    found.logs.push(VerifiedLog { stream, from, to, signed_seq, messages });
}

struct Judge<'a> {
    part: &'a Part,
    found: &'a mut Verified,
}

impl Judge<'_> {
    fn is_meant(&self, first: u64, last: u64) -> bool {
        first <= self.part.to && last >= self.part.from
    }

    fn place(&self, (first, last): (u64, u64)) -> String {
        let stream = &self.part.state.stream;
        if first == last { format!("{stream}:{first}") } else { format!("{stream}:{first}-{last}") }
    }

    fn fault(&mut self, kind: FaultKind, seqs: (u64, u64), text: String) {
        if self.is_meant(seqs.0, seqs.1) {
            let stream = self.part.state.stream.clone();
            self.found.faults.push(Fault { kind, stream, seqs: Some(seqs), text });
        }
    }

    /// What the live pool read otherwise.
    fn losses(&mut self, losses: &[LossFound]) {
        for loss in losses {
            let seqs = (loss.first_seq, loss.last_seq);
            let place = self.place(seqs);
            if loss.scattered > 0 {
                let text = format!(
                    "{} messages in {place}, not every one there, are missing or were altered; there are too many places to name each",
                    loss.scattered
                );
                self.fault(FaultKind::Missing, seqs, text);
                continue;
            }
            match loss.loss {
                Loss::Missing => {
                    self.fault(FaultKind::Missing, seqs, format!("{place} is missing: it was read once"));
                }
                Loss::Replaced => {
                    let text = format!("{place} was altered: something else was read there");
                    self.fault(FaultKind::Altered, seqs, text);
                }
            }
        }
    }

    /// What was signed otherwise. Answers the last sequence of the range that is signed.
    fn ranges(&mut self, checked: &[Checked], absent: &[(u64, u64)], unread: &Stretches) -> u64 {
        let mut signed_seq = 0;
        for range in checked {
            let Checked { number, first_seq, last_seq, verdict } = *range;
            if !self.is_meant(first_seq, last_seq) {
                continue;
            }
            self.found.ranges += 1;
            signed_seq = signed_seq.max(last_seq);
            let at = self.place((first_seq, last_seq));
            match verdict {
                Verdict::Equal => {}
                Verdict::Unreadable => self.found.notes.push(format!(
                    "{at} cannot be held against checkpoint {number}: the log begins behind its start"
                )),
                Verdict::Differs => {
                    let absent =
                        absent.iter().filter(|(first, last)| first_seq <= *last && *first <= last_seq);
                    let absent: Vec<_> = absent.map(|absent| self.place(*absent)).collect();
                    let lacks = absent.join(", ");
                    let lacks =
                        if lacks.is_empty() { lacks } else { format!("; the log does not have {lacks}") };
                    let unread =
                        unread.at.iter().filter(|at| first_seq <= at.last_seq && at.first_seq <= last_seq);
                    let unread: Vec<_> = unread.map(|at| at.place(&self.part.state.stream)).collect();
                    let has = match unread.is_empty() {
                        true => String::new(),
                        false => {
                            format!(
                                "; the log has {}, which the pool never read when it was signed",
                                unread.join(", ")
                            )
                        }
                    };
                    let text = format!("{at} is not what checkpoint {number} signs{lacks}{has}");
                    self.fault(FaultKind::Range, (first_seq, last_seq), text);
                }
            }
        }
        signed_seq
    }

    /// What the agents said otherwise.
    fn chains(&mut self, walked: &Walked) {
        for broken in &walked.breaks {
            let seq = seq_of(&broken.place);
            let text = format!(
                "{}: event {} of {} does not follow the one before it in its chain: one of the two was changed",
                broken.place, broken.at.seq, broken.owner
            );
            self.fault(FaultKind::Chain, (seq, seq), text);
        }
        for missing in &walked.missing {
            let (gap, seq) = (&missing.gap, seq_of(&missing.gap.place));
            let (first, last) = (gap.after.seq + 1, gap.before.seq - 1);
            let text = format!(
                "{}: events {first}-{last} of {} are missing before it in its chain",
                gap.place, gap.owner
            );
            self.fault(FaultKind::Chain, (seq, seq), text);
        }
    }
}

fn seq_of(place: &str) -> u64 {
    place.rsplit_once(':').and_then(|(_, seq)| seq.parse().ok()).unwrap_or(0)
}
