//! Processes of this machine: which belong to a test, and their end.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

/// Waits for the end of a process, for so long at most. Says whether it has ended; a child then waits to be reaped.
pub fn wait_for_end(pid: Pid, limit: Duration) -> bool {
    let descriptor = match open(pid) {
        Ok(descriptor) => descriptor,
        Err(Errno::ESRCH) => return true,
        Err(error) => panic!("pidfd_open of {pid}: {error}"),
    };
    let mut entries = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap();
    match poll(&mut entries, timeout) {
        Ok(count) => count > 0,
        Err(error) => panic!("poll of {pid}: {error}"),
    }
}

/// A descriptor that becomes readable when the process ends.
fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open(2) takes two integers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let descriptor = Errno::result(descriptor)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).unwrap()) })
}

/// The processes that have `variable=value` in their environment, or a file below `directory` open: a machine's
/// process has an empty environment, and its lock file there.
pub fn belonging_to(variable: &str, value: &Path, directory: &Path) -> Vec<Pid> {
    let mut entry = OsString::from(format!("{variable}="));
    entry.push(value);
    all()
        .into_iter()
        .filter(|&pid| pid != Pid::this())
        .filter(|&pid| has_variable(pid, entry.as_bytes()) || has_open_below(pid, directory))
        .collect()
}

/// The processes that have a file below `directory` open.
pub fn with_open_below(directory: &Path) -> Vec<Pid> {
    all()
        .into_iter()
        .filter(|&pid| has_open_below(pid, directory))
        .collect()
}

/// A file of the process's directory below /proc.
pub fn proc_file(pid: Pid, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// What is known of a process, for messages.
pub fn describe(pid: Pid) -> String {
    let line = fs::read(proc_file(pid, "cmdline")).unwrap_or_default();
    format!(
        "{pid}: {}",
        String::from_utf8_lossy(&line).replace('\0', " ")
    )
}

/// What every thread of every `msb` does, for messages: its name, where in the kernel it waits, its state and the clock
/// ticks that it ran in user and kernel mode (proc(5)).
pub fn activity() -> String {
    let mut lines = String::new();
    let is_msb = |pid: &Pid| read_text(proc_file(*pid, "comm")).starts_with("msb");
    for pid in all().into_iter().filter(is_msb) {
        let threads = fs::read_dir(proc_file(pid, "task")).into_iter().flatten();
        for thread in threads.flatten().map(|entry| entry.path()) {
            let name = read_text(thread.join("comm"));
            let waits = read_text(thread.join("wchan"));
            let stat = read_text(thread.join("stat"));
            // The fields behind the name, which may hold anything: the third is the first of them.
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
            let (state, ticks) = (fields.first(), fields.get(11..13));
            lines += &format!("  {pid} {} {waits} {state:?} {ticks:?}\n", name.trim());
        }
    }
    lines
}

fn read_text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn all() -> Vec<Pid> {
    let names = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok().map(Pid::from_raw))
        .collect()
}

// Both: processes may end meanwhile, and those of other users do not show what they have.

fn has_variable(pid: Pid, entry: &[u8]) -> bool {
    let environment = fs::read(proc_file(pid, "environ")).unwrap_or_default();
    environment
        .split(|&byte| byte == 0)
        .any(|variable| variable == entry)
}

fn has_open_below(pid: Pid, directory: &Path) -> bool {
    let links = || -> io::Result<bool> {
        // Until it executes its program, a child of a test has what the test has open at that moment.
        if fs::read_link(proc_file(pid, "exe"))? == env::current_exe()? {
            return Ok(false);
        }
        for entry in fs::read_dir(proc_file(pid, "fd"))? {
            if fs::read_link(entry?.path()).is_ok_and(|target| target.starts_with(directory)) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    links().unwrap_or(false)
}
