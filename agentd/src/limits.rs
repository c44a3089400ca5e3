//! Limits that agentd has for itself and not for the processes it starts.

use std::fs::OpenOptions;
use std::io::{self, Write};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files of agentd: more than the sessions it accepts can need.
const OWN_OPEN_FILES: u64 = 16 * 1024;

/// Open files of a process that does not ask for another limit: what programs that use select(2)
/// can bear ...
const OPEN_FILES: u64 = 1024;

/// ... and what the others may raise it to.
const MAX_OPEN_FILES: u64 = 512 * 1024;

/// The highest priority and the one that processes have, see setpriority(2).
const OWN_NICE: libc::c_int = -20;
const NICE: libc::c_int = 0;

/// Gives agentd enough open files, and keeps it alive when memory is short: without PID 1 there is
/// no guest. It comes before the processes that it serves, however many want the processor: it hears a new client or
/// a request to stop at once.
pub(crate) fn set_own() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, OWN_OPEN_FILES, MAX_OPEN_FILES)?;
    set_nice(OWN_NICE)?;
    set_oom_score(-1000)
}

/// Undoes this in a new process.
pub(crate) fn reset_for_child() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
    // Whoever runs agentd with less than the usual priority, as a test may, has meant it.
    // SAFETY: getpriority(2) takes two numbers; 0 is the calling process.
    if unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } < NICE {
        set_nice(NICE)?;
    }
    // The guest may have hidden /proc; then the process is merely spared when memory is short.
    let _ = set_oom_score(0);
    Ok(())
}

fn set_nice(nice: libc::c_int) -> io::Result<()> {
    // SAFETY: setpriority(2) takes three numbers; 0 is the calling process.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// How gladly the kernel kills this process when memory is short: -1000 (never) to 1000, see
/// proc_pid_oom_score_adj(5).
fn set_oom_score(score: i16) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")?;
    file.write_all(score.to_string().as_bytes())
}
