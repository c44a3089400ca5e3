//! Limits that agentd has for itself and not for the processes it starts.

use std::fs::OpenOptions;
use std::io::{self, Write};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Open files of agentd: more than the sessions it accepts can need.
const OWN_OPEN_FILES: u64 = 16 * 1024;

/// Open files of a process that does not ask for another limit: what programs that use select(2)
/// can bear ...
const OPEN_FILES: u64 = 1024;

/// ... and what the others may raise it to.
const MAX_OPEN_FILES: u64 = 512 * 1024;

/// Gives agentd enough open files, and keeps it alive when memory is short: without PID 1 there is
/// no guest.
pub(crate) fn set_own() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, OWN_OPEN_FILES, MAX_OPEN_FILES)?;
    set_oom_score(-1000)
}

/// Undoes this in a new process.
pub(crate) fn reset_for_child() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.min(hard), hard)?;
    // The guest may have hidden /proc; then the process is merely spared when memory is short.
    let _ = set_oom_score(0);
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
