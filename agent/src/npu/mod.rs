//! Neural processing units of the Ascend family: what they are and how they do.
//!
//! They are read through Huawei's DCMI library, which is loaded at run time, or else through `npu-smi`. Neither is needed:
//! where there is no device node nothing is tried. Both may hang or answer rubbish, so they are asked on a thread of
//! their own; what is not answered in time is as good as absent, and a thread that hangs is not followed by a second.

mod dcmi;
mod smi;

use flotilla_protocol::message::NpuSample;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Units that are reported at most.
pub(crate) const UNITS: usize = 16;
/// An answer that is older than this says nothing of the present.
const FRESH: Duration = Duration::from_secs(60);

/// Where the library lies on cards and on edge boards.
const LIBRARIES: [&str; 2] = ["/usr/local/dcmi/libdcmi.so", "/usr/lib64/libdcmi.so"];
/// Where the program lies on cards and on edge boards.
const PROGRAMS: [&str; 2] = ["/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi"];

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Where device nodes are.
    pub devices: PathBuf,
    /// Libraries to try, in this order.
    pub libraries: Vec<PathBuf>,
    /// Programs to try, in this order.
    pub programs: Vec<PathBuf>,
}

impl Default for Sources {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl Sources {
    /// Those of a machine whose file system starts at `root`.
    pub fn below(root: &Path) -> Self {
        let place = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            devices: place("/dev"),
            libraries: LIBRARIES.map(place).to_vec(),
            programs: PROGRAMS.map(place).to_vec(),
        }
    }

    /// Device nodes `davinciN`.
    fn nodes(&self) -> usize {
        let is_unit = |name: &str| {
            name.strip_prefix("davinci")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        };
        let entries = fs::read_dir(&self.devices).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(is_unit)).count()
    }
}

/// The NPUs of this device.
pub struct Npus {
    asked: Option<SyncSender<()>>,
    answers: Option<Receiver<Vec<NpuSample>>>,
    last: Option<(Instant, Vec<NpuSample>)>,
}

impl Npus {
    /// Looks for device nodes; where there are some, the first question is asked.
    pub fn new(sources: Sources) -> Self {
        if sources.nodes() == 0 {
            return Self { asked: None, answers: None, last: None };
        }
        let (ask, questions) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let started = thread::Builder::new().name("npu".to_owned()).spawn(move || {
            let mut reader = Reader::new(sources);
            while questions.recv().is_ok() {
                if answer.send(reader.read()).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the NPU is not observed");
        }
        let npus = Self { asked: Some(ask), answers: Some(answers), last: None };
        npus.ask();
        npus
    }

    /// Waits so long for the answer to the first question.
    pub fn first(&self, patience: Duration) -> Vec<NpuSample> {
        let answer = self.answers.as_ref().and_then(|answers| answers.recv_timeout(patience).ok());
        answer.unwrap_or_default()
    }

    /// How they did when they last answered, and asks again for the next time. This never waits.
    pub fn sample(&mut self) -> Vec<NpuSample> {
        let newest = self.answers.as_ref().and_then(|answers| answers.try_iter().last());
        if let Some(newest) = newest {
            self.last = Some((Instant::now(), newest));
        }
        self.ask();
        let fresh = self.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        fresh.map(|(_, units)| units.clone()).unwrap_or_default()
    }

    /// One question waits at most: a reader that hangs gets no second one.
    fn ask(&self) {
        if let Some(Err(TrySendError::Disconnected(()))) = self.asked.as_ref().map(|asked| asked.try_send(()))
        {
            tracing::debug!("the NPU's reader has ended");
        }
    }
}

struct Reader {
    library: Option<dcmi::Library>,
    sources: Sources,
}

impl Reader {
    fn new(sources: Sources) -> Self {
        let library = sources.libraries.iter().filter(|path| path.exists()).find_map(|path| open(path));
        Self { library, sources }
    }

    fn read(&mut self) -> Vec<NpuSample> {
        let mut units = self.library.as_ref().map(dcmi::Library::read).unwrap_or_default();
        if units.is_empty() {
            let programs = self.sources.programs.iter().filter(|path| path.exists());
            units = programs.map(|path| smi::read(path)).find(|units| !units.is_empty()).unwrap_or_default();
        }
        units.truncate(UNITS);
        units
    }
}

fn open(path: &Path) -> Option<dcmi::Library> {
    dcmi::Library::open(path)
        .inspect_err(
            |problem| tracing::warn!(path = %path.display(), problem, "the NPU's library cannot be used"),
        )
        .ok()
}
