//! The system calls that a thread may make: those that every thread needs to live, and those of its own work.
//!
//! A guest that takes over a thread of the monitor through a flaw can do no more than that thread was meant to do: no thread
//! starts programs, opens sockets to somewhere, or attaches to another process.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// A thread cannot be confined.
#[derive(Debug, thiserror::Error)]
#[error("the thread's system calls cannot be confined")]
pub(crate) struct JailError(#[source] seccompiler::Error);

/// What the standard library, the allocator and the shared loops need on any thread.
const EVERY_THREAD: &[i64] = &[
    // Memory: malloc and the stacks of panics.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Locks, signals, the thread's end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // Events, diagnostics on standard error, what the vDSO cannot answer by itself.
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fcntl,
    libc::SYS_getrandom,
    libc::SYS_read,
    libc::SYS_write,
];

/// Confines the calling thread for the rest of its life; any other system call ends the process with SIGSYS.
pub(crate) fn confine(own: &[i64]) -> Result<(), JailError> {
    let rules = EVERY_THREAD
        .iter()
        .chain(own)
        .map(|call| (*call, Vec::new()))
        .collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    );
    let program: BpfProgram = filter
        .and_then(BpfProgram::try_from)
        .map_err(|error| JailError(seccompiler::Error::Backend(error)))?;
    apply_filter(&program).map_err(JailError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// How a child ends that confines itself and then makes `call`.
    fn end_of(own: &'static [i64], call: fn()) -> WaitStatus {
        // SAFETY: the child makes system calls only, and ends without running destructors.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
            ForkResult::Child => {
                let confined = confine(own).is_ok();
                call();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!confined)) }
            }
        }
    }

    fn socket() {
        // SAFETY: no memory is involved.
        unsafe { libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0) };
    }

    #[test]
    fn a_call_that_is_not_listed_ends_the_process() {
        assert!(
            matches!(end_of(&[], socket), WaitStatus::Signaled(_, signal, _) if signal as i32 == libc::SIGSYS)
        );
    }

    #[test]
    fn a_call_that_is_listed_is_made() {
        assert!(matches!(
            end_of(&[libc::SYS_socket], socket),
            WaitStatus::Exited(_, 0)
        ));
    }
}
