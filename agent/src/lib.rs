//! The device daemon: enrols, connects, converges, predicts and reports.
//!
//! - [`enrol`]: a claim code turns this folder into a device of a fleet.
//! - [`daemon`]: the running agent. It performs what the machines of `flotilla-device` decide.
//! - [`link`]: the one MQTT connection; [`fetch`]: bytes by digest over it; [`outbox`]: records until the cloud
//!   has them.
//! - [`folder`], [`disk`], [`slot`], [`identity`], [`pairs`]: what is on the disk, and how it gets there; `room`: to whom
//!   its free bytes are promised; `memory`: which model takes how much.
//! - [`doctor`]: examines a device and says what to do.
//! - [`config`]: what the owner decides, and where he does not, the board's profile; `board`: which board this is.
//! - [`sensors`]: what the device measures of itself; [`npu`]: its neural processing units.
//! - `supervisor`: what a service manager is told; `footprint`: lets go of memory that only a start or a load
//!   needed.
//! - [`host`], [`api`], [`probe`]: models that serve, the local endpoint, and the child that tries a candidate.
//! - [`feed`]: folders and cameras whose pictures the agent predicts by itself.
//! - [`hard`]: inputs that a model was not sure of, kept for the cloud.
//! - `shadow`: a candidate release in a process of its own, whose answers nobody gets.
//! - `intake`: brings a release into a slot.
//! - [`upgrade`]: how another binary of the agent gets to where [`flotilla_launcher`] starts it.
//! - [`cli`]: the command line, also used by `flotilla agent …`; `program`: what people type for it.
//!
//! ```text
//! DIR/agent.toml                     optional configuration
//! DIR/identity/{key,cert,ca}.pem     who this device is; device.json says it in words
//! DIR/identity/{next,asked}.pem      the key and certificate that are to take over; the key of a question for them
//! DIR/identity.copy                  names, CA, key and certificates once more
//! DIR/trust.cbor, trust.copy.cbor    the accepted trust file, twice
//! DIR/desired.cbor, accepted         the accepted desired document; its version and the latest proof of time
//! DIR/counter, commands              hellos said; commands done
//! DIR/models/MODEL/journal           the update journal
//! DIR/models/MODEL/slot-{a,b}/       release.cbor, files/NAME, partial/NAME
//! DIR/agent/                         the agent's own releases; see [`flotilla_launcher`]
//! DIR/hard/MODEL/DIGEST, hard/ledger inputs that wait for the cloud, by consent; what was sent of them today
//! DIR/models/MODEL/shadow/           the same of a release that runs beside the confirmed one
//! DIR/models/MODEL/shadow.journal    how far that has come
//! DIR/outbox/                        sled
//! DIR/results/, feeds/              results of folders; which files of them are done with and still there
//! DIR/logs/agent.log, agent.log.{1..3} the log, the newest first
//! DIR/run/endpoint                   address of the local endpoint while the agent runs
//! DIR/run/work-MODEL                 whether the model was at work when the process ended
//! DIR/outbox.opening                 there while the outbox is being opened
//! DIR/lock                           held while the agent runs
//! ```

pub mod api;
mod battery;
mod board;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod enrol;
mod error;
pub mod feed;
pub mod fetch;
pub mod folder;
mod footprint;
pub mod hard;
pub mod host;
pub mod http_client;
pub mod identity;
mod intake;
pub mod link;
mod logging;
mod memory;
pub mod npu;
pub mod outbox;
pub mod pairs;
mod patches;
pub mod probe;
mod program;
mod room;
pub mod sensors;
mod serial;
mod shadow;
#[cfg(test)]
mod simulation;
pub mod slot;
mod supervisor;
mod tls;
pub mod upgrade;

pub use error::Error;
pub use flotilla_launcher::disk;
