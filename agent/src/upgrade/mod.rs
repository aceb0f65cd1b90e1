//! The agent's own upgrade: a release of it is fetched, verified and tried like a model's, in the folder `agent/`, and
//! then handed to the launcher ([`crate::launcher`]), which starts it in place of this one.
//!
//! The candidate confirms itself: it waits until it is healthy (every confirmed model serves; there is a session, or
//! nobody can be reached), stands the same probation as a model, and writes the launch journal. One that cannot goes
//! back by itself; one that does not even get so far is given up by the launcher. In both cases the agent from before
//! reports why. Nothing of this needs the network once the binary is there.
//!
//! Without the launcher (`flotilla-agent run` started directly) an agent reports that it cannot be upgraded.
//!
//! State that an agent writes must be read by the one before it, because a candidate may be taken back at any time:
//! a new version of a stored format is written at the earliest by the release after the one that reads it.

mod selftest;
mod work;

pub use selftest::{SelfTestArgs, self_test_main};
pub(crate) use work::{make_program, tell_binary, try_out};

use flotilla_device::launch::Place;
use flotilla_launcher::LAUNCHED;

/// From where this process was started, if the launcher did it.
pub fn launched() -> Option<Place> {
    std::env::var(LAUNCHED).ok().as_deref().and_then(Place::from_text)
}

/// The platform whose binaries this process can start.
pub(crate) const PLATFORM: (&str, &str) = (std::env::consts::OS, std::env::consts::ARCH);
