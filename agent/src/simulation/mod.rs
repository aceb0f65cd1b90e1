//! The device, killed everywhere: its decision machines and its real disk code on a disk, a link and a cloud that
//! fail in every way they can, seeded.
//!
//! - `disk`, `tree`: a disk that tears, loses and reorders what was not brought to stable storage, is full, and fails.
//! - `link`, `cloud`: messages that are lost, late, doubled, out of order and damaged; a cloud that goes down too.
//! - `releases`: really signed releases, good ones and bad ones of every nature.
//! - `records`: the outbox on that disk. `device`, `work`, `turns`: the shell around the machines, as the daemon is
//!   one, but without time and threads of its own.
//! - `shadow`: a release in the shadow of a confirmed one, on that disk.
//! - `check`: what must hold, whatever happens. `run`: the tests.
//!
//! What is real here: every decision machine of `flotilla-device`, [`crate::disk`]'s way to replace a file and to make
//! a folder, [`crate::slot`], [`crate::room`], the journals and the accepted state of [`crate::daemon`]. What is not:
//! the engine and its probe, which read a whole release through the disk and then do what the release's nature says;
//! tasks and their timing; and the outbox's store.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod check;
mod cloud;
mod device;
mod disk;
mod link;
mod records;
mod releases;
mod run;
mod shadow;
mod tree;
mod turns;
mod work;
