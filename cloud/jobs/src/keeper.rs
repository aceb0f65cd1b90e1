//! Keeps a job's lease while an attempt runs, and tells the attempt when it has to end.

use crate::job::{Job, JobState};
use crate::queue::Queue;
use flotilla_identity::now_ms;
use flotilla_protocol::JobId;
use flotilla_storage::{Entity, Error, Lease, Range};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What an attempt is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Go,
    /// Somebody wants the job stopped.
    Cancel,
    /// The worker stops in good order.
    Release,
    /// The lease is somebody else's: end, and write nothing.
    Abandon,
}

/// Keeps the lease until it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: watch::Receiver<Order>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Begins to keep this lease.
    pub(crate) fn start(
        queue: Queue,
        id: JobId,
        lease: Lease,
        ttl: Duration,
        stop: CancellationToken,
    ) -> Self {
        let (tell, orders) = watch::channel(Order::Go);
        let task = tokio::spawn(async move {
            let last = keep(&queue, &id, lease, ttl, &stop, &tell).await;
            tell.send_replace(last);
        });
        Self { orders, task }
    }

    /// What is to be done now.
    pub(crate) fn order(&self) -> Order {
        *self.orders.borrow()
    }

    /// Waits for an order beyond `known`. Safe to cancel.
    pub(crate) async fn beyond(&mut self, known: Order) -> Order {
        match self.orders.wait_for(|order| *order > known).await {
            Ok(order) => *order,
            // The keeper has died, and the lease will with it.
            Err(_) => Order::Abandon,
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the last order: after it the lease needs no keeping.
async fn keep(
    queue: &Queue,
    id: &JobId,
    mut lease: Lease,
    ttl: Duration,
    stop: &CancellationToken,
    tell: &watch::Sender<Order>,
) -> Order {
    let next = [id.as_str().as_bytes(), &[0]].concat();
    let mut news = queue.records.watch(Range::between(Job::TABLE, id.as_str(), next));
    let mut renewals = tokio::time::interval(ttl / 3);
    renewals.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut look = true;
    let mut released = false;
    loop {
        if look && is_cancelling(queue, id).await {
            raise(tell, Order::Cancel);
        }
        look = false;
        tokio::select! {
            _ = renewals.tick() => match queue.records.renew_lease(&lease, ttl, now_ms()).await {
                Ok(renewed) => lease = renewed,
                Err(Error::LeaseLost { .. }) => return Order::Abandon,
                Err(error) if lease.expires <= now_ms() => {
                    tracing::error!(%error, job = %id, "the lease cannot be renewed and has expired");
                    return Order::Abandon;
                }
                Err(error) => tracing::warn!(%error, job = %id, "the lease could not be renewed yet"),
            },
            changed = news.next() => match changed {
                Some(_) => look = true,
                None => return Order::Abandon,
            },
            // The lease is kept while the attempt gives the job back.
            () = stop.cancelled(), if !released => {
                released = true;
                raise(tell, Order::Release);
            }
        }
    }
}

fn raise(tell: &watch::Sender<Order>, order: Order) {
    tell.send_if_modified(|current| {
        let raised = order > *current;
        *current = order.max(*current);
        raised
    });
}

async fn is_cancelling(queue: &Queue, id: &JobId) -> bool {
    match queue.get(id).await {
        Ok(job) => job.state == JobState::Cancelling,
        Err(error) => {
            tracing::warn!(%error, job = %id, "the job could not be looked at");
            false
        }
    }
}
