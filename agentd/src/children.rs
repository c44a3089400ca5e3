//! Signals to processes and the end of processes.
//!
//! The wrappers of nix know only the signals up to 31, and refuse to report that a process was
//! ended by another; therefore these are the plain system calls.

use nix::errno::Errno;
use nix::unistd::{Pid, getpid};
use protocol::ExitStatus;

/// Highest signal number, `SIGRTMAX`.
pub(crate) const MAX_SIGNAL: i32 = 64;

/// Sends `signal` to the group that the child `pid` leads. The child must not have been reaped.
pub(crate) fn signal_group(pid: Pid, signal: i32) {
    // SAFETY: kill(2) touches no memory.
    let result = Errno::result(unsafe { libc::kill(-pid.as_raw(), signal) });
    if result == Err(Errno::ESRCH) {
        // A process that has just been made does not lead its group yet; it is alone, though.
        // SAFETY: as above.
        unsafe { libc::kill(pid.as_raw(), signal) };
    }
}

/// Sends `signal` to the child `pid` alone, which must not have been reaped.
pub(crate) fn signal_process(pid: Pid, signal: i32) {
    // SAFETY: kill(2) touches no memory.
    unsafe { libc::kill(pid.as_raw(), signal) };
}

/// Sends `signal` to every process of the guest but agentd.
pub(crate) fn signal_everyone(signal: i32) {
    // -1 means everyone whom the caller may signal; only for PID 1 is that its guest alone.
    if getpid().as_raw() == 1 {
        // SAFETY: kill(2) touches no memory.
        unsafe { libc::kill(-1, signal) };
    }
}

/// How things stand with the children of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Children {
    /// This one has ended and waits to be reaped.
    Ended(Pid),
    /// There are some, and none has ended.
    Running,
    /// There is none.
    None,
}

/// Looks for a child that has ended, without reaping it: until that happens nobody else can get
/// its number, nor that of its group.
pub(crate) fn look() -> Children {
    // SAFETY: all zeroes is a valid value of this structure of integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the kernel fills `info`, which outlives the call.
    if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, options) } == -1 {
        return Children::None;
    }
    // SAFETY: waitid(2) has filled in the fields of SIGCHLD, or left them zero.
    match unsafe { info.si_pid() } {
        0 => Children::Running,
        pid => Children::Ended(Pid::from_raw(pid)),
    }
}

/// Reaps the child `pid`, which has ended, and tells how.
pub(crate) fn reap(pid: Pid) -> Option<ExitStatus> {
    let mut status = 0;
    // SAFETY: the kernel writes `status`, which outlives the call.
    if unsafe { libc::waitpid(pid.as_raw(), &mut status, libc::WNOHANG) } != pid.as_raw() {
        return None;
    }
    if libc::WIFSIGNALED(status) {
        u8::try_from(libc::WTERMSIG(status))
            .ok()
            .map(ExitStatus::Signal)
    } else {
        u8::try_from(libc::WEXITSTATUS(status))
            .ok()
            .map(ExitStatus::Code)
    }
}
