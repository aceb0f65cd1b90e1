//! Passes calls on to the real file system and notes each of them, in order.

use flotilla_storage::fs::{Entry, Fs, FsFile, RealFs};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A file, whatever its name.
pub(crate) type FileId = usize;

/// One call with an effect. Paths are relative to the recorded folder.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    CreateDir(PathBuf),
    Create(PathBuf, FileId),
    Write(FileId, u64, Vec<u8>),
    SetLen(FileId, u64),
    Sync(FileId),
    /// From, to, and the file that moved.
    Rename(PathBuf, PathBuf, FileId),
    RemoveFile(PathBuf),
    RemoveDir(PathBuf),
    SyncDir(PathBuf),
    /// Everything is durable.
    SyncAll,
    /// Another library writes below this folder from now on.
    HandOver(PathBuf),
    /// A file of such a library is durable with this content.
    SyncForeign(PathBuf, Vec<u8>),
}

#[derive(Debug, Default)]
struct Log {
    calls: Vec<Call>,
    /// The files by their names now.
    names: BTreeMap<PathBuf, FileId>,
    files: usize,
    /// After this many calls the process is dead: every further call fails.
    dead_after: Option<usize>,
}

impl Log {
    fn check_alive(&self) -> io::Result<()> {
        match self.dead_after {
            Some(calls) if self.calls.len() >= calls => Err(io::Error::other("the process is dead")),
            _ => Ok(()),
        }
    }
}

/// What a recording starts from and what was called since.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    root: PathBuf,
    log: Arc<Mutex<Log>>,
    /// The files that were there when recording began, with their content.
    pub(crate) initial_files: Arc<BTreeMap<PathBuf, (FileId, Vec<u8>)>>,
    /// The folders that were there when recording began.
    pub(crate) initial_dirs: Arc<Vec<PathBuf>>,
}

struct RecordedFile {
    file: Box<dyn FsFile>,
    id: FileId,
    log: Arc<Mutex<Log>>,
}

impl Recorder {
    /// Records what happens below `root`, taking what is there now as durable.
    pub(crate) fn new(root: &Path) -> Self {
        let (mut files, mut dirs, mut log) = (BTreeMap::new(), Vec::new(), Log::default());
        let mut open = vec![root.to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in RealFs.list(&dir).unwrap() {
                let path = dir.join(&entry.name);
                let relative = path.strip_prefix(root).unwrap().to_path_buf();
                if entry.is_dir {
                    dirs.push(relative);
                    open.push(path);
                } else {
                    log.names.insert(relative.clone(), log.files);
                    files.insert(relative, (log.files, std::fs::read(&path).unwrap()));
                    log.files += 1;
                }
            }
        }
        dirs.sort();
        Self {
            root: root.to_path_buf(),
            log: Arc::new(Mutex::new(log)),
            initial_files: Arc::new(files),
            initial_dirs: Arc::new(dirs),
        }
    }

    /// How many calls there have been: a point in time.
    pub(crate) fn now(&self) -> usize {
        self.log.lock().unwrap().calls.len()
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.log.lock().unwrap().calls.clone()
    }

    /// Ends the process that uses the stores after this many more calls, or lets a new one live.
    pub(crate) fn kill_after(&self, more: Option<usize>) {
        let mut log = self.log.lock().unwrap();
        log.dead_after = more.map(|more| log.calls.len() + more);
    }

    /// Whether the process has been killed.
    pub(crate) fn is_dead(&self) -> bool {
        self.log.lock().unwrap().check_alive().is_err()
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).expect("all paths are below the recorded folder").to_path_buf()
    }

    /// Does something and notes it at one moment, so that the notes are in the order of the effects.
    fn note<T>(&self, work: impl FnOnce(&mut Log) -> io::Result<(T, Call)>) -> io::Result<T> {
        let mut log = self.log.lock().unwrap();
        log.check_alive()?;
        let (result, call) = work(&mut log)?;
        log.calls.push(call);
        Ok(result)
    }
}

impl Fs for Recorder {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.note(|_| Ok((RealFs.create_dir(path)?, Call::CreateDir(self.relative(path)))))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        self.note(|log| {
            let file = RealFs.create(path)?;
            let id = log.files;
            log.files += 1;
            log.names.insert(self.relative(path), id);
            let recorded: Box<dyn FsFile> = Box::new(RecordedFile { file, id, log: Arc::clone(&self.log) });
            Ok((recorded, Call::Create(self.relative(path), id)))
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = RealFs.open(path)?;
        let id = self.log.lock().unwrap().names[&self.relative(path)];
        Ok(Box::new(RecordedFile { file, id, log: Arc::clone(&self.log) }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        RealFs.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(|log| {
            RealFs.rename(from, to)?;
            let id = log.names.remove(&self.relative(from)).expect("only known files are renamed");
            log.names.insert(self.relative(to), id);
            Ok(((), Call::Rename(self.relative(from), self.relative(to), id)))
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.note(|log| {
            RealFs.remove_file(path)?;
            log.names.remove(&self.relative(path));
            Ok(((), Call::RemoveFile(self.relative(path))))
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.note(|_| Ok((RealFs.remove_dir_all(path)?, Call::RemoveDir(self.relative(path)))))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Noted only: nothing here survives on the real disk's account.
        self.note(|_| Ok(((), Call::SyncDir(self.relative(path)))))
    }

    fn sync_all(&self, _path: &Path) -> io::Result<()> {
        self.note(|_| Ok(((), Call::SyncAll)))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealFs.list(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealFs.free_bytes(path)
    }

    fn hand_over(&self, folder: &Path) {
        self.log.lock().unwrap().calls.push(Call::HandOver(self.relative(folder)));
    }

    fn sync_foreign(&self, path: &Path) -> io::Result<()> {
        self.note(|_| Ok(((), Call::SyncForeign(self.relative(path), std::fs::read(path)?))))
    }
}

impl RecordedFile {
    fn note(&self, call: Call, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut log = self.log.lock().unwrap();
        log.check_alive()?;
        work()?;
        log.calls.push(call);
        Ok(())
    }
}

impl FsFile for RecordedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.note(Call::Write(self.id, offset, bytes.to_vec()), || self.file.write_all_at(bytes, offset))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Call::SetLen(self.id, len), || self.file.set_len(len))
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> io::Result<()> {
        self.note(Call::Sync(self.id), || Ok(()))
    }
}
