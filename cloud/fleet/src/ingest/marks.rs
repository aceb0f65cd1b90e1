//! Which records of a device are durable already.

use flotilla_protocol::message::{Epoch, Record, SeqRange, Stream, TelemetryBatch};
use serde::{Deserialize, Serialize};

/// Outbox epochs of one device that are remembered: a new one begins when an outbox was thrown away.
const EPOCHS: usize = 4;

/// The last durable number of each stream, for the latest epochs of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Marks(Vec<EpochMarks>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EpochMarks {
    epoch: Epoch,
    event: u64,
    live: u64,
    backlog: u64,
}

/// What a batch brings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    /// The records that were not durable yet.
    pub(crate) records: Vec<Record>,
    /// Numbers that the device declared dropped.
    pub(crate) dropped: u64,
    /// Numbers that are missing without a word.
    pub(crate) missing: u64,
    /// Records that were durable already.
    pub(crate) repeated: u64,
    /// Once this batch is durable, everything up to this number is.
    pub(crate) up_to: u64,
}

impl Applied {
    /// Whether there is anything to be made durable.
    pub(crate) fn is_progress(&self) -> bool {
        !self.records.is_empty() || self.dropped > 0 || self.missing > 0
    }
}

/// Whether numbers may be missing at the head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// The first batch of a stream in a connection begins with the oldest record that the device still has: what is
    /// missing before it is gone, and waiting for it would stop the stream for good.
    Oldest,
    /// A later batch follows the one before it: what is missing is on its way, or will be sent again.
    Follows,
}

/// One part of a batch: a record, or a declared gap.
enum Item {
    Record(Record),
    Dropped(SeqRange),
}

impl Item {
    fn first(&self) -> u64 {
        match self {
            Item::Record(record) => record.seq,
            Item::Dropped(range) => range.first,
        }
    }
}

impl Marks {
    /// The last durable number of a stream; 0 where nothing is.
    pub(crate) fn get(&self, epoch: Epoch, stream: Stream) -> u64 {
        self.0.iter().find(|marks| marks.epoch == epoch).map_or(0, |marks| marks.of(stream))
    }

    /// Moves the mark of a stream. Of too many epochs the one that was used longest ago is forgotten.
    pub(crate) fn set(&mut self, epoch: Epoch, stream: Stream, up_to: u64) {
        let mut marks = match self.0.iter().position(|marks| marks.epoch == epoch) {
            Some(index) => self.0.remove(index),
            None => EpochMarks { epoch, event: 0, live: 0, backlog: 0 },
        };
        *marks.of_mut(stream) = up_to;
        self.0.push(marks);
        if self.0.len() > EPOCHS {
            self.0.remove(0);
        }
    }

    /// Takes from a batch what follows the mark without a hole. The marks stay as they are: they move when the outcome
    /// is durable.
    pub(crate) fn apply(&self, batch: TelemetryBatch, mut head: Head) -> Applied {
        let mark = self.get(batch.epoch, batch.stream);
        let mut items: Vec<Item> = batch.records.into_iter().map(Item::Record).collect();
        items.extend(batch.dropped.into_iter().map(Item::Dropped));
        items.sort_by_key(Item::first);
        let mut applied = Applied { up_to: mark, ..Applied::default() };
        for item in items {
            let next = applied.up_to.saturating_add(1);
            if item.first() > next {
                if head == Head::Follows {
                    break;
                }
                applied.missing = item.first() - next;
                applied.up_to = item.first() - 1;
            }
            head = Head::Follows;
            match item {
                Item::Record(record) if record.seq > applied.up_to => {
                    applied.up_to = record.seq;
                    applied.records.push(record);
                }
                Item::Record(_) => applied.repeated += 1,
                Item::Dropped(range) if range.last > applied.up_to => {
                    applied.dropped = applied.dropped.saturating_add(range.last - applied.up_to);
                    applied.up_to = range.last;
                }
                Item::Dropped(_) => {}
            }
        }
        applied
    }
}

impl EpochMarks {
    fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Event => self.event,
            Stream::Live => self.live,
            Stream::Backlog => self.backlog,
        }
    }

    fn of_mut(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Event => &mut self.event,
            Stream::Live => &mut self.live,
            Stream::Backlog => &mut self.backlog,
        }
    }
}
