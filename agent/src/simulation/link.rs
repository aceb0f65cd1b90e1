//! A link between device and cloud that loses, delays, doubles, reorders and damages what it carries, and breaks.

use flotilla_protocol::message::{Ack, Chunk, Fetch, Reply, TelemetryBatch};
use rand::Rng;
use rand::rngs::SmallRng;

/// Longest delay of a message.
const LATE_MS: u64 = 20_000;

/// From the device.
#[derive(Clone, Debug)]
pub(super) enum Up {
    Hello,
    Fetch(Fetch),
    Records(TelemetryBatch),
}

/// From the cloud.
#[derive(Clone, Debug)]
pub(super) enum Down {
    Desired(Vec<u8>),
    Chunk(Chunk),
    Refused(Reply),
    Ack(Ack),
}

/// The link.
pub(super) struct Link {
    /// One message in so many is meddled with; 0 for none.
    pub(super) trouble: u32,
    up: bool,
    to_cloud: Vec<(u64, Up)>,
    to_device: Vec<(u64, Down)>,
}

impl Link {
    /// A link that is down.
    pub(super) fn new(trouble: u32) -> Self {
        Self { trouble, up: false, to_cloud: Vec::new(), to_device: Vec::new() }
    }

    /// Whether the device has a connection.
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// A connection is made.
    pub(super) fn connect(&mut self) {
        self.up = true;
    }

    /// The connection is lost with what was on the way to the device. What was on the way to the cloud may have come
    /// into a broker's hands.
    pub(super) fn disconnect(&mut self, rng: &mut SmallRng) {
        self.up = false;
        self.to_device.clear();
        self.to_cloud.retain(|_| rng.random());
    }

    /// The device says something.
    pub(super) fn send_up(&mut self, message: Up, now_ms: u64, rng: &mut SmallRng) {
        if self.up {
            carry(&mut self.to_cloud, message, self.trouble, now_ms, rng);
        }
    }

    /// The cloud says something.
    pub(super) fn send_down(&mut self, mut message: Down, now_ms: u64, rng: &mut SmallRng) {
        if !self.up {
            return;
        }
        if self.trouble > 0 && rng.random_ratio(1, self.trouble) {
            damage(&mut message, rng);
        }
        carry(&mut self.to_device, message, self.trouble, now_ms, rng);
    }

    /// When the next message arrives on either side.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let up = self.to_cloud.iter().map(|(at_ms, _)| *at_ms);
        up.chain(self.to_device.iter().map(|(at_ms, _)| *at_ms)).min()
    }

    /// What arrives at the cloud now.
    pub(super) fn at_cloud(&mut self, now_ms: u64) -> Option<Up> {
        arrived(&mut self.to_cloud, now_ms)
    }

    /// What arrives at the device now.
    pub(super) fn at_device(&mut self, now_ms: u64) -> Option<Down> {
        arrived(&mut self.to_device, now_ms)
    }
}

fn arrived<T>(queue: &mut Vec<(u64, T)>, now_ms: u64) -> Option<T> {
    let at = queue.iter().position(|(at_ms, _)| *at_ms <= now_ms)?;
    Some(queue.remove(at).1)
}

fn carry<T: Clone>(queue: &mut Vec<(u64, T)>, message: T, trouble: u32, now_ms: u64, rng: &mut SmallRng) {
    let mut meddled = || trouble > 0 && rng.random_ratio(1, trouble);
    let (lost, doubled, late) = (meddled(), meddled(), meddled());
    let mut at_ms = now_ms + 10;
    if late {
        at_ms += rng.random_range(0..LATE_MS);
    }
    if doubled {
        queue.push((now_ms + 10 + rng.random_range(0..LATE_MS), message.clone()));
    }
    if !lost {
        queue.push((at_ms, message));
    }
}

/// What no signature or digest protects is protected by TLS.
fn damage(message: &mut Down, rng: &mut SmallRng) {
    match message {
        Down::Desired(bytes) => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        Down::Chunk(chunk) => match rng.random_range(0..4) {
            0 => chunk.offset += 1,
            1 => chunk.total += 1,
            2 => drop(chunk.data.pop()),
            _ => {
                let at = rng.random_range(0..chunk.data.len());
                chunk.data[at] ^= 1 << rng.random_range(0..8);
            }
        },
        Down::Refused(_) | Down::Ack(_) => {}
    }
}
