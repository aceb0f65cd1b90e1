//! One connection of one device, from its certificate to its end, as those see it who are not its task.

use super::budget::Budget;
use super::{Bounds, PeerIdentity};
use bytes::Bytes;
use flotilla_protocol::topic::Down;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// How far a connection has come. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// TLS is done; the authority has not answered.
    Entered,
    /// The authority said yes.
    Admitted,
    /// `Connected` is reported; there is a session.
    Live,
    /// The socket is closed.
    Over,
}

struct State {
    stage: Stage,
    /// Messages that the session has not taken yet.
    mail: Vec<(Down, Bytes)>,
}

/// A connection. Shared by its task, the registry and the publisher.
pub(super) struct Link {
    number: u64,
    peer: Arc<PeerIdentity>,
    remote: SocketAddr,
    state: Mutex<State>,
    subscriptions: AtomicU8,
    /// Told when there is mail.
    pub(super) arrival: Notify,
    /// Room for messages to the device.
    pub(super) budget: Budget,
    /// Cancelled to end the connection now.
    pub(super) cut: CancellationToken,
}

impl Link {
    pub(super) fn new(
        number: u64,
        peer: PeerIdentity,
        remote: SocketAddr,
        bounds: &Bounds,
        all: Arc<Semaphore>,
        cut: CancellationToken,
    ) -> Self {
        Self {
            number,
            remote,
            peer: Arc::new(peer),
            state: Mutex::new(State { stage: Stage::Entered, mail: vec![] }),
            subscriptions: AtomicU8::new(0),
            arrival: Notify::new(),
            budget: Budget::new(bounds.queued_bytes_per_device, all),
            cut,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, from: Stage, to: Stage) -> bool {
        let mut state = self.state();
        let moves = state.stage == from && !self.cut.is_cancelled();
        if moves {
            state.stage = to;
        }
        moves
    }

    /// The authority said yes. False if the link was cut meanwhile.
    pub(super) fn admit(&self) -> bool {
        self.advance(Stage::Entered, Stage::Admitted)
    }

    /// The device is in. False if the link was cut meanwhile; if true, its end will have to be reported.
    pub(super) fn go_live(&self) -> bool {
        self.advance(Stage::Admitted, Stage::Live)
    }

    /// Is the device reachable through this link?
    pub(super) fn is_live(&self) -> bool {
        self.state().stage == Stage::Live && !self.cut.is_cancelled()
    }

    /// Has the authority said yes, and is the socket open?
    pub(super) fn is_admitted(&self) -> bool {
        matches!(self.state().stage, Stage::Admitted | Stage::Live)
    }

    /// The socket is closed, and what was on its way is lost. Answers, once, whether the end is to be reported.
    pub(super) fn close(&self) -> bool {
        let was = {
            let mut state = self.state();
            state.mail = vec![];
            std::mem::replace(&mut state.stage, Stage::Over)
        };
        self.cut.cancel();
        self.budget.close();
        was == Stage::Live
    }

    /// Puts a message into the session's mail. False if there is no session any more.
    pub(super) fn deliver(&self, channel: Down, payload: Bytes) -> bool {
        {
            let mut state = self.state();
            if state.stage != Stage::Live || self.cut.is_cancelled() {
                return false;
            }
            state.mail.push((channel, payload));
        }
        self.arrival.notify_one();
        true
    }

    /// The mail so far.
    pub(super) fn mail(&self) -> Vec<(Down, Bytes)> {
        std::mem::take(&mut self.state().mail)
    }

    fn bit(channel: Down) -> u8 {
        Down::ALL.iter().position(|other| *other == channel).map_or(0, |at| 1 << at)
    }

    pub(super) fn subscribed(&self, channel: Down) {
        self.subscriptions.fetch_or(Self::bit(channel), Ordering::AcqRel);
    }

    pub(super) fn unsubscribed(&self, channel: Down) {
        self.subscriptions.fetch_and(!Self::bit(channel), Ordering::AcqRel);
    }

    pub(super) fn is_subscribed(&self, channel: Down) -> bool {
        self.subscriptions.load(Ordering::Acquire) & Self::bit(channel) != 0
    }
}
