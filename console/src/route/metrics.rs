//! `GET /metrics`: Prometheus text, made of the same status that people see. Gauges are set afresh for
//! each scrape; what only grows in the pool is a gauge too, because a rebuild may set it back.

use std::sync::{Arc, atomic::AtomicU64};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::health;
use crate::{
    api::Api,
    extract::Operator,
    problem::Problem,
    view::{InSync, StatusView},
};

type Number = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Log {
    log: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Pool {
    pool: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Owner {
    pool: String,
    source: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SyncEnd {
    pool: String,
    end: &'static str,
}

/// Syncs of a pool that are counted: those that the pool remembers.
const SYNCS_MAX: usize = 1_000;

/// `GET /metrics`
pub(super) async fn metrics(State(api): State<Arc<Api>>, _: Operator) -> Result<Response, Problem> {
    let status = health::gather(&api, |_| true).await?;
    let mut registry = Registry::with_prefix("farside");
    house(&mut registry, &status);
    logs(&mut registry, &status);
    pools(&mut registry, &status);
    owners(&mut registry, &status);
    syncs(&mut registry, &api, &status).await?;
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::internal(format!("metrics cannot be written: {e}")))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

fn house(registry: &mut Registry, status: &StatusView) {
    let mut one = |name: &str, help: &str, value: f64| {
        let gauge = Number::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    one("nats_up", "Whether the connection to NATS stands", f64::from(u8::from(status.nats.up)));
    one(
        "lease_held",
        "Whether this process acts for the target",
        f64::from(u8::from(status.lease.held_here)),
    );
    one("dead_letters", "Messages that could not be taken in", status.dead_letters as f64);
    one("alarms", "Things that need a person", status.alarms.len() as f64);
    one("pool_file_bytes", "Size of the pool's file", status.file_bytes as f64);
    one("pool_live_bytes", "Part of the pool's file that is in use", status.live_bytes as f64);
}

fn logs(registry: &mut Registry, status: &StatusView) {
    let family = Family::<Log, Number>::default();
    for (log, bytes) in &status.dead_letter_bytes {
        family.get_or_create(&Log { log: log.clone() }).set(*bytes as f64);
    }
    registry.register("dead_letter_bytes", "Originals of dead letters that the pool keeps", family);
    let mut each = |name: &str, help: &str, value: fn(&crate::view::LogView) -> Option<f64>| {
        let family = Family::<Log, Number>::default();
        for log in &status.logs {
            if let Some(value) = value(log) {
                family.get_or_create(&Log { log: log.stream.clone() }).set(value);
            }
        }
        registry.register(name, help, family);
    };
    each("log_lag_seconds", "Age of the oldest message that is not in the pool", |log| {
        log.behind_ms.map(|ms| ms as f64 / 1_000.0)
    });
    each("log_behind_events", "Messages that are not in the pool", |log| {
        log.behind_events().map(|events| events as f64)
    });
    each("log_applied_seq", "Last sequence in the pool", |log| Some(log.applied as f64));
    each("log_bytes", "Bytes in the log", |log| log.bytes.map(|bytes| bytes as f64));
    each("log_first_seq", "First sequence in the log", |log| log.first.map(|first| first as f64));
    each("log_full_percent", "How full the log is", |log| log.full_percent.map(|full| full as f64));
}

fn pools(registry: &mut Registry, status: &StatusView) {
    let mut each = |name: &str, help: &str, value: fn(&crate::view::PoolView) -> f64| {
        let family = Family::<Pool, Number>::default();
        for pool in &status.pools {
            family.get_or_create(&Pool { pool: pool.pool.to_string() }).set(value(pool));
        }
        registry.register(name, help, family);
    };
    each("pool_in_sync", "1 = proved equal to the source, 0.5 = nobody can prove it, 0 = not", |pool| {
        match pool.in_sync {
            InSync::Yes => 1.0,
            InSync::Unproven => 0.5,
            InSync::No => 0.0,
        }
    });
    each("pool_lag_seconds", "How long the pool has lacked what it lacks", |pool| {
        pool.behind_ms as f64 / 1_000.0
    });
    each("pool_rows", "Live resources", |pool| pool.resources as f64);
    each("pool_tombstones", "Deleted resources that are remembered", |pool| pool.deleted as f64);
    each("pool_outstanding", "Announced states that have not come", |pool| {
        pool.since_sync.outstanding as f64
    });
    each("pool_changes_since_sync", "Changes since the last sync", |pool| pool.since_sync.changes as f64);
    each("pool_bytes_since_sync", "Bytes of state since the last sync", |pool| pool.since_sync.bytes as f64);
}

fn owners(registry: &mut Registry, status: &StatusView) {
    let mut each = |name: &str, help: &str, value: fn(&crate::view::OwnerView) -> Option<f64>| {
        let family = Family::<Owner, Number>::default();
        for pool in &status.pools {
            for owner in &pool.owners {
                let labels = Owner { pool: pool.pool.to_string(), source: owner.source.clone() };
                if let Some(value) = value(owner) {
                    family.get_or_create(&labels).set(value);
                }
            }
        }
        registry.register(name, help, family);
    };
    each("agent_alive", "Whether the agent lives", |owner| {
        owner.alive.map(|alive| f64::from(u8::from(alive)))
    });
    each(
        "agent_trouble",
        "Whether something keeps the agent from seeing its source, or the source from being synchronised",
        |owner| owner.alive.map(|_| f64::from(u8::from(owner.trouble.is_some()))),
    );
    each("agent_outbox_events", "Events in the agent's outbox at its last heartbeat", |owner| {
        owner.alive.map(|_| owner.outbox_events as f64)
    });
    each(
        "agent_heartbeat_lag_seconds",
        "From the last heartbeat's sending to the log, by two clocks",
        |owner| owner.heartbeat_lag_ms.map(|ms| ms as f64 / 1_000.0),
    );
    each("source_applied_events", "Chained events taken in, each once", |owner| Some(owner.applied as f64));
    each("source_repeated_events", "Events that came again and were dropped", |owner| {
        Some(owner.repeats as f64)
    });
    each("source_refused_events", "Forks and events of retired epochs", |owner| Some(owner.refused as f64));
    each("source_unchained_events", "Events without a place in a chain", |owner| {
        Some(owner.unchained as f64)
    });
}

async fn syncs(registry: &mut Registry, api: &Api, status: &StatusView) -> Result<(), Problem> {
    let names: Vec<_> = status.pools.iter().map(|pool| pool.pool.clone()).collect();
    let counted = api.read(move |reader| {
        let mut counted = vec![];
        for pool in names {
            let syncs = reader.syncs(&pool, SYNCS_MAX)?;
            let completed = syncs.iter().filter(|sync| sync.completed.is_some()).count();
            let failed =
                syncs.iter().filter(|sync| sync.failed.is_some() && sync.completed.is_none()).count();
            counted.push((pool.to_string(), completed, failed, syncs.len() - completed - failed));
        }
        Ok(counted)
    });
    let family = Family::<SyncEnd, Number>::default();
    for (pool, completed, failed, running) in counted.await? {
        for (end, count) in [("completed", completed), ("failed", failed), ("running", running)] {
            family.get_or_create(&SyncEnd { pool: pool.clone(), end }).set(count as f64);
        }
    }
    registry.register("syncs", "Syncs that the pool remembers, by how they ended", family);
    Ok(())
}
