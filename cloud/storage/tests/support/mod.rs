//! A disk that forgets: records the calls of a store and rebuilds what may be left after a power loss.

pub(crate) mod disk;
pub(crate) mod recorder;
