//! What the process holds and does not need any more.
//!
//! Starting up, loading a model and probing run much code that is not run again, and the kernel maps sixteen pages
//! around each that is touched. On a small device that is most of what the agent holds. What is clean and comes from a
//! file can be let go at no risk: a page that is needed again is mapped again, mostly from the page cache.
//!
//! The allocator keeps what was freed, too, up to a bound that grows with the largest piece that was ever freed
//! (mallopt(3), `M_MMAP_THRESHOLD`): opening the outbox frees many buffers of half a MiB. Where it is glibc's, it is told
//! to give back what it keeps.

use rustix::mm::{Advice, madvise};
use std::fs;

/// A mapping as `/proc/self/smaps` describes it (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// It is of a file and cannot be written to.
    fixed: bool,
    /// Bytes that differ from the file, relocations for example.
    anonymous_kib: Option<u64>,
}

impl Mapping {
    /// Whether nothing is lost with it.
    fn is_clean(&self) -> bool {
        self.fixed && self.anonymous_kib == Some(0)
    }
}

/// Lets go of memory that was freed, and of all text and constants that can be read again from their files. Does nothing
/// where the system does not tell what they are.
pub(crate) fn let_go() {
    trim();
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for mapping in mappings(&smaps).into_iter().filter(Mapping::is_clean) {
        release(&mapping);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "there is no safe call for it; the argument stands inside")]
fn trim() {
    // SAFETY: malloc_trim(3) may be called at any time and from any thread; it touches free memory only.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[expect(unsafe_code, reason = "there is no safe call for it; the argument stands inside")]
fn release(mapping: &Mapping) {
    let address = std::ptr::with_exposed_provenance_mut(mapping.start);
    // SAFETY: MADV_DONTNEED on a private file mapping drops pages that the next access reads from the file again
    // (madvise(2)). The mapping cannot be written to and holds no page that differs from the file, so every byte keeps
    // its value. It is the program's or a library's own and is never unmapped: nothing here unloads libraries.
    let released = unsafe { madvise(address, mapping.end - mapping.start, Advice::LinuxDontNeed) };
    if let Err(error) = released {
        tracing::debug!(%error, "text stays in memory");
    }
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Anonymous:") {
            if let Some(last) = all.last_mut() {
                last.anonymous_kib = kib.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok());
            }
        } else if let Some(mapping) = header(line) {
            all.push(mapping);
        }
    }
    all
}

/// `start-end perms offset device inode path`; any other line is a field of the mapping before it.
fn header(line: &str) -> Option<Mapping> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    let path = words.next().unwrap_or_default();
    Some(Mapping {
        start: usize::from_str_radix(start, 16).ok()?,
        end: usize::from_str_radix(end, 16).ok()?,
        fixed: permissions.starts_with("r-")
            && permissions.ends_with('p')
            && inode != "0"
            && path.starts_with('/'),
        anonymous_kib: None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_clean_mappings_of_files_that_cannot_be_written_are_let_go() {
        let fields =
            |anonymous: u64| format!("Size: 4 kB\nRss: 4 kB\nAnonymous:      {anonymous} kB\nVmFlags: rd\n");
        let smaps = [
            ("1000-2000 r-xp 00000000 fe:00 77 /bin/agent", 0),
            ("2000-3000 r--p 00001000 fe:00 77 /bin/agent", 4),
            ("3000-4000 rw-p 00002000 fe:00 77 /bin/agent", 0),
            ("4000-5000 r--s 00000000 fe:00 78 /tmp/shared", 0),
            ("5000-6000 r-xp 00000000 00:00 0 [vdso]", 0),
            ("6000-7000 r--p 00000000 00:00 0", 0),
            ("7000-9000 r--p 00000000 fe:00 79 /lib/libc.so.6", 0),
        ]
        .map(|(header, anonymous)| format!("{header}\n{}", fields(anonymous)))
        .concat();
        let all = mappings(&smaps);
        assert_eq!(all.len(), 7);
        let clean: Vec<_> = all.iter().filter(|m| m.is_clean()).map(|m| (m.start, m.end)).collect();
        assert_eq!(clean, [(0x1000, 0x2000), (0x7000, 0x9000)]);
    }

    #[test]
    fn the_program_goes_on_with_its_text_let_go() {
        let before = mappings(&fs::read_to_string("/proc/self/smaps").unwrap());
        assert!(before.iter().any(Mapping::is_clean), "this program has text");
        let_go();
        assert_eq!(crate::sensors::rss_bytes().map(|bytes| bytes > 0), Some(true));
    }
}
