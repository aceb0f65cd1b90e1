//! The devices' port: TLS, identity and admission, and the one task of each connection.

use super::config::BrokerConfig;
use super::connect::{self, Refused};
use super::link::Link;
use super::packet::{ConnectReturnCode, Sent};
use super::registry::Registry;
use super::session::Session;
use super::wire::{self, Wire};
use super::{Authority, Bounds, Decision, Error, Inbound, tls};
use crate::ca;
use bytes::{Bytes, BytesMut};
use flotilla_protocol::topic::Up;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after the system refused to accept a connection, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the connections of the port share.
pub(super) struct Gate {
    tls: TlsAcceptor,
    registry: Arc<Registry>,
    authority: Arc<dyn Authority>,
    inbound: mpsc::Sender<Inbound>,
    bounds: Bounds,
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
        registry: Arc<Registry>,
        inbound: mpsc::Sender<Inbound>,
    ) -> Result<Self, Error> {
        Ok(Self {
            tls: tls::acceptor(config)?,
            registry,
            authority,
            inbound,
            connections: Arc::new(Semaphore::new(config.bounds.connections)),
            handshakes: Arc::new(Semaphore::new(config.bounds.handshakes)),
            bounds: config.bounds.clone(),
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

    /// Hands over an event; waits for room. If nobody receives any more, nobody misses it.
    async fn report(&self, event: Inbound) {
        let _ = self.inbound.send(event).await;
    }

    async fn serve(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        handshake: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let mut entered = Entered { gate: self, link: None };
        // In a box of its own: a connection lasts, and its handshake needs more room than all that follows.
        let admission = tokio::select! {
            () = stop.cancelled() => Ok(Err(Refused::Cut)),
            admission = timeout(self.bounds.handshake_timeout, Box::pin(self.admit(stream, remote, &mut entered))) => {
                admission
            }
        };
        drop(handshake);
        let mut will = None;
        match admission {
            Ok(Ok((wire, session, link))) => will = wire::carry(wire, session, &link, &self.inbound).await,
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
        entered.leave(will).await;
    }

    /// From a fresh socket to a session; a refusal is told to the device where it can understand one.
    async fn admit(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        entered: &mut Entered<'_>,
    ) -> Result<(Wire, Session, Arc<Link>), Refused> {
        stream.set_nodelay(true)?;
        let mut device = self.tls.accept(stream).await?;
        let mut early = BytesMut::new();
        let admitted = self.session(&mut device, &mut early, remote, entered).await;
        let code = match &admitted {
            Ok(_) => ConnectReturnCode::Success,
            Err(refused) => match refused.answer() {
                Some(code) => code,
                None => return admitted.map(|(session, link)| (Wire::new(device, early), session, link)),
            },
        };
        let mut answer = BytesMut::new();
        Sent::ConnAck(code).write(&mut answer)?;
        device.write_all(&answer).await?;
        device.flush().await?;
        if admitted.is_err() {
            device.shutdown().await?;
        }
        admitted.map(|(session, link)| (Wire::new(device, early), session, link))
    }

    async fn session(
        &self,
        device: &mut TlsStream<TcpStream>,
        early: &mut BytesMut,
        remote: SocketAddr,
        entered: &mut Entered<'_>,
    ) -> Result<(Session, Arc<Link>), Refused> {
        let shown = device.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = ca::device_identity(shown.map_or(&[][..], |shown| shown)).map_err(Refused::Certificate)?;
        let connect = connect::read(device, early).await?;
        connect::check(&connect, &peer)?;
        let link = self.registry.enter(peer, remote).ok_or(Refused::TooMany)?;
        entered.link = Some(link.clone());
        if let Decision::Refuse(refusal) = self.authority.connect(link.peer()).await {
            return Err(Refused::Authority(refusal));
        }
        if !self.registry.admit(&link) {
            return Err(Refused::Cut);
        }
        let room = self.inbound.reserve().await.map_err(|_| Refused::Cut)?;
        if !link.go_live() {
            return Err(Refused::Cut);
        }
        let (peer, connection) = (link.peer().clone(), link.number());
        room.send(Inbound::Connected { peer, connection, remote: link.remote() });
        let will = connect.last_will.map(|will| will.message);
        let session =
            Session::new(link.peer().clone(), &self.bounds, connect.keep_alive, will, Instant::now());
        Ok((session, link))
    }
}

/// A connection's place in the registry, given up when the connection has ended in every respect.
struct Entered<'a> {
    gate: &'a Gate,
    link: Option<Arc<Link>>,
}

impl Entered<'_> {
    fn name(&self) -> Option<String> {
        self.link.as_ref().map(|link| link.peer().to_string())
    }

    /// Reports what is still to be reported: the device's will, then the end of a connection whose begin was reported.
    async fn leave(self, will: Option<Bytes>) {
        let Some(link) = self.link.as_ref().filter(|link| link.close()) else { return };
        let (peer, connection) = (link.peer(), link.number());
        if let Some(payload) = will {
            let message = Inbound::Message { peer: peer.clone(), connection, channel: Up::Event, payload };
            self.gate.report(message).await;
        }
        self.gate.report(Inbound::Disconnected { peer: peer.clone(), connection }).await;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.close();
            self.gate.registry.leave(link);
        }
    }
}
