//! How far the imports that run now are. Kept in memory: an import that ends with the process leaves nothing behind.

use flotilla_data::{ImportProgress, ImportStage};
use flotilla_protocol::DatasetName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The running imports. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Imports(Arc<Mutex<Running>>);

/// By dataset, in the order of their beginning, each with its number.
type Running = BTreeMap<DatasetName, Vec<(u64, ImportProgress)>>;

impl Imports {
    /// An import into this dataset begins; it ends when the guard is dropped.
    pub fn begin(&self, name: &DatasetName) -> RunningImport {
        let start = ImportProgress { stage: ImportStage::Reading, done: 0, total: None };
        let mut all = self.lock();
        let of_name = all.entry(name.clone()).or_default();
        let number = of_name.last().map_or(0, |(number, _)| number + 1);
        of_name.push((number, start));
        RunningImport { imports: self.clone(), name: name.clone(), number }
    }

    /// How far the import into this dataset is that began first.
    pub fn progress(&self, name: &DatasetName) -> Option<ImportProgress> {
        self.lock().get(name).and_then(|running| running.first()).map(|(_, progress)| *progress)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One running import.
#[derive(Debug)]
pub struct RunningImport {
    imports: Imports,
    name: DatasetName,
    number: u64,
}

impl RunningImport {
    /// It is so far.
    pub fn report(&self, progress: ImportProgress) {
        let mut all = self.imports.lock();
        let running = all.get_mut(&self.name).into_iter().flatten();
        if let Some((_, mine)) = running.into_iter().find(|(number, _)| *number == self.number) {
            *mine = progress;
        }
    }
}

impl Drop for RunningImport {
    fn drop(&mut self) {
        let mut all = self.imports.lock();
        if let Some(running) = all.get_mut(&self.name) {
            running.retain(|(number, _)| *number != self.number);
            if running.is_empty() {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_running_import_is_seen_until_it_ends_and_the_first_of_two_is_shown() {
        let imports = Imports::default();
        let name: DatasetName = "digits".parse().unwrap();
        assert!(imports.progress(&name).is_none());
        let first = imports.begin(&name);
        let second = imports.begin(&name);
        let at = |done| ImportProgress { stage: ImportStage::Reading, done, total: Some(9) };
        first.report(at(3));
        second.report(at(1));
        assert_eq!(imports.progress(&name).unwrap().done, 3);
        drop(first);
        assert_eq!(imports.progress(&name).unwrap().done, 1);
        drop(second);
        assert!(imports.progress(&name).is_none());
    }
}
