//! The control plane's binary: composition root, HTTP API, command line and quickstart.
//!
//! - [`app`]: opens every part in one folder, in order, and shuts them down in reverse.
//! - [`http`]: the API and the console's way in; [`cli`]: the command line, a client of that API.
//! - [`work`]: what the jobs do, in the child process, and how their outputs are published.
//! - [`examine`]: models of other tools, looked at in a process of their own.
//! - [`quickstart`]: the whole loop, driven through all of the above.

pub mod app;
pub mod boards;
mod card;
pub mod cli;
mod descriptors;
mod error_text;
pub mod evaluations;
mod examine;
mod golden;
pub mod http;
mod imports;
mod progress;
pub mod quickstart;
mod signals;
pub mod up;
mod uploads;
pub mod work;
