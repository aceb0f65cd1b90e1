//! The way to a prediction: a place in the model's queue, then its turn, then the work itself.
//!
//! A turn is the model for oneself and a thread to predict on. It is waited for without holding a thread, and only who has it
//! goes to a thread that may block: otherwise those who wait for one model would hold the threads that others need.

use super::error::HostError;
use super::pace::Place;
use super::shadow::Shown;
use super::{Answer, Inferred, Interface, Served, Serving, lock};
use crate::hard::Seen;
use flotilla_runtime::{Input, Model, Prediction, Stream, Values};
use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;
use tokio::sync::OwnedMutexGuard;

/// A place in a model's queue, bound to the release that served when it was taken.
#[derive(Debug)]
pub struct Ticket(Arc<Serving>);

impl Ticket {
    /// A place that is counted already.
    pub(super) fn new(serving: Arc<Serving>) -> Self {
        Self(serving)
    }

    /// What the network of that release takes and gives.
    pub fn interface(&self) -> &Interface {
        &self.0.interface
    }

    /// Refuses raw pixels of a number that the release does not take, before they wait for their turn.
    pub fn check(&self, input: Input<'_>) -> Result<(), HostError> {
        self.0.check(input)
    }

    /// Waits for its turn. Who gives up while waiting gives the place back.
    pub async fn turn(self) -> Turn {
        let turn = self.next().await;
        let rest = turn.place.rest();
        // The shortest sleep is a millisecond.
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        turn
    }

    /// The same on a thread that may block, for the few callers that have one already.
    pub fn wait(self) -> Turn {
        let turn = block_on(self.next());
        std::thread::sleep(turn.place.rest());
        turn
    }

    /// The model first: each model has one at most that waits for a thread, so a busy one cannot crowd out the others.
    async fn next(self) -> Turn {
        let model = Arc::clone(&self.0.model).lock_owned().await;
        let place = self.0.pace.place().await;
        Turn { ticket: self, model, place }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.lifetime.admitted.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A model for oneself and a thread to predict on, to be used at once: others wait.
#[derive(Debug)]
pub struct Turn {
    ticket: Ticket,
    model: OwnedMutexGuard<Model>,
    place: Place,
}

impl Turn {
    /// What the network of the release takes and gives.
    pub fn interface(&self) -> &Interface {
        self.ticket.interface()
    }

    /// Predicts one input. This blocks.
    pub fn predict(self, input: Input<'_>) -> Result<Answer, HostError> {
        self.predict_in(Stream::default(), input)
    }

    /// Predicts one input of a stream. This blocks.
    pub fn predict_in(self, stream: Stream<'_>, input: Input<'_>) -> Result<Answer, HostError> {
        let Self { ticket, mut model, mut place } = self;
        let serving = &*ticket.0;
        let input = serving.preprocessor.told(input);
        place.begin();
        let noted = serving.note.at_work();
        let predict = || {
            let prepared = model.prepare(input)?;
            Ok((model.predict_prepared(stream, &prepared)?, prepared))
        };
        let ((prediction, prepared), latency_us) =
            serving.count(predict, None, |(prediction, _)| prediction)?;
        serving.watched.count(&prepared.values(), &prediction, &serving.alarm);
        drop(noted);
        drop((place, model));
        serving.offer(Seen::Input(input), &prediction);
        serving.show(Shown::Input(input), &prediction, latency_us);
        let Served { release, slot } = serving.served;
        let labels = Arc::clone(&serving.interface.labels);
        Ok(Answer { prediction, release, slot, latency_us, labels })
    }

    /// Runs the network on a batch, row after row and nobody else's in between; each row is a tensor an input. This blocks.
    pub fn infer(self, stream: Stream<'_>, batch: &[Vec<Values>]) -> Result<Inferred, HostError> {
        let Self { ticket, mut model, mut place } = self;
        let serving = &*ticket.0;
        let (mut outputs, mut predictions) = (Vec::new(), Vec::new());
        place.begin();
        let noted = serving.note.at_work();
        for (index, row) in batch.iter().enumerate() {
            // A batch goes on within one stream.
            let stream = Stream {
                start: stream.start && index == 0,
                end: stream.end && index + 1 == batch.len(),
                ..stream
            };
            let tensor = row.first().map_or(Cow::Borrowed(&[][..]), Values::to_f32);
            let run = || model.run(stream, row.clone());
            let ((output, prediction), latency_us) =
                serving.count(run, Some(&tensor), |(_, prediction)| prediction)?;
            serving.watched.count(&tensor, &prediction, &serving.alarm);
            serving.show(Shown::Tensors(row), &prediction, latency_us);
            outputs.push(output);
            predictions.push(prediction);
        }
        drop(noted);
        drop((place, model));
        for (row, prediction) in batch.iter().zip(&predictions) {
            if let [Values::Fp32(tensor)] = &row[..] {
                serving.offer(Seen::Tensor(tensor), prediction);
            }
        }
        let labels = serving.interface.labels.to_vec();
        Ok(Inferred { outputs, predictions, labels, release: serving.served.release })
    }
}

impl Serving {
    /// Does a piece of work and counts it, with its time in microseconds. `tensor` is the input where that is one.
    fn count<T>(
        &self,
        work: impl FnOnce() -> flotilla_runtime::Result<T>,
        tensor: Option<&[f32]>,
        prediction: impl FnOnce(&T) -> &Prediction,
    ) -> Result<(T, u64), HostError> {
        let started = Instant::now();
        let result = work();
        let latency_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let done = result.map_err(|source| self.refused(source, tensor))?;
        lock(&self.window).answered(latency_us);
        lock(&self.totals).answered(prediction(&done), latency_us);
        Ok((done, latency_us))
    }
}

/// Waits for what needs no runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}
