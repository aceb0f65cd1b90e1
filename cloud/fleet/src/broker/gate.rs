//! The devices' port: TLS, identity, admission, and the bytes between a device and its session.

use super::config::BrokerConfig;
use super::connect::{self, Refused};
use super::hooks::Shared;
use super::link::Link;
use super::{Authority, Decision, Error, tls};
use crate::ca;
use bytes::BytesMut;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after the system refused to accept a connection, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the end of a session may take to be reported before its connection is given up.
const FAREWELL: Duration = Duration::from_secs(60);
/// How long the last bytes to a device may take once its session is over.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// What the connections of the port share.
pub(super) struct Gate {
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    authority: Arc<dyn Authority>,
    engine: SocketAddr,
    handshake_timeout: Duration,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

/// Opens the devices' port.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => Error::AddressInUse { address, source },
        _ => Error::Bind { address, source },
    })
}

impl Gate {
    pub(super) fn new(
        config: &BrokerConfig,
        authority: Arc<dyn Authority>,
        shared: Arc<Shared>,
        engine: SocketAddr,
    ) -> Result<Self, Error> {
        Ok(Self {
            tls: tls::acceptor(config)?,
            shared,
            authority,
            engine,
            handshake_timeout: config.bounds.handshake_timeout,
            connections: Arc::new(Semaphore::new(config.bounds.connections)),
            handshakes: Arc::new(Semaphore::new(config.bounds.handshakes)),
        })
    }

    /// Accepts connections until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept devices' connections for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let room =
                (self.connections.clone().try_acquire_owned(), self.handshakes.clone().try_acquire_owned());
            let (Ok(connection), Ok(handshake)) = room else {
                tracing::debug!(%remote, "a connection is dropped: too many at a time");
                continue;
            };
            let (gate, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                gate.serve(stream, remote, handshake, stop).await;
                drop(connection);
            });
        }
    }

    async fn serve(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        handshake: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let mut entered = Entered { shared: &self.shared, link: None };
        let admission = tokio::select! {
            () = stop.cancelled() => Ok(Err(Refused::Cut)),
            admission = timeout(self.handshake_timeout, self.admit(stream, remote, &mut entered)) => admission,
        };
        drop(handshake);
        match admission {
            Ok(Ok((device, engine, link))) => carry(device, engine, &link).await,
            Ok(Err(refused @ (Refused::Gone | Refused::Io(_) | Refused::NotMqtt))) => {
                tracing::debug!(%remote, reason = %refused, "a connection came to nothing");
            }
            Ok(Err(refused)) => {
                tracing::info!(%remote, device = entered.name(), reason = %refused, "a device is refused");
            }
            Err(_) => {
                tracing::debug!(%remote, device = entered.name(), "a connection said too little in time")
            }
        }
        entered.leave().await;
    }

    /// From a fresh socket to a session in the engine; a refusal is told to the device where it can understand one.
    async fn admit(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        entered: &mut Entered<'_>,
    ) -> Result<(TlsStream<TcpStream>, TcpStream, Arc<Link>), Refused> {
        stream.set_nodelay(true)?;
        let mut device = self.tls.accept(stream).await?;
        match self.session(&mut device, remote, entered).await {
            Ok((engine, link)) => Ok((device, engine, link)),
            Err(refused) => {
                if let Some(answer) = refused.answer() {
                    device.write_all(&answer).await?;
                    device.shutdown().await?;
                }
                Err(refused)
            }
        }
    }

    async fn session(
        &self,
        device: &mut TlsStream<TcpStream>,
        remote: SocketAddr,
        entered: &mut Entered<'_>,
    ) -> Result<(TcpStream, Arc<Link>), Refused> {
        let shown = device.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = ca::device_identity(shown.map_or(&[][..], |shown| shown)).map_err(Refused::Certificate)?;
        let mut early = BytesMut::new();
        let connect = connect::read(device, &mut early).await?;
        connect::check(&connect, &peer)?;
        let link = self.shared.registry.enter(peer, remote).ok_or(Refused::TooMany)?;
        entered.link = Some(link.clone());
        if let Decision::Refuse(refusal) = self.authority.connect(link.peer()).await {
            return Err(Refused::Authority(refusal));
        }
        if !self.shared.registry.admit(&link) {
            return Err(Refused::Cut);
        }
        let mut engine = TcpStream::connect(self.engine).await?;
        engine.set_nodelay(true)?;
        engine.write_all(&connect::rewrite(connect, &link)?).await?;
        let mut answer = [0; 4];
        engine.read_exact(&mut answer).await?;
        if answer != [0x20, 2, 0, 0] {
            return Err(Refused::Engine);
        }
        device.write_all(&answer).await?;
        engine.write_all(&early).await?;
        Ok((engine, link))
    }
}

/// Carries bytes between the device and its session until the session ends or the link is cut.
async fn carry(device: TlsStream<TcpStream>, mut engine: TcpStream, link: &Link) {
    let (mut from_device, mut to_device) = tokio::io::split(device);
    let (mut from_engine, mut to_engine) = engine.split();
    let up = async {
        // However the device's side ends, the session reads what it sent before it learns of the end.
        let _ended = tokio::io::copy(&mut from_device, &mut to_engine).await;
        let _closed = to_engine.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        if tokio::io::copy(&mut from_engine, &mut to_device).await.is_err() {
            // The device is gone, but unread bytes would reset the socket and take its last messages with them.
            let _drained = tokio::io::copy(&mut from_engine, &mut tokio::io::sink()).await;
        }
        let _closed = to_device.shutdown().await;
    };
    let over = async {
        link.finished.cancelled().await;
        tokio::time::sleep(LAST_BYTES).await;
    };
    tokio::select! {
        () = link.cut.cancelled() => {}
        () = over => {}
        () = down => {}
        () = up => {}
    }
}

/// A connection's place in the registry, given up when the connection has ended in every respect.
struct Entered<'a> {
    shared: &'a Shared,
    link: Option<Arc<Link>>,
}

impl Entered<'_> {
    fn name(&self) -> Option<String> {
        self.link.as_ref().map(|link| link.peer().to_string())
    }

    /// Waits until the end of a live session has been reported.
    async fn leave(self) {
        let Some(link) = &self.link else { return };
        if link.close() && timeout(FAREWELL, link.finished.cancelled()).await.is_err() {
            tracing::error!(device = %link.peer(), connection = link.number(), "the engine did not report a session's end");
            self.shared.ended(link).await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.close();
            self.shared.registry.leave(link);
        }
    }
}
