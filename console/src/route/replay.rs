//! The logs replayed up to a moment, into a throw-away pool: what there was, and the pool itself when it is asked for.
//! The same way as every answer with `at`.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

use axum::{extract::State, response::Response};
use bus_schema::PoolId;
use projector::{OwnerStand, Reader, StoreError};
use serde::Deserialize;

use super::{past, place};
use crate::{
    api::Api,
    extract::{Operator, Params},
    ports::PortError,
    problem::Problem,
    view::trail::{ReplayView, ReplayedPoolView, ReplayedSourceView},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// A place or a time.
    to: String,
    stream: Option<String>,
    /// The pool whose lines are wanted.
    export: Option<PoolId>,
}

/// `POST /v1/audit/replay`: JSON lines as it goes on.
pub(super) async fn replay(
    State(api): State<Arc<Api>>,
    _: Operator,
    Params(Wanted { to, stream, export }): Params<Wanted>,
) -> Result<Response, Problem> {
    let (stream, moment) = place::moment(&api, &to, stream)?;
    api.linked()?;
    let permit = past::heavy(&api)?;
    Ok(past::job_with_rows(move |progress, rows| async move {
        let (_permit, start) = (permit, Instant::now());
        let past = api.parts.past.at(&stream, moment, progress).await?;
        let reader = past.reader.clone();
        let told = tokio::task::spawn_blocking(move || {
            if let Some(pool) = &export {
                write(&reader, pool, Rows::new(past::Pieces::new(rows)))?;
            }
            pools(&reader).map_err(unread).and_then(|pools| Ok((pools, reader.as_of().map_err(unread)?)))
        });
        let (pools, as_of) =
            told.await.map_err(|_| PortError::Failed("the reading was cut off; ask again".to_owned()))??;
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(ReplayView { stream, as_of: as_of.into(), took_ms, pools })
    }))
}

fn unread(error: StoreError) -> PortError {
    PortError::Failed(format!("the replayed pool cannot be read: {error}"))
}

fn write(reader: &Reader, pool: &PoolId, mut rows: Rows<past::Pieces>) -> Result<(), PortError> {
    if !reader.has_pool(pool).map_err(unread)? {
        return Err(PortError::Missing(format!("pool {pool} had nothing at that moment; name a later one")));
    }
    reader.export(pool, &mut rows).map_err(unread)?;
    rows.flush().map_err(|error| PortError::Failed(format!("the lines broke off: {error}")))
}

/// The pools as they were, with the hashes that checkpoints sign.
fn pools(reader: &Reader) -> Result<Vec<ReplayedPoolView>, StoreError> {
    let stand = reader.stand(|owners| vec![true; owners.len()])?;
    let pools = reader.pools()?.value.into_iter().map(|summary| {
        let of_pool = stand.owners.iter().filter(|stand| stand.owner.pool == summary.pool);
        ReplayedPoolView {
            pool: summary.pool.clone(),
            resources: summary.resources,
            deleted: summary.deleted,
            sources: of_pool.map(source).collect(),
        }
    });
    Ok(pools.collect())
}

fn source(OwnerStand { owner, rows, rows_sha256 }: &OwnerStand) -> ReplayedSourceView {
    let chain = owner.at.map(|at| format!("{}:{}", at.epoch, at.seq));
    ReplayedSourceView { source: owner.source.clone(), rows: *rows, rows_sha256: *rows_sha256, chain }
}

/// Makes of each line of an export a line of the answer, to the letter.
struct Rows<W> {
    to: W,
    is_within: bool,
}

impl<W: Write> Rows<W> {
    fn new(to: W) -> Self {
        Self { to, is_within: false }
    }
}

impl<W: Write> Write for Rows<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.is_within {
                self.to.write_all(br#"{"row":"#)?;
            }
            let line = part.strip_suffix(b"\n");
            self.to.write_all(line.unwrap_or(part))?;
            if line.is_some() {
                self.to.write_all(b"}\n")?;
            }
            self.is_within = line.is_none();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_an_export_is_a_line_of_the_answer_however_it_is_cut() {
        let mut rows = Rows::new(Vec::new());
        for part in ["{\"a\":1}\n{\"b\"", ":2}", "\n"] {
            rows.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(rows.to, b"{\"row\":{\"a\":1}}\n{\"row\":{\"b\":2}}\n");
    }
}
