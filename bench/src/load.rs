//! The load: a million events over a hundred thousand resources, chained and in binary form as an
//! agent writes them, stored in a real log.

use bus::{Bus, Outgoing};
use bus_schema::{
    Epoch, Hash32, Timestamp,
    chain::{ChainPoint, Link, Sealed},
    token,
};
use uuid::Uuid;

use crate::Outcome;

/// Events in one atomic batch.
pub(crate) const BATCH: usize = 1_000;

/// Writes the events of one chain, one after another.
pub(crate) struct Load {
    site: &'static str,
    source: String,
    epoch: Epoch,
    seq: u64,
    prev: Hash32,
    keys: u64,
    chained: bool,
}

impl Load {
    /// A chain of the cluster `bench` of a site, whose events go round `keys` resources.
    pub(crate) fn new(site: &'static str, keys: u64) -> Self {
        Self {
            site,
            source: format!("/{site}/bench/resource/bench"),
            epoch: Epoch(0xbe9c),
            seq: 0,
            prev: Hash32::ZERO,
            keys,
            chained: true,
        }
    }

    /// The same events without their places in a chain: three headers less.
    pub(crate) fn unchained(site: &'static str, keys: u64) -> Self {
        Self { chained: false, ..Self::new(site, keys) }
    }

    /// Which resource the event at a place is of, and in which round: its revision.
    pub(crate) fn record_of(seq: u64, keys: u64) -> (u64, u64) {
        (seq * 7919 % keys, seq / keys)
    }

    /// The next event: a state of about 300 bytes, another revision each round.
    pub(crate) fn next_event(&mut self) -> Outgoing {
        self.seq += 1;
        let (number, round) = Self::record_of(self.seq, self.keys);
        let (key, body) = (key(number), record(number, round));
        let subject = format!("far.v1.{}.evt.bench.resource.{}.changed", self.site, token::of(&key));
        let id = Uuid::from_u64_pair(self.epoch.0, self.seq).to_string();
        let time = Timestamp::from_unix_ms(1_790_000_000_000 + self.seq as i64).to_string();
        let link = Link { at: ChainPoint { epoch: self.epoch, seq: self.seq }, prev: self.prev };
        let event_type = "resource.changed";
        let source = &self.source;
        let sealed = Sealed {
            source,
            id: &id,
            event_type,
            subject: &subject,
            time: &time,
            link,
            body: body.as_bytes(),
        };
        let prev = std::mem::replace(&mut self.prev, sealed.hash());
        let header = |name: &str, value: String| (name.to_owned(), value);
        let mut headers = vec![
            header("ce-specversion", "1.0".into()),
            header("ce-id", id.clone()),
            header("ce-source", source.clone()),
            header("ce-type", event_type.into()),
            header("ce-time", time),
            header("content-type", "application/json".into()),
        ];
        if self.chained {
            headers.push(header("ce-farepoch", self.epoch.to_string()));
            headers.push(header("ce-farseq", self.seq.to_string()));
            headers.push(header("ce-farprev", prev.to_string()));
        }
        Outgoing { subject, headers, body: body.into(), message_id: format!("bench/{id}") }
    }

    /// Stores the next `events` events in `stream`, in atomic batches.
    pub(crate) async fn store(&mut self, bus: &Bus, stream: &str, events: u64) -> Outcome<()> {
        let publisher = bus.publisher();
        let mut left = events as usize;
        while left > 0 {
            let batch: Vec<Outgoing> = (0..left.min(BATCH)).map(|_| self.next_event()).collect();
            publisher
                .publish_batch(stream, &Uuid::from_u64_pair(1, self.seq).to_string(), &batch, None)
                .await?;
            left -= batch.len();
        }
        Ok(())
    }
}

/// The key of a resource.
pub(crate) fn key(number: u64) -> String {
    format!("Pod/ns-{}.app-{number}", number % 40)
}

/// A resource of about 300 bytes. The state is canonical (RFC 8785), as every agent of Farside sends it.
pub(crate) fn record(number: u64, round: u64) -> String {
    let (namespace, node) = (number % 40, number % 100);
    format!(
        concat!(
            r#"{{"kind":"Pod","id":"ns-{namespace}.app-{number}","revision":"{round}","state":{{"apiVersion":"v1","#,
            r#""metadata":{{"labels":{{"app":"app-{number}","tier":"web"}},"name":"app-{number}","namespace":"ns-{namespace}"}},"#,
            r#""spec":{{"containers":[{{"image":"registry.example/app:{round}","name":"main","#,
            r#""resources":{{"limits":{{"cpu":"500m","memory":"256Mi"}}}}}}],"nodeName":"node-{node}"}}}},"#,
            r#""labels":{{"tier":"web"}}}}"#
        ),
        namespace = namespace,
        number = number,
        round = round,
        node = node
    )
}
