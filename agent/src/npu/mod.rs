//! Neural processing units of the Ascend family: what they are and how they do.
//!
//! They are read through Huawei's DCMI library, which is loaded at run time, or else through `npu-smi`. Neither is needed:
//! where there is no device node nothing is tried. Both may hang or answer rubbish, so they are asked on a thread of
//! their own; what is not answered in time is as good as absent, and a thread that hangs is not followed by a second: a
//! process has one, whoever asks, which also keeps the library from being used by two at once.

mod dcmi;
mod smi;

use flotilla_protocol::limits;
use flotilla_protocol::message::NpuSample;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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

/// The NPUs of this device. All that is made of the same sources shares one reader.
pub struct Npus(Option<Arc<Desk>>);

/// The readers of this process.
static READERS: Mutex<Vec<(Sources, Arc<Desk>)>> = Mutex::new(Vec::new());

/// Where questions and answers lie.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
}

#[derive(Default)]
struct Papers {
    /// Questions that were asked, and how many of them are answered: those of a time have one answer.
    asked: u64,
    answered: u64,
    last: Option<(Instant, Vec<NpuSample>)>,
}

impl Npus {
    /// Looks for device nodes; where there are some, the first question is asked.
    pub fn new(sources: Sources) -> Self {
        if sources.nodes() == 0 {
            return Self(None);
        }
        let mut readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, desk)) = readers.iter().find(|(of, _)| *of == sources) {
            return Self(Some(Arc::clone(desk)));
        }
        let desk = Arc::new(Desk::default());
        let (own, of) = (Arc::clone(&desk), sources.clone());
        let started = thread::Builder::new().name("npu".to_owned()).spawn(move || {
            let mut reader = Reader::new(of);
            own.attend(|| reader.read());
        });
        match started {
            Ok(_) => readers.push((sources, Arc::clone(&desk))),
            Err(error) => tracing::warn!(%error, "the NPU is not observed"),
        }
        drop(desk.ask());
        Self(Some(desk))
    }

    /// Asks, and waits so long for the answer.
    pub fn first(&self, patience: Duration) -> Vec<NpuSample> {
        let Some(desk) = &self.0 else { return Vec::new() };
        let mut papers = desk.ask();
        let question = papers.asked;
        let waited = desk.changed.wait_timeout_while(papers, patience, |papers| papers.answered < question);
        papers = waited.unwrap_or_else(PoisonError::into_inner).0;
        papers.fresh()
    }

    /// How they did when they last answered, and asks again for the next time. This never waits.
    pub fn sample(&mut self) -> Vec<NpuSample> {
        let Some(desk) = &self.0 else { return Vec::new() };
        desk.ask().fresh()
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> MutexGuard<'_, Papers> {
        let mut papers = self.lock();
        papers.asked += 1;
        self.changed.notify_all();
        papers
    }

    /// Answers for ever; each answer is of after its question.
    fn attend(&self, mut read: impl FnMut() -> Vec<NpuSample>) {
        loop {
            let asked = self.changed.wait_while(self.lock(), |papers| papers.asked == papers.answered);
            let asked = asked.unwrap_or_else(PoisonError::into_inner).asked;
            let units = read();
            let mut papers = self.lock();
            papers.answered = asked;
            papers.last = Some((Instant::now(), units));
            self.changed.notify_all();
        }
    }
}

impl Papers {
    fn fresh(&self) -> Vec<NpuSample> {
        let fresh = self.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        fresh.map(|(_, units)| units.clone()).unwrap_or_default()
    }
}

/// What hardware calls itself, within the bound of a name and without what cannot be shown.
fn name(said: &str) -> String {
    let mut name = String::new();
    for c in said.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > limits::ID {
            break;
        }
        name.push(c);
    }
    name.trim().to_owned()
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
