//! The accept loop: a bounded number of connections, each with its time bounds, and an orderly end.

use super::answer::Api;
use super::listen::{Listener, Stream};
use super::{CONNECTIONS, GRACE, HEADER_TIME, HEADERS, Status};
use crate::host::ModelHost;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// After an accept error (most often: no file descriptors left) the next try would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `host` until `shutdown`; then requests in progress have [`GRACE`] to end. The returned task ends
/// when the last connection is closed.
pub fn serve(
    listener: Listener,
    host: Arc<ModelHost>,
    status: Status,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(accept(listener, Arc::new(Api::new(host, status)), shutdown))
}

async fn accept(listener: Listener, api: Arc<Api>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(next) = shutdown.run_until_cancelled(next(&listener, &places)).await {
        while connections.try_join_next().is_some() {}
        let Some((stream, place)) = next else { continue };
        let (api, shutdown) = (Arc::clone(&api), shutdown.clone());
        connections.spawn(async move {
            connection(stream, api, shutdown).await;
            drop(place);
        });
    }
    drop(listener);
    let all_closed = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all_closed).await.is_err() {
        tracing::warn!(connections = connections.len(), "local endpoint: requests were cut off at shutdown");
    }
}

/// The next connection and its place; none after a failure of the system.
async fn next(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> Option<(Stream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok(stream) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "local endpoint: a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(stream: Stream, api: Arc<Api>, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "local endpoint: a connection ended early");
    }
}
