//! What a child process is held to, whatever its program does: set by the system between fork and exec, so that a bad
//! program cannot forget it.
#![expect(unsafe_code, reason = "pre_exec has no safe form")]

use rustix::process::{Resource, Rlimit, getppid, setrlimit};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Lets the child end with this process, however that ends, where the system knows how; and, if `memory_bytes` is not 0,
/// bounds its private memory and keeps it from leaving core files.
///
/// The system looks at the thread that starts the child: that must live as long as the process.
pub fn bind(command: &mut Command, memory_bytes: u64) {
    let parent = std::process::id();
    let bound = move || {
        if memory_bytes > 0 {
            limit_memory(memory_bytes)?;
        }
        end_with_parent()?;
        // A parent that ended before the line above is not told of.
        let same = getppid().is_some_and(|now| u32::try_from(now.as_raw_nonzero().get()) == Ok(parent));
        if same { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: the closure makes system calls only and allocates nothing, so it may run in a forked child.
    unsafe { command.pre_exec(bound) };
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn end_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// Bounds the private writable memory of this process, heap and anonymous mappings, from now on; and keeps a
/// crash from leaving a core file on the device's disk.
///
/// The bound is on data and not on address space: allocators and thread stacks reserve far more addresses than
/// they ever use, and the program's own file is mapped too.
pub fn limit_memory(bytes: u64) -> io::Result<()> {
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    setrlimit(Resource::Core, limit(0))?;
    Ok(setrlimit(Resource::Data, limit(bytes))?)
}
