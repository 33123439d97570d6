//! The proof of the logs, done by the service: the adapter behind the console's port.

use std::io;

use console::ports::{
    AuditFault, AuditFaultKind, AuditRange, AuditReport, AuditedLog, Auditor, Evidence, JobProgress, Moment,
    Pending, PortError, SigningKeyView,
};
use consumers::{
    ConsumersError,
    runtime::{
        bounds::Bounds,
        export::Exported,
        replay::Until,
        verify::{Fault, FaultKind, Verified, VerifiedLog},
    },
};
use tokio::sync::mpsc;

use super::ports::{Ports, Told};

/// Pieces of evidence that wait for a slow client.
const PIECES_MAX: usize = 4;

impl Auditor for Ports {
    fn verify(&self, range: AuditRange, progress: mpsc::Sender<JobProgress>) -> Pending<'_, AuditReport> {
        Box::pin(async move {
            let told = Told { to: progress };
            let verified = self.current().handle.verify(bounds(range), &told).await;
            verified.map(report).map_err(refused)
        })
    }

    fn export(&self, range: AuditRange) -> Pending<'_, Evidence> {
        Box::pin(async move {
            let exported = self.current().handle.export(bounds(range)).await;
            let Exported { mut pieces, .. } = exported.map_err(refused)?;
            let (out, handed_on) = mpsc::channel(PIECES_MAX);
            tokio::spawn(async move {
                while let Some(piece) = pieces.recv().await {
                    if out.send(piece.map_err(io::Error::other)).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Evidence { pieces: handed_on })
        })
    }

    fn rotate_key(&self, actor: String) -> Pending<'_, SigningKeyView> {
        Box::pin(async move {
            let rotated = self.current().handle.rotate_key(&actor).await.map_err(PortError::Busy)?;
            Ok(SigningKeyView { key: rotated.key, previous: rotated.previous })
        })
    }
}

fn bounds(range: AuditRange) -> Bounds {
    let until = |moment| match moment {
        Moment::Seq(seq) => Until::Seq(seq),
        Moment::Time(time) => Until::Time(time),
    };
    Bounds { stream: range.stream, from: range.from.map(until), to: range.to.map(until) }
}

fn refused(error: ConsumersError) -> PortError {
    match error {
        ConsumersError::Unprovable(_) | ConsumersError::WrongSigningKey { .. } => {
            PortError::Refused(error.to_string())
        }
        _ => PortError::Failed(error.to_string()),
    }
}

fn report(verified: Verified) -> AuditReport {
    let Verified { logs, checkpoints, key, ranges, rows, faults, notes, took_ms } = verified;
    let logs = logs.into_iter().map(|VerifiedLog { stream, from, to, signed_seq, messages }| AuditedLog {
        stream,
        from,
        to,
        signed: signed_seq,
        messages,
    });
    AuditReport {
        logs: logs.collect(),
        checkpoints,
        key,
        ranges,
        owners: rows.map_or(0, |(owners, _)| owners),
        rows_of_checkpoint: rows.map(|(_, number)| number),
        faults: faults.into_iter().map(fault).collect(),
        notes,
        took_ms,
    }
}

fn fault(Fault { kind, stream, seqs, text }: Fault) -> AuditFault {
    let kind = match kind {
        FaultKind::Checkpoint => AuditFaultKind::Checkpoint,
        FaultKind::Missing => AuditFaultKind::Missing,
        FaultKind::Altered => AuditFaultKind::Altered,
        FaultKind::Range => AuditFaultKind::Range,
        FaultKind::Chain => AuditFaultKind::Chain,
        FaultKind::Rows => AuditFaultKind::Rows,
    };
    AuditFault { kind, stream, first: seqs.map(|seqs| seqs.0), last: seqs.map(|seqs| seqs.1), text }
}
