//! Making a processor leave the guest: a signal, and a flag for when it is about to enter.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Once;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `immediate_exit` of the processor that this thread runs, for the signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// A kick between the look at the orders and KVM_RUN would be lost if the handler did nothing; `immediate_exit` makes that KVM_RUN return at once
/// (Linux `Documentation/virt/kvm/api.rst`, section 5).
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: it points into the kvm_run mapping of the processor that this very thread owns, until the target is dropped.
        unsafe { flag.write_volatile(1) };
    }
}

/// Makes kicks harmless for threads that are no processors.
pub(super) fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        result = register_signal_handler(kick_signal(), on_kick)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()));
    });
    result
}

/// Makes the thread leave the guest, or not enter it.
///
/// # Safety
/// The thread has not ended, and `install_handler` was called.
pub(super) unsafe fn kick(thread: libc::pthread_t) {
    // SAFETY: the caller's promise.
    unsafe { libc::pthread_kill(thread, kick_signal()) };
}

/// Points the handler at this thread's processor, for as long as the guard lives.
pub(super) struct KickTarget;

impl KickTarget {
    pub(super) fn new(vcpu: &mut VcpuFd) -> KickTarget {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        KickTarget
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}
