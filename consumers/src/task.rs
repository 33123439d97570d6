//! Work that blocks (redb, hashing, sorting), kept away from the threads that serve everybody.

use crate::error::ConsumersError;

/// Does it on a thread of its own. Errors: those of the work; [`ConsumersError::Task`] when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    task: &'static str,
    work: impl FnOnce() -> Result<T, ConsumersError> + Send + 'static,
) -> Result<T, ConsumersError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|source| ConsumersError::Task { task, source })?
}
