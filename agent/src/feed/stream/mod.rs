//! Frames of a camera: the newest one is predicted, at a set rate. When to open, predict and complain is decided by
//! [`Camera`]; this is the shell around it.

mod mjpeg;
mod v4l2;
mod yuyv;

use super::config::StreamFeed;
use super::line::{Line, Of};
use super::log::ResultLog;
use super::{Problem, Shared, Shown, update};
use crate::disk::DiskError;
use flotilla_device::Fault;
use flotilla_device::camera::{Camera, Effect, Event};
use flotilla_protocol::{ErrorCode, limits};
use flotilla_runtime::Input;
use mjpeg::Mjpeg;
use serde::Serialize;
use serde_json::Value;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use v4l2::Capture;

/// Frames of one camera are not taken faster than this: a flood waits in the network's buffers.
const FRAME_PAUSE: Duration = Duration::from_millis(4);
/// Largest frame.
const FRAME: usize = 8 * limits::MIB;

/// A frame as it came.
enum Frame {
    /// As a JPEG.
    Jpeg(Vec<u8>),
    /// Two bytes a pixel.
    Yuyv(yuyv::Picture),
}

impl Frame {
    /// As a picture that models take.
    fn encoded(self) -> Result<Vec<u8>, Fault> {
        match self {
            Frame::Jpeg(bytes) => Ok(bytes),
            Frame::Yuyv(picture) => picture.encoded(),
        }
    }
}

/// What `/status` and `/streams` say of a stream.
#[derive(Debug, Default, Serialize)]
pub(super) struct Status {
    /// Whether frames come.
    live: bool,
    /// Frames that came since the start.
    frames: u64,
    /// Frames that were not predicted, because a newer one came or the camera was lost.
    dropped: u64,
    /// Frames that were not predicted, because the model was busy or did not serve.
    unplaced: u64,
    /// Frames that have a label.
    predicted: u64,
    /// Frames that could not be predicted.
    refused: u64,
    /// How often the camera was lost.
    outages: u64,
    /// Why no frames come.
    problem: Option<Problem>,
    /// Why the last frame has no result, or its result is not written.
    result_problem: Option<Problem>,
    /// The latest result.
    latest: Option<Value>,
}

/// Runs until the agent stops.
pub(super) async fn run(feed: StreamFeed, shared: Arc<Shared>, shown: Shown<Status>) {
    let answerer = Arc::new(Answerer {
        feed: feed.clone(),
        shared: Arc::clone(&shared),
        shown: Arc::clone(&shown),
        log: Mutex::new(None),
    });
    let silence = Duration::from_secs(feed.silence_s);
    let mut camera = Camera::new(feed.period_ms());
    let mut source = Source::Away;
    let mut held = None;
    let mut answering: Option<JoinHandle<()>> = None;
    loop {
        let due = shared.clock.instant(camera.due_ms().unwrap_or(u64::MAX));
        let event = tokio::select! {
            () = shared.shutdown.cancelled() => break,
            happened = source.next(silence) => match happened {
                Ok(Happened::Opened) => Event::Opened,
                Ok(Happened::Frame(frame)) => {
                    held = Some(frame);
                    Event::Frame
                }
                Err(fault) => {
                    (source, held) = (Source::Away, None);
                    Event::Lost(fault)
                }
            },
            () = ended(&mut answering) => Event::Answered,
            () = tokio::time::sleep_until(due) => Event::Tick,
        };
        let was_live = camera.is_live();
        let (next, effects) = camera.step(event, shared.clock.now_ms(), rand::random());
        camera = next;
        for effect in effects {
            match effect {
                Effect::Open => source = Source::open(feed.clone()),
                Effect::Predict => {
                    if let Some(frame) = held.take() {
                        let number = camera.counts().frames;
                        answering = Some(tokio::spawn(Arc::clone(&answerer).answer(frame, number)));
                    }
                }
                Effect::Say(fault) => shared.say(format!("stream {}", feed.name), fault),
            }
        }
        if camera.is_live() && !was_live {
            tracing::info!(stream = feed.name, "frames come");
        }
        let counts = camera.counts();
        update(&shown, |status| {
            status.live = camera.is_live();
            (status.frames, status.dropped, status.outages) = (counts.frames, counts.dropped, counts.outages);
            status.problem = camera.problem().map(Problem::from);
        });
    }
    if let Some(answering) = answering {
        let _ = answering.await;
    }
}

/// Waits until the prediction that runs has ended; for ever if none runs.
async fn ended(answering: &mut Option<JoinHandle<()>>) {
    match answering.as_mut() {
        Some(task) => {
            if let Err(error) = task.await {
                tracing::error!(%error, "a frame's prediction ended badly");
            }
            *answering = None;
        }
        None => pending().await,
    }
}

/// Where frames come from.
enum Source {
    Away,
    Opening(Pin<Box<dyn Future<Output = Result<Open, Fault>> + Send>>),
    Open { camera: Open, from: Instant, until: Instant },
}

enum Open {
    Http(Box<Mjpeg>),
    Device(Capture),
}

enum Happened {
    Opened,
    Frame(Frame),
}

impl Source {
    fn open(feed: StreamFeed) -> Self {
        Source::Opening(Box::pin(async move {
            match (&feed.url, feed.device) {
                (Some(url), _) => Mjpeg::open(url).await.map(|camera| Open::Http(Box::new(camera))),
                (None, Some(node)) => Capture::open(node, feed.width, feed.height).await.map(Open::Device),
                (None, None) => pending().await,
            }
        }))
    }

    /// Waits for what happens next, but no longer than so long without a frame; for ever while the camera is not to be
    /// open. May be given up at any time.
    async fn next(&mut self, silence: Duration) -> Result<Happened, Fault> {
        let silent = |what: &str| {
            Fault::transient(ErrorCode::Timeout, format!("{what} within {} s", silence.as_secs()))
        };
        match self {
            Source::Away => pending().await,
            Source::Opening(opening) => {
                let camera = opening.await?;
                let now = Instant::now();
                *self = Source::Open { camera, from: now, until: now + silence };
                Ok(Happened::Opened)
            }
            Source::Open { camera, from, until } => {
                let frame = async {
                    tokio::time::sleep_until(*from).await;
                    match camera {
                        Open::Http(camera) => camera.frame().await.map(Frame::Jpeg),
                        Open::Device(camera) => camera.frame().await,
                    }
                };
                let frame = timeout_at(*until, frame).await.map_err(|_| silent("no frame came"))??;
                let now = Instant::now();
                (*from, *until) = (now + FRAME_PAUSE, now + silence);
                Ok(Happened::Frame(frame))
            }
        }
    }
}

/// Predicts frames and writes what comes out.
struct Answerer {
    feed: StreamFeed,
    shared: Arc<Shared>,
    shown: Shown<Status>,
    log: Mutex<Option<ResultLog>>,
}

impl Answerer {
    /// Predicts a frame; `number` counts them since the start.
    async fn answer(self: Arc<Self>, frame: Frame, number: u64) {
        let turn = self.shared.turns.acquire().await;
        let own = Arc::clone(&self);
        let done = tokio::task::spawn_blocking(move || own.predict(frame, number)).await;
        drop(turn);
        if let Err(error) = done {
            tracing::error!(stream = self.feed.name, %error, "a prediction ended badly");
        }
    }

    fn predict(&self, frame: Frame, number: u64) {
        let feed = &self.feed;
        let ticket = match self.shared.host.admit(&feed.model) {
            Ok(ticket) => ticket,
            // Those who ask go first; the next frame is newer anyway.
            Err(error) => {
                let fault = Fault::transient(error.code(), error.to_string());
                return update(&self.shown, |status| {
                    status.unplaced += 1;
                    status.result_problem = Some((&fault).into());
                });
            }
        };
        let answered = frame.encoded().and_then(|picture| {
            let answer = ticket.wait().predict(Input::Encoded(&picture));
            answer.map_err(|error| Fault::lasting(error.code(), error.to_string()))
        });
        let (at_ms, of) = (self.shared.clock.wall_ms(), Of::Frame { stream: &feed.name, frame: number });
        let line = match &answered {
            Ok(answer) => Line::answered(at_ms, of, &feed.model, answer),
            Err(fault) => Line::refused(at_ms, of, &feed.model, fault),
        };
        let latest = serde_json::to_value(&line).unwrap_or_default();
        let written = self.write(&latest.to_string());
        if let Err(error) = &written {
            tracing::warn!(stream = feed.name, %error, "a result cannot be written");
        }
        update(&self.shown, |status| {
            match &answered {
                Ok(_) => status.predicted += 1,
                Err(_) => status.refused += 1,
            }
            status.latest = Some(latest);
            status.result_problem =
                written.err().map(|error| (&Fault::transient(error.code(), error.to_string())).into());
        });
    }

    /// Appends a line, if lines are to be kept. A power cut may cost the last ones: frames come again.
    fn write(&self, line: &str) -> Result<(), DiskError> {
        let Some(path) = &self.feed.output else { return Ok(()) };
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.is_none() {
            *log = Some(ResultLog::open(path, self.feed.output_bytes)?.0);
        }
        let written = log.as_mut().map_or(Ok(()), |log| log.append(line, false));
        if written.is_err() {
            // Opened anew, it is known again how long it is.
            *log = None;
        }
        written
    }
}
