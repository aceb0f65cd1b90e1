//! What stateful networks keep from one call to the next, a stream at a time.

use crate::tensor::{Port, Values};
use flotilla_protocol::limits::MIB;
use std::collections::BTreeMap;

/// Streams that one model keeps the states of; the one that rested longest gives way.
pub const STREAMS: usize = 64;
/// Bytes of all states that one model keeps: with large ones it keeps those of fewer streams, but always of one.
const BYTES: usize = 64 * MIB;

/// Which of several streams an input belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream<'a> {
    /// The stream's name; empty for that of callers who name none.
    pub name: &'a str,
    /// Whether it begins anew: what was kept of it is forgotten first.
    pub start: bool,
    /// Whether nothing follows: what is kept of it is forgotten after.
    pub end: bool,
}

impl Stream<'_> {
    /// A stream of one input: it begins anew, and nothing of it is kept. What is kept of the one without a name goes.
    pub const ALONE: Stream<'static> = Stream { name: "", start: true, end: true };
}

/// The states of all streams.
#[derive(Debug, Default)]
pub(crate) struct States {
    ports: Vec<Port>,
    /// Streams of which states are kept at most.
    most: usize,
    streams: BTreeMap<String, Kept>,
    /// Counts up with each use.
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    values: Vec<Values>,
    used: u64,
}

impl States {
    pub(crate) fn new(ports: Vec<Port>) -> Self {
        let bytes: usize = ports.iter().map(Port::bytes).fold(0, usize::saturating_add);
        let most = (BYTES / bytes.max(1)).clamp(1, STREAMS);
        Self { ports, most, ..Self::default() }
    }

    /// Takes what a stream goes on with: zeros for one that begins.
    pub(crate) fn take(&mut self, stream: Stream<'_>) -> Vec<Values> {
        if self.ports.is_empty() {
            return Vec::new();
        }
        let kept = self.streams.remove(stream.name).filter(|_| !stream.start);
        let zeros = || self.ports.iter().map(|port| Values::zeros(port.kind, port.values())).collect();
        kept.map_or_else(zeros, |kept| kept.values)
    }

    /// Keeps what a stream goes on with.
    pub(crate) fn keep(&mut self, stream: Stream<'_>, values: Vec<Values>) {
        if stream.end || self.ports.is_empty() {
            return;
        }
        self.clock += 1;
        if self.streams.len() >= self.most && !self.streams.contains_key(stream.name) {
            let oldest = self.streams.iter().min_by_key(|(_, kept)| kept.used).map(|(name, _)| name.clone());
            oldest.map(|name| self.streams.remove(&name));
        }
        self.streams.insert(stream.name.to_owned(), Kept { values, used: self.clock });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_protocol::pipeline::TensorKind;

    fn stream(name: &str) -> Stream<'_> {
        Stream { name, ..Stream::default() }
    }

    fn states() -> States {
        States::new(vec![Port { name: "h".into(), kind: TensorKind::Fp32, shape: vec![1] }])
    }

    #[test]
    fn each_stream_goes_on_where_it_was_and_begins_with_zeros() {
        let mut states = states();
        let one = vec![Values::Fp32(vec![1.0])];
        assert_eq!(states.take(stream("a")), [Values::Fp32(vec![0.0])]);
        states.keep(stream("a"), one.clone());
        assert_eq!(states.take(stream("b")), [Values::Fp32(vec![0.0])]);
        assert_eq!(states.take(stream("a")), one);
        states.keep(stream("a"), one.clone());
        assert_eq!(states.take(Stream { start: true, ..stream("a") }), [Values::Fp32(vec![0.0])]);
        states.keep(Stream { end: true, ..stream("a") }, one);
        assert_eq!(states.take(stream("a")), [Values::Fp32(vec![0.0])]);
    }

    #[test]
    fn the_stream_that_rested_longest_gives_way() {
        let mut states = states();
        for number in 0..=STREAMS {
            states.keep(stream(&number.to_string()), vec![Values::Fp32(vec![1.0])]);
            // The first one is used again and again.
            let kept = states.take(stream("0"));
            states.keep(stream("0"), kept);
        }
        assert_eq!(states.streams.len(), STREAMS);
        assert_eq!(states.take(stream("0")), [Values::Fp32(vec![1.0])]);
        assert_eq!(states.take(stream("1")), [Values::Fp32(vec![0.0])]);
    }

    #[test]
    fn large_states_are_kept_of_fewer_streams() {
        let kept = |values: usize| {
            let port = Port { name: "h".into(), kind: TensorKind::Fp32, shape: vec![values] };
            let mut states = States::new(vec![port.clone(), port]);
            for number in 0..STREAMS {
                // What they hold does not matter here.
                states.keep(stream(&number.to_string()), Vec::new());
            }
            states.streams.len()
        };
        assert_eq!(kept(1_000), STREAMS);
        assert_eq!(kept(MIB), 8, "two of four MiB each");
        assert_eq!(kept(1 << 28), 1, "a stream can always go on");
    }
}
