//! A disk in memory that does what real ones do at their worst.
//!
//! - What was written and not brought to stable storage may be lost, kept, or torn at sectors or bytes when the power
//!   goes, each write for itself; so may what was done to a folder, in any order. Bringing a file to stable storage
//!   does not do so with its name, which belongs to the folder. Giving a file another name within a folder is one
//!   thing that happens or not; from one folder to another it is two.
//! - When the process alone is killed everything that was written stays, but is no safer than before.
//! - It may be full, and then takes part of a write.
//! - Any operation may fail, at most [`IN_A_ROW`] times in a row; a write then may be half done. Content that could not
//!   be brought to stable storage never gets there, although it is read back until the power goes, as Linux has it.
//!   When the process ends that is forgotten: the few instructions between such a failure and what is done about
//!   it are not a window that is looked into.
//! - Its operations are counted; at a chosen one the process dies. From then on every operation fails until the disk
//!   is restarted, so whoever uses it need not be unwound.

use crate::disk::{Disk, DiskError, Size};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What room is given out in.
const BLOCK: u64 = 4_096;
const SECTOR: usize = 512;
/// Faults that may follow one another.
pub(super) const IN_A_ROW: u32 = 2;
const ROOT: u64 = 0;

/// How the device goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Down {
    /// Its process is killed.
    Process,
    /// The power goes.
    Power,
}

/// The disk.
pub(super) struct VirtualDisk {
    state: Mutex<State>,
}

struct State {
    rng: SmallRng,
    nodes: BTreeMap<u64, Node>,
    next: u64,
    capacity: u64,
    used: u64,
    /// One operation in so many fails; 0 for none.
    faults: u32,
    faults_in_a_row: u32,
    operations: u64,
    dies_at: u64,
    dead: bool,
    /// The test looks: nothing counts and nothing fails.
    calm: bool,
    touched: Vec<PathBuf>,
}

enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Default)]
struct File {
    now: Arc<Vec<u8>>,
    blocks: BTreeSet<u64>,
    durable: Arc<Vec<u8>>,
    unsynced: Vec<Change>,
}

struct Change {
    what: What,
    /// It could not be brought to stable storage, and never will be.
    doomed: bool,
}

enum What {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Default)]
struct Folder {
    now: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    unsynced: Vec<Entry>,
}

#[derive(Clone)]
enum Entry {
    Made { name: String, node: u64 },
    Gone { name: String },
    Renamed { from: String, to: String, node: u64 },
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Entry::Made { name, node } => drop(names.insert(name.clone(), *node)),
            Entry::Gone { name } => drop(names.remove(name)),
            Entry::Renamed { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Folder {
    fn note(&mut self, entry: Entry) {
        entry.apply(&mut self.now);
        self.unsynced.push(entry);
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset {
        content.extend_from_slice(&vec![0; offset - content.len()]);
    }
    let (over, beyond) = bytes.split_at(bytes.len().min(content.len() - offset));
    content[offset..offset + over.len()].copy_from_slice(over);
    content.extend_from_slice(beyond);
}

fn blocks(offset: u64, bytes: usize) -> std::ops::Range<u64> {
    offset / BLOCK..(offset + bytes as u64).div_ceil(BLOCK)
}

impl VirtualDisk {
    /// An empty disk of so many bytes.
    pub(super) fn new(seed: u64, capacity: u64) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            nodes: BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]),
            next: ROOT + 1,
            capacity,
            used: 0,
            faults: 0,
            faults_in_a_row: 0,
            operations: 0,
            dies_at: u64::MAX,
            dead: false,
            calm: false,
            touched: Vec::new(),
        };
        Self { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on one operation in so many fails; 0 for none.
    pub(super) fn fail(&self, one_in: u32) {
        self.lock().faults = one_in;
    }

    /// From now on it has so many bytes.
    pub(super) fn resize(&self, capacity: u64) {
        self.lock().capacity = capacity;
    }

    /// Something else fills it up to so many bytes.
    pub(super) fn fill(&self, leaving: u64) {
        let mut state = self.lock();
        state.capacity = state.used + leaving;
    }

    /// Bytes that are free.
    pub(super) fn free_bytes(&self) -> u64 {
        let state = self.lock();
        state.capacity.saturating_sub(state.used)
    }

    /// The process dies at the operation that comes so many later: 1 for the next.
    pub(super) fn kill_after(&self, operations: u64) {
        let mut state = self.lock();
        state.dies_at = state.operations + operations;
    }

    /// The process dies now.
    pub(super) fn kill(&self) {
        self.lock().dead = true;
    }

    /// Something happens beside the disk, and is counted like an operation; the process may die of it.
    pub(super) fn pass(&self) {
        let state = &mut *self.lock();
        let faults = std::mem::take(&mut state.faults);
        state.admit();
        state.faults = faults;
    }

    /// Whether the process is dead.
    pub(super) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Operations so far.
    pub(super) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Names in a folder.
    pub(super) fn names(&self, path: &Path) -> Vec<String> {
        let state = self.lock();
        match state.find(path).and_then(|node| state.nodes.get(&node)) {
            Some(Node::Folder(folder)) => folder.now.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// What was changed since the last time this was asked.
    pub(super) fn touched(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.lock().touched)
    }

    /// Does `look` on a disk that counts nothing and does not fail.
    pub(super) fn calmly<T>(&self, look: impl FnOnce() -> T) -> T {
        self.lock().calm = true;
        let seen = look();
        self.lock().calm = false;
        seen
    }

    /// The process, or the whole machine, starts anew.
    pub(super) fn restart(&self, down: Down) {
        let mut state = self.lock();
        (state.dead, state.dies_at) = (false, u64::MAX);
        match down {
            Down::Power => state.lose_power(),
            Down::Process => state.nodes.values_mut().for_each(|node| {
                if let Node::File(file) = node {
                    file.unsynced.iter_mut().for_each(|change| change.doomed = false);
                }
            }),
        }
    }

    /// A change that happens or not.
    fn change(&self, path: &Path, work: impl FnOnce(&mut State) -> io::Result<()>) -> Result<(), DiskError> {
        let state = &mut *self.lock();
        let (happens, outcome) = match state.admit() {
            Fate::Happens => (true, Ok(())),
            Fate::Dies => (state.rng.random(), Err(dead())),
            Fate::Fails(error) => (false, Err(error)),
        };
        let worked = if happens {
            state.touched.push(path.to_owned());
            work(state)
        } else {
            Ok(())
        };
        // Where the process died nobody hears how it ended.
        let done = outcome.and(worked);
        done.map_err(|e| DiskError::of(path, e))
    }

    /// A look at the disk.
    fn look<T>(&self, path: &Path, work: impl FnOnce(&State) -> io::Result<T>) -> Result<T, DiskError> {
        let state = &mut *self.lock();
        let seen = match state.admit() {
            Fate::Happens => work(state),
            Fate::Dies => Err(dead()),
            Fate::Fails(error) => Err(error),
        };
        seen.map_err(|e| DiskError::of(path, e))
    }

    /// Removes a file, or a folder one thing after the other; false if nothing is there.
    fn take_away(&self, path: &Path) -> Result<bool, DiskError> {
        let inside: Option<Vec<String>> = self.look(path, |state| {
            Ok(state.find(path).map(|node| match state.nodes.get(&node) {
                Some(Node::Folder(folder)) => folder.now.keys().cloned().collect(),
                _ => Vec::new(),
            }))
        })?;
        let Some(inside) = inside else { return Ok(false) };
        for name in inside {
            self.take_away(&path.join(name))?;
        }
        self.unlink(path).map(|()| true)
    }

    fn unlink(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path, |state| {
            let (folder, name) = state.place(path)?;
            if let Some(gone) = state.folder(folder)?.now.get(&name).copied() {
                state.folder(folder)?.note(Entry::Gone { name });
                state.free(gone);
            }
            Ok(())
        })
    }
}

enum Fate {
    Happens,
    Dies,
    Fails(io::Error),
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn admit(&mut self) -> Fate {
        if self.calm {
            return Fate::Happens;
        }
        if self.dead {
            return Fate::Fails(dead());
        }
        self.operations += 1;
        if self.operations >= self.dies_at {
            self.dead = true;
            return Fate::Dies;
        }
        let fails =
            self.faults > 0 && self.faults_in_a_row < IN_A_ROW && self.rng.random_ratio(1, self.faults);
        self.faults_in_a_row = if fails { self.faults_in_a_row + 1 } else { 0 };
        if fails { Fate::Fails(io::Error::other("input/output error")) } else { Fate::Happens }
    }

    fn folder(&mut self, node: u64) -> io::Result<&mut Folder> {
        match self.nodes.get_mut(&node) {
            Some(Node::Folder(folder)) => Ok(folder),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn find(&self, path: &Path) -> Option<u64> {
        path.components().try_fold(ROOT, |node, part| match (self.nodes.get(&node), part) {
            (Some(Node::Folder(folder)), Component::Normal(name)) => folder.now.get(name.to_str()?).copied(),
            _ => None,
        })
    }

    /// The folder that a path lies in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let folder = self.find(path.parent().unwrap_or(Path::new(""))).ok_or_else(missing)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((folder, name.to_owned()))
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<u64> {
        let (folder, name) = self.place(path)?;
        if matches!(node, Node::Folder(_)) {
            self.take(1)?;
        }
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        self.folder(folder)?.note(Entry::Made { name, node: id });
        Ok(id)
    }

    fn take(&mut self, blocks: u64) -> io::Result<()> {
        if self.used + blocks * BLOCK > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used += blocks * BLOCK;
        Ok(())
    }

    fn cost(&self, node: u64) -> u64 {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => file.blocks.len() as u64 * BLOCK,
            Some(Node::Folder(_)) if node != ROOT => BLOCK,
            _ => 0,
        }
    }

    /// What has no name any more takes no room; the node stays, because a power cut may bring the name back.
    fn free(&mut self, node: u64) {
        self.used = self.used.saturating_sub(self.cost(node));
    }

    fn file(&mut self, path: &Path) -> io::Result<u64> {
        match self.find(path) {
            Some(node) => Ok(node),
            None => self.make(path, Node::File(File::default())),
        }
    }

    fn contents(&mut self, node: u64) -> io::Result<&mut File> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let node = self.file(path)?;
        let mut fits = bytes.len();
        for block in blocks(offset, bytes.len()) {
            if !self.contents(node)?.blocks.contains(&block) {
                if self.take(1).is_err() {
                    fits = (block * BLOCK).saturating_sub(offset) as usize;
                    break;
                }
                self.contents(node)?.blocks.insert(block);
            }
        }
        let (offset, part) = (offset as usize, &bytes[..fits]);
        let file = self.contents(node)?;
        if fits > 0 {
            write(Arc::make_mut(&mut file.now), offset, part);
            file.unsynced.push(Change { what: What::Write { offset, bytes: part.to_vec() }, doomed: false });
        }
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn set_length(&mut self, path: &Path, bytes: u64) -> io::Result<u64> {
        let node = self.file(path)?;
        let file = self.contents(node)?;
        if file.now.len() as u64 != bytes {
            Arc::make_mut(&mut file.now).resize(bytes as usize, 0);
            file.unsynced.push(Change { what: What::Length(bytes as usize), doomed: false });
            let before = file.blocks.len() as u64;
            file.blocks.retain(|block| *block < bytes.div_ceil(BLOCK));
            let freed = before - file.blocks.len() as u64;
            self.used -= freed * BLOCK;
        }
        Ok(node)
    }

    fn sync(&mut self, node: u64) -> io::Result<()> {
        let file = self.contents(node)?;
        if file.unsynced.iter().any(|change| change.doomed) {
            let mut content = file.durable.to_vec();
            for change in file.unsynced.iter().filter(|change| !change.doomed) {
                change.what.apply(&mut content);
            }
            file.durable = Arc::new(content);
            file.unsynced.retain(|change| change.doomed);
        } else {
            file.durable = Arc::clone(&file.now);
            file.unsynced.clear();
        }
        Ok(())
    }

    fn lose_power(&mut self) {
        // From everything to nothing, so that the extremes come up too.
        let kept = [0.0, 0.3, 0.7, 1.0][self.rng.random_range(0..4)];
        let Self { nodes, rng, .. } = self;
        for node in nodes.values_mut() {
            match node {
                Node::File(file) => file.lose_power(kept, rng),
                Node::Folder(folder) => {
                    for entry in std::mem::take(&mut folder.unsynced) {
                        if rng.random_bool(kept) {
                            entry.apply(&mut folder.durable);
                        }
                    }
                    folder.now = folder.durable.clone();
                }
            }
        }
        let mut named = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(node) = open.pop() {
            if named.insert(node)
                && let Some(Node::Folder(folder)) = self.nodes.get(&node)
            {
                open.extend(folder.now.values());
            }
        }
        self.nodes.retain(|node, _| named.contains(node));
        self.used = named.iter().map(|node| self.cost(*node)).sum();
    }
}

impl What {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            What::Write { offset, bytes } => write(content, *offset, bytes),
            What::Length(bytes) => content.resize(*bytes, 0),
        }
    }
}

impl File {
    fn lose_power(&mut self, kept: f64, rng: &mut SmallRng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        if unsynced.is_empty() {
            return;
        }
        let mut content = self.durable.to_vec();
        for change in unsynced.into_iter().filter(|change| !change.doomed) {
            let whole = rng.random_bool(kept);
            match change.what {
                What::Write { offset, bytes } if !whole && kept > 0.0 && rng.random() => {
                    tear(&mut content, offset, &bytes, rng);
                }
                what if whole => what.apply(&mut content),
                _ => {}
            }
        }
        // Where nothing was written there is no block, but for the file system's own reasons there may be.
        self.blocks = blocks(0, content.len()).collect();
        self.durable = Arc::new(content);
        self.now = Arc::clone(&self.durable);
    }
}

/// Keeps some of a write: its beginning up to any byte, or any of its sectors.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], rng: &mut SmallRng) {
    if rng.random() {
        return write(content, offset, &bytes[..rng.random_range(0..=bytes.len())]);
    }
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        if rng.random() {
            write(content, offset + index * SECTOR, sector);
        }
    }
}

impl Disk for VirtualDisk {
    fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        let content =
            self.look(path, |state| match state.find(path).and_then(|node| state.nodes.get(&node)) {
                None => Ok(None),
                Some(Node::File(file)) => Ok(Some(Arc::clone(&file.now))),
                Some(Node::Folder(_)) => Err(io::ErrorKind::IsADirectory.into()),
            })?;
        match content {
            Some(content) if content.len() > max => Err(DiskError::TooLarge { path: path.to_owned(), max }),
            content => Ok(content.map(|content| content.to_vec())),
        }
    }

    fn read_at(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<usize, DiskError> {
        self.look(path, |state| match state.find(path).and_then(|node| state.nodes.get(&node)) {
            Some(Node::File(file)) => {
                let rest = file.now.get(offset as usize..).unwrap_or_default();
                let read = rest.len().min(buffer.len());
                buffer[..read].copy_from_slice(&rest[..read]);
                Ok(read)
            }
            Some(Node::Folder(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(missing()),
        })
    }

    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let state = &mut *self.lock();
        let (part, outcome) = match state.admit() {
            Fate::Happens => (bytes.len(), Ok(())),
            Fate::Dies => (state.rng.random_range(0..=bytes.len()), Err(dead())),
            Fate::Fails(error) if state.dead => (0, Err(error)),
            Fate::Fails(error) => (state.rng.random_range(0..=bytes.len()), Err(error)),
        };
        let written = if part > 0 || outcome.is_ok() {
            state.touched.push(path.to_owned());
            state.write(path, offset, &bytes[..part])
        } else {
            Ok(())
        };
        outcome.and(written).map_err(|e| DiskError::of(path, e))
    }

    fn size(&self, path: &Path) -> Result<Option<Size>, DiskError> {
        self.look(path, |state| {
            let size = |node| match state.nodes.get(&node) {
                Some(Node::File(file)) => file.now.len() as u64,
                _ => 0,
            };
            Ok(state.find(path).map(|node| Size { bytes: size(node), allocated: state.cost(node) }))
        })
    }

    fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        let state = &mut *self.lock();
        let fate = state.admit();
        if state.dead && matches!(fate, Fate::Fails(_)) {
            return Err(DiskError::of(path, dead()));
        }
        state.touched.push(path.to_owned());
        let settled = state.set_length(path, bytes).and_then(|node| match fate {
            Fate::Happens => state.sync(node),
            Fate::Dies => {
                if state.rng.random() {
                    state.sync(node)?;
                }
                Err(dead())
            }
            Fate::Fails(error) => {
                let unsynced = &mut state.contents(node)?.unsynced;
                unsynced.iter_mut().for_each(|change| change.doomed = true);
                Err(error)
            }
        });
        settled.map_err(|e| DiskError::of(path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.change(to, |state| {
            let node = state.find(from).ok_or_else(missing)?;
            let (source, old) = state.place(from)?;
            let (target, new) = state.place(to)?;
            if let Some(replaced) = state.find(to).filter(|replaced| *replaced != node) {
                state.free(replaced);
            }
            if source == target {
                state.folder(source)?.note(Entry::Renamed { from: old, to: new, node });
            } else {
                state.folder(target)?.note(Entry::Made { name: new, node });
                state.folder(source)?.note(Entry::Gone { name: old });
            }
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        if self.take_away(path)? {
            self.sync_folder(path.parent().unwrap_or(Path::new("")))?;
        }
        Ok(())
    }

    fn create_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path, |state| match state.find(path) {
            Some(_) => Ok(()),
            None => state.make(path, Node::Folder(Folder::default())).map(drop),
        })
    }

    fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path, |state| {
            let node = state.find(path).ok_or_else(missing)?;
            let folder = state.folder(node)?;
            folder.unsynced.clear();
            folder.durable = folder.now.clone();
            Ok(())
        })
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.look(path, |state| {
            let Some(Node::Folder(folder)) = state.find(path).and_then(|node| state.nodes.get(&node)) else {
                return Ok(Vec::new());
            };
            let is_folder = |node: &u64| matches!(state.nodes.get(node), Some(Node::Folder(_)));
            Ok(folder.now.iter().filter(|(_, node)| is_folder(node)).map(|(name, _)| name.clone()).collect())
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
