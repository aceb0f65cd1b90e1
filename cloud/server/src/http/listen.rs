//! The accept loop: plain HTTP for this machine, HTTPS for everybody, on one port.
//!
//! The first byte of a connection tells them apart: a TLS handshake record begins with 22 (RFC 8446, 5.1),
//! which no HTTP method does. Plain connections are accepted from loopback only. Every stage has a deadline,
//! and the number of connections is bounded, so that a silent or slow client costs one slot for a while and
//! nothing else.

use super::service::{Api, Peer};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at a time; more wait in the kernel's backlog.
const CONNECTIONS: usize = 1024;
/// Time for the first byte and the TLS handshake together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the head of a request.
const HEAD: Duration = Duration::from_secs(15);
/// Time that requests get to finish at shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE_RECORD: u8 = 22;

/// Binds `address`.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Accepts connections until `shutdown`, then lets requests in flight finish for a moment.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    api: Api,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give others time to close theirs.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, api, shutdown) = (acceptor.clone(), api.clone(), shutdown.clone());
        tasks.spawn(async move {
            connection(stream, address, acceptor, api, shutdown).await;
            drop(slot);
        });
    }
    tasks.close();
    drop(tokio::time::timeout(GRACE, tasks.wait()).await);
}

async fn connection(
    mut stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    api: Api,
    shutdown: CancellationToken,
) {
    drop(stream.set_nodelay(true));
    let mut first = [0u8; 1];
    match tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await {
        Ok(Ok(1)) => {}
        _ => return,
    }
    if first[0] == TLS_HANDSHAKE_RECORD {
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, Peer { address, tls: true }, api, shutdown).await,
            Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake refused"),
            Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
        }
    } else if address.ip().to_canonical().is_loopback() {
        http(stream, Peer { address, tls: false }, api, shutdown).await;
    } else {
        let refusal = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        drop(stream.write_all(refusal).await);
    }
}

async fn http<S>(stream: S, peer: Peer, api: Api, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        api.call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended early");
    }
}
