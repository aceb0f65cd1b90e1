//! The accept loop: plain HTTP for this machine, HTTPS for everybody, on one port.
//!
//! The first byte of a connection tells them apart: a TLS handshake record begins with 22 (RFC 8446, 5.1),
//! which no HTTP method does. Plain connections are accepted from loopback only. Every stage has a deadline,
//! and the number of connections is bounded, so that a silent or slow client costs one slot for a while and
//! nothing else.

use super::problem::Problem;
use super::service::{Api, Peer};
use flotilla_protocol::ErrorCode;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections served at a time; more wait in the kernel's backlog.
const CONNECTIONS: usize = 1024;
/// Time for the first byte and the TLS handshake together.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the head of a request.
const HEAD: Duration = Duration::from_secs(15);
/// Time without any progress in writing an answer.
const WRITE: Duration = Duration::from_secs(60);
/// Time that requests get to finish at shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// First byte of a TLS handshake record.
const TLS_HANDSHAKE_RECORD: u8 = 22;

/// Binds `address`, and loopback beside it where it leaves loopback out: this machine's own commands and browser
/// speak plain HTTP. Gives the listeners and the address with its real port; on failure, the address that it was.
pub async fn bind(address: SocketAddr) -> Result<(Vec<TcpListener>, SocketAddr), (SocketAddr, io::Error)> {
    let one = async |address: SocketAddr| TcpListener::bind(address).await.map_err(|e| (address, e));
    let first = one(address).await?;
    let bound = first.local_addr().map_err(|e| (address, e))?;
    let mut listeners = vec![first];
    if !bound.ip().is_loopback() && !bound.ip().is_unspecified() {
        listeners.push(one(local(bound)).await?);
    }
    Ok((listeners, bound))
}

/// The address at which this machine itself reaches what [`bind`] bound.
pub fn local(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        ip if ip.is_loopback() => bound,
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, bound.port())),
        _ => SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port())),
    }
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
        let accepted = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
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
        drop(tokio::time::timeout(HEAD, stream.write_all(&plain_refused())).await);
    }
}

/// The answer to plain HTTP from another machine.
fn plain_refused() -> Vec<u8> {
    let problem = Problem::new(ErrorCode::Tls, "plain HTTP is for this machine only: use https://");
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.3\r\nConnection: Upgrade, close\r\n\
         Content-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
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
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE));
    let stream = Box::pin(stream);
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
