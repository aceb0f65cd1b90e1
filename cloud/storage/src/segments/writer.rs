//! The one thread that writes segments: it takes what waits, appends it as one group, and answers.

use super::Shared;
use crate::error::{Error, IoContext, Result};
use crate::log::Log;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Appends that share one sync.
const GROUP: usize = 256;

/// An append that waits.
pub(super) struct Request {
    pub(super) frames: Vec<Bytes>,
    pub(super) reply: oneshot::Sender<Result<Range<u64>>>,
    /// Its share of the bytes that may wait.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Starts the thread. It ends when the sending side is gone and the queue is empty.
pub(super) fn start(
    shared: Arc<Shared>,
    mut log: Log,
    mut requests: mpsc::Receiver<Request>,
) -> Result<std::thread::JoinHandle<()>> {
    let folder = shared.folder.path.clone();
    std::thread::Builder::new()
        .name("segment-writer".into())
        .spawn(move || {
            let mut group = Vec::new();
            while let Some(request) = requests.blocking_recv() {
                group.push(request);
                while group.len() < GROUP
                    && let Ok(request) = requests.try_recv()
                {
                    group.push(request);
                }
                write_group(&shared, &mut log, &mut group);
            }
        })
        .at("start the writer of", &folder)
}

fn write_group(shared: &Shared, log: &mut Log, group: &mut Vec<Request>) {
    let frames: Vec<Bytes> = group.iter().flat_map(|r| r.frames.iter().cloned()).collect();
    let written = make_room(shared, log, &frames).and_then(|()| log.append(&frames));
    publish(shared, log);
    let mut first = *written.as_ref().unwrap_or(&0);
    for request in group.drain(..) {
        let numbers = first..first + request.frames.len() as u64;
        first = numbers.end;
        // A caller that no longer waits has no use for the answer.
        let _ = request.reply.send(written.as_ref().map(|_| numbers).map_err(Error::clone));
    }
}

/// Removes released segments until the frames fit under the bound.
fn make_room(shared: &Shared, log: &mut Log, frames: &[Bytes]) -> Result<()> {
    let cost = log.cost(frames.iter().map(Bytes::len));
    let bound = shared.config.total_bytes;
    while log.bytes() + cost > bound {
        let released = shared.layout().released;
        if log.remove_oldest(released)?.is_some() {
            continue;
        }
        let all_released = released >= log.next() && log.first() < log.next();
        if all_released {
            log.roll()?;
            if log.remove_oldest(released)?.is_some() {
                continue;
            }
        }
        return Err(Error::OverBound { path: shared.folder.path.clone(), bytes: bound });
    }
    let fs = &shared.folder.fs;
    let free = fs.free_bytes(&shared.folder.path).at("measure", &shared.folder.path)?;
    if free < shared.config.reserve_bytes + cost {
        return Err(Error::DiskFull { action: "append to", path: shared.folder.path.clone(), source: None });
    }
    Ok(())
}

fn publish(shared: &Shared, log: &Log) {
    let mut layout = shared.layout();
    layout.segments = log.segments();
    layout.next = log.next();
}
