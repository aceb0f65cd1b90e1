//! What a disk may hold after a power loss, given the calls before it.
//!
//! The rules are harsher than a journalling file system's: of what was not synced any part may be there, in
//! any combination - sectors of one write, writes out of order, entries of a folder one by one (a rename is
//! two). What was synced is there. A folder written by another library holds exactly what that library had
//! synced, if it has been closed since; otherwise it holds anything.

use super::recorder::{Call, FileId, Recorder};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SECTOR: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(FileId),
    Dir,
}

/// A change of a folder that is not synced: the entry now, none for removed.
type DirChange = (String, Option<Node>);

#[derive(Debug, Clone)]
enum FileChange {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<FileChange>,
}

#[derive(Debug, Clone, Default)]
struct Dir {
    durable: BTreeMap<String, Node>,
    pending: Vec<DirChange>,
}

#[derive(Debug, Clone, Default)]
struct Foreign {
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Closed and synced: the files are exactly these.
    settled: bool,
}

/// The disk after some calls.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<FileId, File>,
    dirs: BTreeMap<PathBuf, Dir>,
    foreign: BTreeMap<PathBuf, Foreign>,
}

/// The share of what was not synced that has reached the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share(pub(crate) f64);

impl Disk {
    /// The disk after these calls, had those not been made that `made` denies.
    pub(crate) fn after(recorder: &Recorder, calls: &[Call], made: impl Fn(&Call) -> bool) -> Self {
        let mut disk = Self::default();
        disk.dirs.insert(PathBuf::new(), Dir::default());
        for path in recorder.initial_dirs.iter() {
            disk.dirs.insert(path.clone(), Dir::default());
            let (parent, name) = split(path);
            disk.dir(&parent).durable.insert(name, Node::Dir);
        }
        for (path, (id, content)) in recorder.initial_files.iter() {
            disk.files.insert(*id, File { durable: content.clone(), pending: Vec::new() });
            let (parent, name) = split(path);
            disk.dir(&parent).durable.insert(name, Node::File(*id));
        }
        for call in calls.iter().filter(|call| made(call)) {
            disk.take(call);
        }
        disk
    }

    fn take(&mut self, call: &Call) {
        match call {
            Call::CreateDir(path) => {
                self.dirs.insert(path.clone(), Dir::default());
                self.link(path, Some(Node::Dir));
            }
            Call::Create(path, id) => {
                self.files.insert(*id, File::default());
                self.link(path, Some(Node::File(*id)));
            }
            Call::Write(id, offset, bytes) => {
                self.file(*id).pending.push(FileChange::Write(*offset, bytes.clone()));
            }
            Call::SetLen(id, len) => self.file(*id).pending.push(FileChange::SetLen(*len)),
            Call::Sync(id) => self.file(*id).sync(),
            Call::SyncAll => {
                self.files.values_mut().for_each(File::sync);
                self.dirs.values_mut().for_each(Dir::sync);
            }
            Call::Rename(from, to, id) => {
                self.link(to, Some(Node::File(*id)));
                self.link(from, None);
            }
            Call::RemoveFile(path) | Call::RemoveDir(path) => self.link(path, None),
            Call::SyncDir(path) => self.sync_dir(path),
            Call::HandOver(path) => self.foreign.entry(path.clone()).or_default().settled = false,
            Call::SyncForeign(path, content) => {
                let (_, foreign) = self
                    .foreign
                    .iter_mut()
                    .find(|(folder, _)| path.starts_with(folder))
                    .expect("only files of a folder that was handed over are synced for others");
                foreign.files.insert(path.clone(), content.clone());
            }
        }
    }

    fn sync_dir(&mut self, path: &Path) {
        if let Some(foreign) = self.foreign.get_mut(path) {
            // The last call of a close: all files below have been synced before.
            foreign.settled = true;
        } else if !self.foreign.keys().any(|folder| path.starts_with(folder)) {
            self.dir(path).sync();
        }
    }

    /// Writes one possible state into an empty folder.
    pub(crate) fn lose(&self, kept: Share, rng: &mut StdRng, target: &Path) {
        self.lose_dir(Path::new(""), kept, rng, target);
    }

    fn lose_dir(&self, path: &Path, kept: Share, rng: &mut StdRng, target: &Path) {
        std::fs::create_dir_all(target).unwrap();
        let dir = &self.dirs[path];
        let mut entries = dir.durable.clone();
        for (name, node) in &dir.pending {
            if rng.random_bool(kept.0) {
                set(&mut entries, name.clone(), *node);
            }
        }
        for (name, node) in entries {
            let (path, target) = (path.join(&name), target.join(&name));
            match node {
                Node::Dir if self.foreign.contains_key(&path) => self.lose_foreign(&path, rng, &target),
                Node::Dir => self.lose_dir(&path, kept, rng, &target),
                Node::File(id) => std::fs::write(target, self.files[&id].lose(kept, rng)).unwrap(),
            }
        }
    }

    fn lose_foreign(&self, path: &Path, rng: &mut StdRng, target: &Path) {
        let foreign = &self.foreign[path];
        std::fs::create_dir_all(target).unwrap();
        for (file, content) in &foreign.files {
            let mut content = content.clone();
            if !foreign.settled {
                match rng.random_range(0..4) {
                    0 => continue,
                    1 => content.truncate(rng.random_range(0..=content.len())),
                    2 => (0..20).for_each(|_| {
                        let at = rng.random_range(0..content.len().max(1));
                        content.iter_mut().skip(at).take(SECTOR).for_each(|byte| *byte = rng.random());
                    }),
                    _ => {}
                }
            }
            let target = target.join(file.strip_prefix(path).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::write(target, content).unwrap();
        }
    }

    fn link(&mut self, path: &Path, node: Option<Node>) {
        let (parent, name) = split(path);
        self.dir(&parent).pending.push((name, node));
    }

    fn dir(&mut self, path: &Path) -> &mut Dir {
        self.dirs.get_mut(path).unwrap_or_else(|| panic!("the folder {} is known", path.display()))
    }

    fn file(&mut self, id: FileId) -> &mut File {
        self.files.get_mut(&id).expect("files are created before they are written")
    }
}

impl Dir {
    fn sync(&mut self) {
        for (name, node) in std::mem::take(&mut self.pending) {
            set(&mut self.durable, name, node);
        }
    }
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable, |_| true);
        }
    }

    fn lose(&self, kept: Share, rng: &mut StdRng) -> Vec<u8> {
        let mut content = self.durable.clone();
        for change in &self.pending {
            change.apply(&mut content, |_| rng.random_bool(kept.0));
        }
        content
    }
}

impl FileChange {
    /// Applies the change, or those of its sectors that `keep` says.
    fn apply(&self, content: &mut Vec<u8>, mut keep: impl FnMut(u64) -> bool) {
        match self {
            Self::SetLen(len) if keep(0) => content.resize(*len as usize, 0),
            Self::SetLen(_) => {}
            Self::Write(offset, bytes) => {
                let (mut at, end) = (*offset as usize, *offset as usize + bytes.len());
                while at < end {
                    let next = end.min((at / SECTOR + 1) * SECTOR);
                    if keep(at as u64) {
                        if content.len() < next {
                            content.resize(next, 0);
                        }
                        content[at..next]
                            .copy_from_slice(&bytes[at - *offset as usize..next - *offset as usize]);
                    }
                    at = next;
                }
            }
        }
    }
}

fn set(entries: &mut BTreeMap<String, Node>, name: String, node: Option<Node>) {
    match node {
        Some(node) => entries.insert(name, node),
        None => entries.remove(&name),
    };
}

fn split(path: &Path) -> (PathBuf, String) {
    let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
    (parent, path.file_name().and_then(|name| name.to_str()).expect("names are text").to_owned())
}
