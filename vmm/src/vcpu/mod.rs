//! A virtual processor's thread: run the guest, serve its exits, wait or stop when asked.

mod gate;
mod kick;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd};

use self::gate::Place;
pub(crate) use self::gate::{Ended, Gate};
use self::kick::KickTarget;
use crate::cpu;
use crate::ending::{Ending, EndingReporter};
use crate::platform::{MmioBus, Ports};
use crate::threads;

/// KVM_RUN, the time-stamp counter, and the registers for the report of a failure.
const SYSTEM_CALLS: &[i64] = &[libc::SYS_ioctl];

/// What all processors of a machine share.
#[derive(Clone)]
pub(crate) struct VcpuContext {
    pub(crate) ports: Ports,
    pub(crate) bus: Arc<MmioBus>,
    pub(crate) ending: EndingReporter,
    pub(crate) gate: Arc<Gate>,
}

/// A running processor. Dropping it stops all processors of the machine and waits for this one's thread.
pub(crate) struct Vcpu {
    gate: Arc<Gate>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpu {
    /// Starts the processor's thread.
    pub(crate) fn spawn(index: u8, vcpu: VcpuFd, context: VcpuContext) -> io::Result<Vcpu> {
        kick::install_handler()?;
        let gate = Arc::clone(&context.gate);
        let ending = context.ending.clone();
        let thread = threads::spawn(&format!("vcpu{index}"), SYSTEM_CALLS, ending, move || {
            run(vcpu, &context)
        })?;
        Ok(Vcpu {
            gate,
            thread: Some(thread),
        })
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.gate.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut vcpu: VcpuFd, context: &VcpuContext) {
    let _target = KickTarget::new(&mut vcpu);
    let mut place = Place::new(&context.gate);
    while place.pass(|ticks| cpu::rewind(&vcpu, ticks), || cpu::is_halted(&vcpu)) {
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
