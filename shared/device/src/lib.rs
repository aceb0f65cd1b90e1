//! The device's decisions as pure machines: clock, network, disk and randomness are passed in.
//!
//! - [`update`]: one model from release to release; an update cannot brick a device.
//! - [`release`]: whether a release may come onto this device at all.
//! - [`download`]: which bytes to ask for next, and whether a chunk is believed; [`window`] and [`budget`]: how many.
//! - [`patch`]: which files are made from patches instead of being fetched.
//! - [`launch`]: which binary of the agent runs; an upgrade of the agent cannot brick a device either.
//! - [`shadow`]: a candidate release beside the confirmed one, whose answers nobody gets.
//! - [`session`]: the connection: hello, reported, and when to try again; [`heartbeat`]: whether both ends are there.
//! - [`renewal`]: the certificate: when a new one is due, and how it takes over.
//! - [`drift`]: when drift is worth an event.
//! - [`command`]: what an operator asks for once: begun at most once, with an end and a deadline.
//! - [`desired`]: whether a desired document is accepted.
//! - [`inbox`]: which files of a folder are ready to be predicted; [`camera`]: which frames are; [`multipart`]: frames from bytes.
//! - [`outbox`]: in which order records are sent, what is dropped, what an `ack` frees.
//! - [`throttle`]: when a board is too hot to predict at full speed.
//! - [`hard`]: which inputs are kept for the cloud; [`excerpt`]: which lines of the log are sent; [`upload`]: how they get there.
//! - [`clock`], [`backoff`], [`frame`], [`fault`]: time that cannot be turned back, waiting, checked files,
//!   reasons.
//!
//! The agent runs these machines on a real disk and link; simulators run them on virtual ones.

pub mod backoff;
pub mod budget;
pub mod camera;
pub mod clock;
pub mod command;
pub mod desired;
pub mod download;
pub mod drift;
pub mod excerpt;
pub mod fault;
pub mod frame;
pub mod hard;
pub mod heartbeat;
pub mod inbox;
pub mod launch;
pub mod measure;
pub mod multipart;
pub mod outbox;
pub mod patch;
pub mod release;
pub mod renewal;
pub mod session;
pub mod shadow;
pub mod throttle;
pub mod update;
pub mod upload;
pub mod window;

pub use fault::Fault;
