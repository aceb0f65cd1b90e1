//! One connection of one device, from its certificate to its end.

use super::acl::Denied;
use super::budget::Budget;
use super::config::REFUSALS;
use super::rate::Bucket;
use super::{Bounds, PeerIdentity};
use flotilla_protocol::Digest;
use flotilla_protocol::topic::Down;
use rmqtt::types::ClientId;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How far a connection has come. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// TLS is done; the authority has not answered.
    Entered,
    /// The authority said yes; the engine has not been asked.
    Admitted,
    /// The engine has used the password.
    Authenticated,
    /// `Connected` has been, or is being, reported.
    Live,
    /// The socket is closed.
    Over,
}

/// A connection. Shared by the gate, the engine's hooks and the publisher.
pub(super) struct Link {
    number: u64,
    peer: Arc<PeerIdentity>,
    remote: SocketAddr,
    session: ClientId,
    password: Zeroizing<String>,
    stage: Mutex<Stage>,
    rates: Mutex<(Bucket, Bucket)>,
    subscriptions: AtomicU8,
    refusals: AtomicU32,
    end_owed: AtomicBool,
    /// Room for messages to the device.
    pub(super) budget: Budget,
    /// Cancelled to end the connection now.
    pub(super) cut: CancellationToken,
    /// Cancelled by the engine when a live session is over and everything of it has been reported.
    pub(super) finished: CancellationToken,
}

impl Link {
    pub(super) fn new(
        number: u64,
        peer: PeerIdentity,
        remote: SocketAddr,
        password: Zeroizing<String>,
        bounds: &Bounds,
        all: Arc<Semaphore>,
        cut: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let messages = Bucket::new(bounds.messages_per_second, bounds.messages_burst, now);
        let bytes = Bucket::new(bounds.bytes_per_second, bounds.bytes_burst, now);
        Self {
            number,
            remote,
            // Unique per connection, so that the engine never has two sessions to reconcile.
            session: ClientId::from(format!("{peer}/{number}")),
            peer: Arc::new(peer),
            password,
            stage: Mutex::new(Stage::Entered),
            rates: Mutex::new((messages, bytes)),
            subscriptions: AtomicU8::new(0),
            refusals: AtomicU32::new(0),
            end_owed: AtomicBool::new(false),
            budget: Budget::new(bounds.queued_bytes_per_device, all, now),
            cut,
            finished: CancellationToken::new(),
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

    /// The name of the session inside the engine.
    pub(super) fn session(&self) -> &ClientId {
        &self.session
    }

    /// The password by which the engine knows that a loopback connection is the gate's.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, from: Stage, to: Stage) -> bool {
        let mut stage = self.stage();
        let moves = *stage == from && !self.cut.is_cancelled();
        if moves {
            *stage = to;
        }
        moves
    }

    /// The authority said yes. False if the link was cut meanwhile.
    pub(super) fn admit(&self) -> bool {
        self.advance(Stage::Entered, Stage::Admitted)
    }

    /// The engine shows a password. Right once, for an admitted link; digests are compared, so timing tells nothing.
    pub(super) fn authenticate(&self, password: &[u8]) -> bool {
        Digest::of(password) == Digest::of(self.password.as_bytes())
            && self.advance(Stage::Admitted, Stage::Authenticated)
    }

    /// The engine has a session.
    pub(super) fn go_live(&self) -> bool {
        let live = self.advance(Stage::Authenticated, Stage::Live);
        self.end_owed.fetch_or(live, Ordering::AcqRel);
        live
    }

    /// Is the end of a live session still to be reported? True once.
    pub(super) fn owes_end(&self) -> bool {
        self.end_owed.swap(false, Ordering::AcqRel)
    }

    /// Is the device reachable through this link?
    pub(super) fn is_live(&self) -> bool {
        *self.stage() == Stage::Live && !self.cut.is_cancelled()
    }

    /// Has the authority said yes, and is the socket open?
    pub(super) fn is_admitted(&self) -> bool {
        !matches!(*self.stage(), Stage::Entered | Stage::Over)
    }

    /// The socket is closed. Answers whether the session was live, so that its end is still to be reported.
    pub(super) fn close(&self) -> bool {
        let was = std::mem::replace(&mut *self.stage(), Stage::Over);
        self.cut.cancel();
        self.budget.close();
        was == Stage::Live
    }

    /// Counts a message from the device against its rate bounds.
    pub(super) fn received(&self, bytes: usize, now: Instant) -> Result<(), Denied> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = rates.0.take(1.0, now) && rates.1.take(bytes as f64, now);
        if fits { Ok(()) } else { Err(Denied::Rate) }
    }

    /// Counts a refused subscription; too many end the connection.
    pub(super) fn refused(&self) {
        if self.refusals.fetch_add(1, Ordering::AcqRel) >= REFUSALS {
            self.cut.cancel();
        }
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
