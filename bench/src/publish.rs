//! Publishing under `sync_interval: always`: plain pipelined publishes against atomic batches of 1,000.

use std::time::Instant;

use bus::{Bus, Outgoing};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;

use crate::{
    Outcome,
    load::{BATCH, Load},
    report::{Rounds, Section},
};

/// Plain publishes that wait for their acknowledgement at one time.
const IN_FLIGHT: usize = 1_000;
/// Events of one plain round: the slow side decides how long the section takes.
const PLAIN_EVENTS: usize = 5_000;
/// Events of one batch round.
const BATCH_EVENTS: usize = 50_000;

/// Runs both sides in turn.
pub(crate) async fn run(bus: &Bus, site: &'static str, rounds: usize) -> Outcome<Section> {
    let stream = &crate::site_stream(bus, site).await?;
    let mut load = Load::new(site, 100_000);
    let (mut plain, mut batched, mut ratios) = (vec![], vec![], vec![]);
    for _ in 0..rounds {
        let events: Vec<Outgoing> = (0..PLAIN_EVENTS).map(|_| load.next_event()).collect();
        let start = Instant::now();
        let publisher = bus.publisher();
        stream::iter(&events)
            .map(|event| publisher.publish(stream, event, None))
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        plain.push(PLAIN_EVENTS as f64 / start.elapsed().as_secs_f64());

        let events: Vec<Outgoing> = (0..BATCH_EVENTS).map(|_| load.next_event()).collect();
        let start = Instant::now();
        for batch in events.chunks(BATCH) {
            publisher.publish_batch(stream, &Uuid::now_v7().to_string(), batch, None).await?;
        }
        batched.push(BATCH_EVENTS as f64 / start.elapsed().as_secs_f64());
        ratios.push(batched[batched.len() - 1] / plain[plain.len() - 1]);
    }
    let (plain, batched, ratio) = (Rounds::of(&plain), Rounds::of(&batched), Rounds::of(&ratios));
    let mut section = Section::new(
        "Publish",
        format!(
            "`sync_interval: always`, events of ~650 bytes with headers, {rounds} interleaved rounds: {PLAIN_EVENTS} \
             plain publishes with {IN_FLIGHT} in flight, then {BATCH_EVENTS} events in atomic batches of {BATCH}."
        ),
    );
    section.add("plain, pipelined", format!("{:.0} ev/s", plain.median), plain.spread(0, "ev/s"));
    section.add("atomic batches", format!("{:.0} ev/s", batched.median), batched.spread(0, "ev/s"));
    let (value, spread) = (format!("{:.1} ×", ratio.median), ratio.spread(1, "×"));
    section.judge("batches ÷ plain", value, spread, "≥ 8 ×", ratio.median >= 8.0);
    Ok(section)
}
