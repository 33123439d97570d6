//! Pools as they were, exports, and the rebuild: the answers that take long.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use bus_schema::PoolId;
use futures_util::{Stream, stream};
use projector::Reader;
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

use super::pool::whole_pool_only;
use crate::{
    api::Api,
    extract::{Operator, Params, PoolPath, known},
    ports::{JobProgress, Moment, Past, PortError, RebuildSwap},
    problem::Problem,
    view::JobLine,
};

/// Bytes of one piece of an export: large enough to cost few wake-ups, small enough to flow.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces of an export that wait for a slow client.
const PIECES_MAX: usize = 8;
/// How long a client may take for one piece: 2 KB a second are slower than any line that replicates a site.
const PIECE_WAIT: Duration = Duration::from_secs(30);
/// Reports of progress that wait for a slow client; more are dropped by the rebuilder.
const PROGRESS_MAX: usize = 16;

/// A pool now or then.
pub(super) struct Then {
    pub(super) reader: Reader,
    _keep: Option<(Past, OwnedSemaphorePermit)>,
}

/// The pool of a moment: now without one, else a replay. Errors: 404 when the pool is not there, or had
/// nothing by then.
pub(super) async fn reader_at(api: &Arc<Api>, pool: &PoolId, at: Option<&str>) -> Result<Then, Problem> {
    known(&api.reader(), pool)?;
    let Some(at) = at else { return Ok(Then { reader: api.reader(), _keep: None }) };
    let stream = api.stream_of(pool)?;
    let moment = Moment::read(at, &stream).map_err(Problem::bad_request)?;
    api.linked()?;
    let permit = heavy(api)?;
    // Nobody hears how far it is.
    let (unheard, _) = mpsc::channel(1);
    let past = api.parts.past.at(&stream, moment, unheard).await?;
    if !past.reader.has_pool(pool)? {
        return Err(Problem::not_found(format!("pool {pool} had nothing at that moment; name a later one")));
    }
    Ok(Then { reader: past.reader.clone(), _keep: Some((past, permit)) })
}

pub(super) fn heavy(api: &Api) -> Result<OwnedSemaphorePermit, Problem> {
    api.heavy.clone().try_acquire_owned().map_err(|_| {
        Problem::throttled(5, "other replays and exports are running; ask again when they have ended")
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtMoment {
    at: Option<String>,
}

/// `GET /v1/pools/{site}/{cluster}/export`: RFC 8785 JSON lines, sorted by key.
pub(super) async fn export(
    State(api): State<Arc<Api>>,
    path: PoolPath,
    Params(moment): Params<AtMoment>,
) -> Result<Response, Problem> {
    whole_pool_only(&path)?;
    let then = reader_at(&api, &path.pool, moment.at.as_deref()).await?;
    let permit = if moment.at.is_none() { Some(heavy(&api)?) } else { None };
    let as_of = then.reader.as_of()?;
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut to = Pieces::new(pieces);
        let done = then.reader.export(&path.pool, &mut to).map_err(|e| io::Error::other(e.to_string()));
        if let Err(error) = done.and_then(|_| to.end()) {
            tracing::warn!(pool = %path.pool, %error, "an export broke off");
        }
    });
    let body = Body::from_stream(pieces_of(received));
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::HeaderName::from_static("farside-as-of"), as_of.to_string()),
    ];
    Ok((headers, body).into_response())
}

/// What an export consists of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// There are no more.
    End,
}

/// The body of an export. One that ends without [`Piece::End`] breaks off for the client too, which no
/// reader takes for a whole export.
fn pieces_of(received: mpsc::Receiver<Piece>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(received), |received| async move {
        let mut received = received?;
        match received.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(received))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the export broke off")), None)),
        }
    })
}

/// Cuts an export into pieces for the client; used on a thread that may wait.
pub(super) struct Pieces {
    pieces: mpsc::Sender<Piece>,
    buffer: Vec<u8>,
    wait: Duration,
}

impl Pieces {
    pub(super) fn new(pieces: mpsc::Sender<Piece>) -> Self {
        Self { pieces, buffer: Vec::with_capacity(PIECE_BYTES), wait: PIECE_WAIT }
    }

    fn send(&self, piece: Piece) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the client takes it too slowly");
        // An export holds a read transaction and one of few places, which are not the client's to keep.
        let sent = Handle::current().block_on(timeout(self.wait, self.pieces.send(piece)));
        sent.map_err(slow)?.map_err(gone)
    }

    fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Piece::End)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.send(Piece::Bytes(piece.into()))
    }
}

/// What a rebuild is asked for.
#[derive(Deserialize)]
pub(super) struct RebuildQuery {
    #[serde(default)]
    swap: RebuildSwap,
}

/// `POST /v1/rebuild`: JSON lines as it goes on.
pub(super) async fn rebuild(
    State(api): State<Arc<Api>>,
    operator: Operator,
    Params(RebuildQuery { swap }): Params<RebuildQuery>,
) -> Response {
    tracing::info!(actor = %operator.actor, "a rebuild of the pool was asked for");
    job(move |progress| async move { api.parts.rebuilder.rebuild(progress, swap).await })
}

/// The answer of what takes long: JSON lines as it goes on. It goes on when the client goes away.
pub(super) fn job<T, F>(work: impl FnOnce(mpsc::Sender<JobProgress>) -> F + Send + 'static) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, PortError>> + Send,
{
    job_with_rows(move |progress, _| work(progress))
}

/// The same of what has lines of its own, too, each a whole [`JobLine::Row`], before its report.
pub(super) fn job_with_rows<T, F>(
    work: impl FnOnce(mpsc::Sender<JobProgress>, mpsc::Sender<Piece>) -> F + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
    F: Future<Output = Result<T, PortError>> + Send,
{
    let (lines, received) = mpsc::channel(PROGRESS_MAX);
    tokio::spawn(async move {
        let (progress, mut told) = mpsc::channel(PROGRESS_MAX);
        let tell = lines.clone();
        let telling = tokio::spawn(async move {
            while let Some(progress) = told.recv().await {
                let _ = tell.send(line(&JobLine::<T>::Progress(progress))).await;
            }
        });
        let last = match work(progress, lines.clone()).await {
            Ok(report) => JobLine::Report(report),
            Err(error) => JobLine::Failed(error.to_string()),
        };
        let _ = telling.await;
        let _ = lines.send(line(&last)).await;
        let _ = lines.send(Piece::End).await;
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(pieces_of(received))).into_response()
}

fn line<T: Serialize>(line: &JobLine<T>) -> Piece {
    let text = serde_json::to_string(line).unwrap_or_else(|error| {
        // Strings and numbers always have a text; a report that has none is a defect of its type.
        format!(
            r#"{{"failed":{}}}"#,
            serde_json::Value::from(format!("the report cannot be written: {error}"))
        )
    });
    Piece::Bytes((text + "\n").into())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn an_export_that_its_client_does_not_take_breaks_off() {
        let (pieces, received) = mpsc::channel(1);
        let wait = Duration::from_millis(50);
        let mut to = Pieces { pieces, buffer: vec![], wait };
        let exporting = tokio::task::spawn_blocking(move || io::copy(&mut io::repeat(7), &mut to));
        let error = exporting.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let taken: Vec<_> = pieces_of(received).collect().await;
        assert!(taken[0].is_ok() && taken[1].is_err(), "what is taken late does not look whole: {taken:?}");
    }

    #[tokio::test]
    async fn an_export_that_was_taken_ends() {
        let (pieces, received) = mpsc::channel(8);
        let mut to = Pieces::new(pieces);
        tokio::task::spawn_blocking(move || to.write_all(b"line\n").and_then(|()| to.end()));
        let taken: Vec<_> = pieces_of(received).map(Result::unwrap).collect().await;
        assert_eq!(taken, ["line\n"]);
    }
}
