//! A virtual processor's thread: run the guest, serve its exits, stop when asked.

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::ending::{Ending, EndingReporter};
use crate::platform::{MmioBus, Ports};
use crate::threads;

/// KVM_RUN, and the registers for the report of a failure.
const SYSTEM_CALLS: &[i64] = &[libc::SYS_ioctl];

/// What all processors of a machine share.
#[derive(Clone)]
pub(crate) struct VcpuContext {
    pub(crate) ports: Ports,
    pub(crate) bus: Arc<MmioBus>,
    pub(crate) ending: EndingReporter,
}

/// A running processor. Dropping it stops the processor and waits for its thread.
pub(crate) struct Vcpu {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpu {
    /// Starts the processor's thread.
    pub(crate) fn spawn(index: u8, vcpu: VcpuFd, context: VcpuContext) -> io::Result<Vcpu> {
        install_kick_handler()?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = Arc::clone(&stop);
            let ending = context.ending.clone();
            threads::spawn(&format!("vcpu{index}"), SYSTEM_CALLS, ending, move || {
                run(vcpu, &context, &stop)
            })?
        };
        Ok(Vcpu {
            stop,
            thread: Some(thread),
        })
    }

    /// Asks the processor to stop, without waiting.
    pub(crate) fn kick(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            // SAFETY: the thread is not joined yet, so its id is valid; the signal has a handler.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

thread_local! {
    /// `immediate_exit` of the processor that this thread runs, for the signal handler.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// A kick between the check of `stop` and KVM_RUN would be lost if the handler did nothing; `immediate_exit` makes that KVM_RUN return at once
/// (Linux `Documentation/virt/kvm/api.rst`, section 5).
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: it points into the kvm_run mapping of the processor that this very thread owns, until `run` clears it.
        unsafe { flag.write_volatile(1) };
    }
}

fn install_kick_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| {
        result = register_signal_handler(kick_signal(), on_kick)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()));
    });
    result
}

/// Points the handler at this thread's processor, for as long as the guard lives.
struct KickTarget;

impl KickTarget {
    fn new(vcpu: &mut VcpuFd) -> KickTarget {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        KickTarget
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

fn run(mut vcpu: VcpuFd, context: &VcpuContext, stop: &AtomicBool) {
    let _target = KickTarget::new(&mut vcpu);
    while !stop.load(Ordering::SeqCst) {
        match step(&mut vcpu, context) {
            Ok(None) => {}
            Ok(Some(ending)) => return context.ending.report(ending),
            Err(reason) => return context.ending.failed(reason),
        }
    }
}

/// Runs the guest until its next exit; says how the machine ends if that is what the exit means.
fn step(vcpu: &mut VcpuFd, context: &VcpuContext) -> Result<Option<Ending>, String> {
    match vcpu.run() {
        Ok(VcpuExit::MmioRead(address, data)) => context.bus.read(address, data),
        Ok(VcpuExit::MmioWrite(address, data)) => context.bus.write(address, data),
        Ok(VcpuExit::IoIn(port, data)) => context.ports.read(port, data),
        Ok(VcpuExit::IoOut(port, data)) => context.ports.write(port, data),
        Ok(VcpuExit::Intr) => {}
        Ok(VcpuExit::Shutdown) => return Ok(Some(Ending::TripleFault)),
        Ok(VcpuExit::InternalError) => return Err(internal_error(vcpu)),
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            return Err(format!(
                "the processor refuses to enter the guest (reason {reason:#x} on host processor {cpu})"
            ));
        }
        Ok(exit) => return Err(format!("the guest left with an unknown exit: {exit:?}")),
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            vcpu.set_kvm_immediate_exit(0);
        }
        Err(error) => return Err(format!("running the guest failed: {error}")),
    }
    Ok(None)
}

/// Says what KVM could not do, and where.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    let run = vcpu.get_kvm_run();
    // SAFETY: KVM fills this member of the union for KVM_EXIT_INTERNAL_ERROR, the exit at hand.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    let at = vcpu.get_regs().map_or(0, |registers| registers.rip);
    format!(
        "KVM cannot go on with the guest (internal error {suberror} at {at:#x}); is this /dev/kvm able to run ordinary kernels?"
    )
}
