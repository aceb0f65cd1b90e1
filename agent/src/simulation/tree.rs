//! Files and folders of the virtual disk: what they are now, and what of that is durable.

use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

/// What room is given out in.
pub(super) const BLOCK: u64 = 4_096;
/// What a disk writes as a whole.
pub(super) const SECTOR: usize = 512;
const ROOT: u64 = 0;

/// All of them.
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<u64, Node>,
    next: u64,
    pub(super) capacity: u64,
    pub(super) used: u64,
}

/// A file or a folder.
pub(super) enum Node {
    File(File),
    Folder(Folder),
}

/// A file: what is read back, and what is left of it when the power goes.
#[derive(Default)]
pub(super) struct File {
    pub(super) now: Arc<Vec<u8>>,
    blocks: BTreeSet<u64>,
    durable: Arc<Vec<u8>>,
    unsynced: Vec<Change>,
}

/// What was done to a file since it was brought to stable storage.
struct Change {
    what: What,
    /// It could not be brought to stable storage, and never will be.
    doomed: bool,
}

enum What {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// A folder: its names now, and those that are left when the power goes.
#[derive(Default)]
pub(super) struct Folder {
    pub(super) now: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    unsynced: Vec<Entry>,
}

/// What was done to a folder.
pub(super) enum Entry {
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
    /// Brings it to stable storage.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.durable = self.now.clone();
    }

    /// Does something to it, not durably.
    pub(super) fn note(&mut self, entry: Entry) {
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

/// Nothing is there.
pub(super) fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Tree {
    /// An empty folder with so much room.
    pub(super) fn new(capacity: u64) -> Self {
        let root = Node::Folder(Folder::default());
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, capacity, used: 0 }
    }

    /// What is at a path.
    pub(super) fn at(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(&self.find(path)?)
    }

    /// What a file holds could not be brought to stable storage, and never will be.
    pub(super) fn doom(&mut self, node: u64) -> io::Result<()> {
        self.contents(node)?.unsynced.iter_mut().for_each(|change| change.doomed = true);
        Ok(())
    }

    /// It may come to stable storage after all.
    pub(super) fn forgive(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.unsynced.iter_mut().for_each(|change| change.doomed = false);
            }
        }
    }

    pub(super) fn folder(&mut self, node: u64) -> io::Result<&mut Folder> {
        match self.nodes.get_mut(&node) {
            Some(Node::Folder(folder)) => Ok(folder),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        path.components().try_fold(ROOT, |node, part| match (self.nodes.get(&node), part) {
            (Some(Node::Folder(folder)), Component::Normal(name)) => folder.now.get(name.to_str()?).copied(),
            _ => None,
        })
    }

    /// The folder that a path lies in, and its name there.
    pub(super) fn place(&self, path: &Path) -> io::Result<(u64, String)> {
        let folder = self.find(path.parent().unwrap_or(Path::new(""))).ok_or_else(missing)?;
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((folder, name.to_owned()))
    }

    pub(super) fn make(&mut self, path: &Path, node: Node) -> io::Result<u64> {
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

    pub(super) fn cost(&self, node: u64) -> u64 {
        match self.nodes.get(&node) {
            Some(Node::File(file)) => file.blocks.len() as u64 * BLOCK,
            Some(Node::Folder(_)) if node != ROOT => BLOCK,
            _ => 0,
        }
    }

    /// What has no name any more takes no room; the node stays, because a power cut may bring the name back.
    pub(super) fn free(&mut self, node: u64) {
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

    pub(super) fn write(&mut self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
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

    pub(super) fn set_length(&mut self, path: &Path, bytes: u64) -> io::Result<u64> {
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

    pub(super) fn sync(&mut self, node: u64) -> io::Result<()> {
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

    /// The power goes: of what is not on stable storage anything may be lost.
    pub(super) fn lose_power(&mut self, rng: &mut SmallRng) {
        // From everything to nothing, so that the extremes come up too.
        let kept = [0.0, 0.3, 0.7, 1.0][rng.random_range(0..4)];
        for node in self.nodes.values_mut() {
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
