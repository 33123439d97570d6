//! Dead letters, taken in again by the service: the adapter behind the console's port.

use console::{
    ports::{Pending, PortError, RedriveAsked, RedriveWhich, Redriver},
    view::{RedriveItem, RedriveOutcome, RedriveView},
};
use consumers::{
    ConsumersError,
    runtime::redrive::{Asked, Looked, Outcome, PAGE_MAX, Page, Which},
};

use super::ports::Ports;

impl Redriver for Ports {
    fn redrive(&self, asked: RedriveAsked) -> Pending<'_, RedriveView> {
        Box::pin(async move {
            let asked = read(asked);
            let page = self.current().handle.redrive(&asked).await.map_err(refused)?;
            let Page { letters, next } = page;
            Ok(RedriveView {
                items: letters.into_iter().map(item).collect(),
                next: next.map(|(stream, seq)| format!("{stream}:{seq}")),
                upcaster: asked.upcasting.map(|upcasting| upcasting.upcaster),
            })
        })
    }
}

fn read(asked: RedriveAsked) -> Asked {
    let RedriveAsked { which, upcasting, dry_run, after, limit, actor } = asked;
    let which = match which {
        RedriveWhich::Place(stream, seq) => Which::Place(stream, seq),
        RedriveWhich::Reason(reason) => Which::Reason(reason),
        RedriveWhich::Range(stream, from, to) => Which::Range(stream, from, to),
    };
    Asked { which, upcasting, dry_run, actor, after, limit: limit.unwrap_or(PAGE_MAX) }
}

fn item(Looked { record, outcome }: Looked) -> RedriveItem {
    let outcome = match outcome {
        Outcome::Redriven(copy) => {
            let (copy, changed) = (format!("{}:{copy}", record.stream), record.changed);
            RedriveOutcome::Redriven { copy, changed }
        }
        Outcome::Decodes(decoded) => RedriveOutcome::Decodes {
            event_type: decoded.event_type,
            source: decoded.source,
            data: decoded.data,
            changes: decoded.changes,
        },
        Outcome::Dead(refusal) => RedriveOutcome::Dead { reason: refusal.reason, path: refusal.path },
    };
    RedriveItem { place: record.place(), subject: record.subject, outcome }
}

fn refused(error: ConsumersError) -> PortError {
    let text = error.to_string();
    match error {
        ConsumersError::NotParked(_) => PortError::Missing(text),
        ConsumersError::NotHolder { .. } => PortError::Busy(text),
        _ => PortError::Failed(text),
    }
}
