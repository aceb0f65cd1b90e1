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

use super::tree::{Entry, Folder, Node, Tree, missing};
use crate::disk::{Disk, DiskError, Size};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Faults that may follow one another.
pub(super) const IN_A_ROW: u32 = 2;

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
    tree: Tree,
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

impl VirtualDisk {
    /// An empty disk of so many bytes.
    pub(super) fn new(seed: u64, capacity: u64) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            tree: Tree::new(capacity),
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
        self.lock().tree.capacity = capacity;
    }

    /// Something else fills it up to so many bytes.
    pub(super) fn fill(&self, leaving: u64) {
        let tree = &mut self.lock().tree;
        tree.capacity = tree.used + leaving;
    }

    /// Bytes that are free.
    pub(super) fn free_bytes(&self) -> u64 {
        let tree = &self.lock().tree;
        tree.capacity.saturating_sub(tree.used)
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
        let tree = &self.lock().tree;
        match tree.at(path) {
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
        let State { tree, rng, dead, dies_at, .. } = &mut *self.lock();
        (*dead, *dies_at) = (false, u64::MAX);
        match down {
            Down::Power => tree.lose_power(rng),
            Down::Process => tree.forgive(),
        }
    }

    /// A change that happens or not.
    fn change(&self, path: &Path, work: impl FnOnce(&mut Tree) -> io::Result<()>) -> Result<(), DiskError> {
        let state = &mut *self.lock();
        let (happens, outcome) = match state.admit() {
            Fate::Happens => (true, Ok(())),
            Fate::Dies => (state.rng.random(), Err(dead())),
            Fate::Fails(error) => (false, Err(error)),
        };
        let worked = if happens {
            state.touched.push(path.to_owned());
            work(&mut state.tree)
        } else {
            Ok(())
        };
        // Where the process died nobody hears how it ended.
        let done = outcome.and(worked);
        done.map_err(|e| DiskError::of(path, e))
    }

    /// A look at the disk.
    fn look<T>(&self, path: &Path, work: impl FnOnce(&Tree) -> io::Result<T>) -> Result<T, DiskError> {
        let state = &mut *self.lock();
        let seen = match state.admit() {
            Fate::Happens => work(&state.tree),
            Fate::Dies => Err(dead()),
            Fate::Fails(error) => Err(error),
        };
        seen.map_err(|e| DiskError::of(path, e))
    }

    /// Removes a file, or a folder one thing after the other; false if nothing is there.
    fn take_away(&self, path: &Path) -> Result<bool, DiskError> {
        let inside: Option<Vec<String>> = self.look(path, |tree| {
            Ok(tree.find(path).map(|node| match tree.nodes.get(&node) {
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
        self.change(path, |tree| {
            let (folder, name) = tree.place(path)?;
            if let Some(gone) = tree.folder(folder)?.now.get(&name).copied() {
                tree.folder(folder)?.note(Entry::Gone { name });
                tree.free(gone);
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
}

impl Disk for VirtualDisk {
    fn content(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>, DiskError> {
        let content = self.look(path, |tree| match tree.at(path) {
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
        self.look(path, |tree| match tree.at(path) {
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
            state.tree.write(path, offset, &bytes[..part])
        } else {
            Ok(())
        };
        outcome.and(written).map_err(|e| DiskError::of(path, e))
    }

    fn size(&self, path: &Path) -> Result<Option<Size>, DiskError> {
        self.look(path, |tree| {
            let size = |node| match tree.nodes.get(&node) {
                Some(Node::File(file)) => file.now.len() as u64,
                _ => 0,
            };
            Ok(tree.find(path).map(|node| Size { bytes: size(node), allocated: tree.cost(node) }))
        })
    }

    fn settle(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        let state = &mut *self.lock();
        let fate = state.admit();
        if state.dead && matches!(fate, Fate::Fails(_)) {
            return Err(DiskError::of(path, dead()));
        }
        state.touched.push(path.to_owned());
        let settled = state.tree.set_length(path, bytes).and_then(|node| match fate {
            Fate::Happens => state.tree.sync(node),
            Fate::Dies => {
                if state.rng.random() {
                    state.tree.sync(node)?;
                }
                Err(dead())
            }
            Fate::Fails(error) => {
                state.tree.doom(node)?;
                Err(error)
            }
        });
        settled.map_err(|e| DiskError::of(path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.change(to, |tree| {
            let node = tree.find(from).ok_or_else(missing)?;
            let (source, old) = tree.place(from)?;
            let (target, new) = tree.place(to)?;
            if let Some(replaced) = tree.find(to).filter(|replaced| *replaced != node) {
                tree.free(replaced);
            }
            if source == target {
                tree.folder(source)?.note(Entry::Renamed { from: old, to: new, node });
            } else {
                tree.folder(target)?.note(Entry::Made { name: new, node });
                tree.folder(source)?.note(Entry::Gone { name: old });
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
        self.change(path, |tree| match tree.find(path) {
            Some(_) => Ok(()),
            None => tree.make(path, Node::Folder(Folder::default())).map(drop),
        })
    }

    fn sync_folder(&self, path: &Path) -> Result<(), DiskError> {
        self.change(path, |tree| {
            let node = tree.find(path).ok_or_else(missing)?;
            let folder = tree.folder(node)?;
            folder.sync();
            Ok(())
        })
    }

    fn folders(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        self.look(path, |tree| {
            let Some(Node::Folder(folder)) = tree.at(path) else {
                return Ok(Vec::new());
            };
            let is_folder = |node: &u64| matches!(tree.nodes.get(node), Some(Node::Folder(_)));
            Ok(folder.now.iter().filter(|(_, node)| is_folder(node)).map(|(name, _)| name.clone()).collect())
        })
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
