//! The bytes between a device and its session. A connection that rests holds no buffers beside those of TLS.

use super::event::Inbound;
use super::link::Link;
use super::packet;
use super::session::{Effect, Event, Reason, Session};
use crate::text::bounded;
use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::time::{sleep_until, timeout};
use tokio_rustls::server::TlsStream;

/// Bytes read at once, by way of the stack.
const READ: usize = 8 * 1024;
/// Messages are put into the output while it is smaller than this …
const BATCH: usize = 16 * 1024;
/// … and packets of the device, which are answered, are taken while it is smaller than this.
const OUTPUT: usize = 64 * 1024;
/// How long the last bytes to a device may take once its session is over.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// Characters of a topic that go to the log.
const TOPIC: usize = 200;

/// A device's socket with what has been read and not understood yet, and what is to be written.
pub(super) struct Wire {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
    output: BytesMut,
    /// Bytes may still stand in the buffers of TLS.
    unflushed: bool,
    /// The device takes nothing any more; what it has sent is read all the same.
    broken: bool,
    /// The device sends nothing any more.
    ended: bool,
}

/// What the socket did.
enum Progress {
    Read,
    Wrote { all: bool },
}

impl Wire {
    /// `input` is what was read already.
    pub(super) fn new(stream: TlsStream<TcpStream>, input: BytesMut) -> Self {
        Self { stream, input, output: BytesMut::new(), unflushed: false, broken: false, ended: false }
    }

    /// Writes what there is to write; if that must wait, or there is nothing, reads.
    fn poll(&mut self, context: &mut Context<'_>, read: bool) -> Poll<Progress> {
        if let Poll::Ready(wrote) = self.poll_write(context) {
            return Poll::Ready(wrote);
        }
        if read && !self.ended { self.poll_read(context).map(|()| Progress::Read) } else { Poll::Pending }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        let stream = Pin::new(&mut self.stream);
        let written = if !self.output.is_empty() {
            stream.poll_write(context, &self.output)
        } else if self.unflushed {
            stream.poll_flush(context).map_ok(|()| 0)
        } else {
            return Poll::Pending;
        };
        match written {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(bytes)) => {
                self.unflushed = !self.output.is_empty();
                self.output.advance(bytes);
            }
            Poll::Ready(Err(_)) => self.broken = true,
        }
        if self.broken {
            self.output.clear();
            self.unflushed = false;
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
        Poll::Ready(Progress::Wrote { all: self.output.is_empty() && !self.unflushed })
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut space = [const { MaybeUninit::uninit() }; READ];
        let mut space = ReadBuf::uninit(&mut space);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut space);
        read.map(|read| match read {
            Ok(()) if !space.filled().is_empty() => self.input.extend_from_slice(space.filled()),
            _ => self.ended = true,
        })
    }

    /// The next packet, if it has come as a whole.
    fn packet(&mut self) -> Option<Event> {
        let event = match packet::read(&mut self.input) {
            Ok(packet) => packet.map(Event::Packet),
            Err(malformed) => Some(Event::Malformed(malformed)),
        };
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        event
    }

    /// Gives the device a moment to take what has been said.
    async fn close(mut self) {
        let last = async {
            self.stream.write_all(&self.output).await?;
            self.stream.shutdown().await
        };
        // It has gone before us, or is too slow: both are no news.
        let _ = timeout(LAST_BYTES, last).await;
    }
}

/// One conversation.
struct Talk<'a> {
    wire: Wire,
    session: Session,
    link: &'a Link,
    inbound: &'a mpsc::Sender<Inbound>,
    /// A message for which the channel has no room, and the wait for it.
    handing: Option<(Inbound, Room)>,
    reason: Option<Reason>,
}

type Room = Pin<Box<dyn Future<Output = Result<mpsc::OwnedPermit<Inbound>, SendError<()>>> + Send>>;

/// Carries packets between the device and its session until the session ends, the device goes or the link is cut.
/// Answers the device's will, if it is due.
pub(super) async fn carry(
    wire: Wire,
    session: Session,
    link: &Link,
    inbound: &mpsc::Sender<Inbound>,
) -> Option<Bytes> {
    let mut talk = Talk { wire, session, link, inbound, handing: None, reason: None };
    let cut = talk.run().await;
    let Talk { wire, session, reason, .. } = talk;
    if let Some(reason) = reason {
        said(link, &reason);
    }
    if !cut && !wire.broken {
        tokio::select! {
            () = link.cut.cancelled() => {}
            () = wire.close() => {}
        }
    }
    session.into_will()
}

impl Talk<'_> {
    /// Answers whether the link was cut.
    async fn run(&mut self) -> bool {
        let link = self.link;
        let mut cut = pin!(link.cut.cancelled());
        let mut clock = pin!(sleep_until(self.session.due().unwrap_or_else(Instant::now).into()));
        loop {
            self.understand();
            let ended = self.wire.ended && self.handing.is_none() && self.wire.output.len() < OUTPUT;
            if self.reason.is_some() || ended {
                return false;
            }
            let due = self.session.due();
            if let Some(due) = due.map(tokio::time::Instant::from)
                && (clock.is_elapsed() || due < clock.deadline())
            {
                clock.as_mut().reset(due);
            }
            let listens = self.session.listens() && self.wire.output.len() < OUTPUT;
            let (wire, handing) = (&mut self.wire, &mut self.handing);
            let event = tokio::select! {
                biased;
                () = &mut cut => return true,
                () = link.arrival.notified() => {
                    for (channel, payload) in link.mail() {
                        self.step(Event::Deliver(channel, payload));
                    }
                    continue;
                }
                room = room(handing) => {
                    let Some((message, _)) = self.handing.take() else { continue };
                    match room {
                        Ok(room) => drop(room.send(message)),
                        // Nobody receives any more: the broker is being stopped.
                        Err(_) => return true,
                    }
                    Event::HandedOver
                }
                progress = poll_fn(|context| wire.poll(context, listens)) => match progress {
                    Progress::Read => Event::Heard,
                    Progress::Wrote { all } => Event::Wrote { all },
                },
                () = &mut clock, if due.is_some() => Event::Time,
            };
            self.step(event);
        }
    }

    /// Takes the packets that have come, and the messages for which there is room now.
    fn understand(&mut self) {
        while self.session.listens() && self.wire.output.len() < OUTPUT {
            let Some(event) = self.wire.packet() else { break };
            self.step(event);
        }
        while self.session.has_news() && self.wire.output.len() < BATCH && !self.wire.broken {
            self.step(Event::Room);
        }
    }

    fn step(&mut self, event: Event) {
        for effect in self.session.step(event, Instant::now()) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Send(_) if self.wire.broken => {}
            Effect::Send(sent) => {
                if let Err(malformed) = sent.write(&mut self.wire.output) {
                    tracing::error!(device = %self.link.peer(), %malformed, "a packet cannot be written");
                    self.reason = Some(Reason::Protocol(malformed));
                }
            }
            Effect::HandOver(channel, payload) => self.hand_over(Inbound::Message {
                peer: self.link.peer().clone(),
                connection: self.link.number(),
                channel,
                payload,
            }),
            Effect::Subscribed(channel) => self.link.subscribed(channel),
            Effect::Unsubscribed(channel) => self.link.unsubscribed(channel),
            Effect::Refused { filter, denied } => {
                let filter = bounded(&filter, TOPIC);
                tracing::warn!(device = %self.link.peer(), filter, %denied, "a device's subscription is refused");
            }
            Effect::GiveBack(bytes) => self.link.budget.give_back(bytes),
            Effect::Close(reason) => self.reason = Some(reason),
        }
    }

    fn hand_over(&mut self, message: Inbound) {
        match self.inbound.try_send(message) {
            Ok(()) => self.step(Event::HandedOver),
            // One that has closed says so when its room is waited for.
            Err(TrySendError::Full(message) | TrySendError::Closed(message)) => {
                self.handing = Some((message, Box::pin(self.inbound.clone().reserve_owned())));
            }
        }
    }
}

/// Waits for room in the channel, if somebody wants it.
async fn room(handing: &mut Option<(Inbound, Room)>) -> Result<mpsc::OwnedPermit<Inbound>, SendError<()>> {
    match handing {
        Some((_, room)) => room.await,
        None => std::future::pending().await,
    }
}

/// Puts the end of a session into the log, where it is worth it.
fn said(link: &Link, reason: &Reason) {
    let device = link.peer();
    match reason {
        Reason::Denied { topic, denied } => {
            let topic = bounded(topic, TOPIC);
            tracing::warn!(%device, topic, %denied, "a device's message is refused; its connection ends");
        }
        Reason::Unacknowledged | Reason::Stuck => {
            tracing::warn!(%device, %reason, "a device that takes nothing is cut off");
        }
        Reason::Protocol(_) | Reason::Refusals => {
            tracing::warn!(%device, %reason, "a device is cut off");
        }
        Reason::Goodbye | Reason::Silent => tracing::debug!(%device, %reason, "a device's session ends"),
    }
}
