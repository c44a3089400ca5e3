//! Pausing a machine: its processors stand still, and so do the clocks of the guest.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use crate::vcpu::{Ended, Gate};

/// A machine cannot be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// It has ended, or is ending.
    #[error("the machine has ended")]
    Ended,
    /// The guest's clocks. A machine that was to be paused runs on; one that was to be resumed runs again, and its guest sees how
    /// long it stood still.
    #[error("KVM does not let the guest's clocks stand still")]
    Clocks(#[source] kvm_ioctls::Error),
}

impl From<Ended> for PauseError {
    fn from(_: Ended) -> PauseError {
        PauseError::Ended
    }
}

/// Pauses a machine and resumes it, from any thread. All clones are of the same machine.
#[derive(Clone)]
pub struct Pauser {
    gate: Arc<Gate>,
    vm: Weak<VmFd>,
    /// There while the machine is paused. Held while it is being paused or resumed.
    frozen: Arc<Mutex<Option<Clocks>>>,
}

/// The clocks of a guest at the moment when it stopped.
#[derive(Debug)]
struct Clocks {
    /// kvmclock, in nanoseconds.
    system: u64,
    /// The host's time-stamp counter. The guests' have the same rate, because nobody asked for another one.
    ticks: u64,
}

impl Clocks {
    fn read(vm: &VmFd) -> Result<Clocks, kvm_ioctls::Error> {
        Ok(Clocks {
            system: vm.get_clock()?.clock,
            ticks: host_ticks(),
        })
    }
}

fn host_ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

impl Pauser {
    /// The pauser of the machine with this gate.
    pub(crate) fn new(gate: Arc<Gate>, vm: &Arc<VmFd>) -> Pauser {
        Pauser {
            gate,
            vm: Arc::downgrade(vm),
            frozen: Arc::default(),
        }
    }

    /// Pauses the machine; returns when no processor runs the guest any more. Does nothing to one that is paused.
    ///
    /// Devices finish what the guest asked for, and tell it when it goes on. A [`Stopper`](crate::machine::Stopper) works meanwhile.
    ///
    /// # Errors
    /// When the machine has ended, or KVM does not tell the time.
    pub fn pause(&self) -> Result<(), PauseError> {
        let mut frozen = self.lock();
        let vm = self.machine()?;
        if frozen.is_some() {
            return Ok(());
        }
        self.gate.park()?;
        // Not earlier, or a processor that was late might see a clock go back.
        match Clocks::read(&vm) {
            Ok(clocks) => *frozen = Some(clocks),
            Err(error) => {
                self.gate.run();
                return Err(PauseError::Clocks(error));
            }
        }
        Ok(())
    }

    /// Lets a paused machine go on; the guest's clocks go on where they stood still. Does nothing to one that is not paused.
    ///
    /// This is about the monotonic clock. What the time of day is, somebody has to tell the guest.
    ///
    /// # Errors
    /// When the machine has ended, or KVM does not set the clocks.
    pub fn resume(&self) -> Result<(), PauseError> {
        let mut frozen = self.lock();
        let vm = self.machine()?;
        let Some(clocks) = frozen.take() else {
            return Ok(());
        };
        let refusal = self.gate.rewind(host_ticks().wrapping_sub(clocks.ticks))?;
        // After the counters, which kvmclock is computed from.
        let set = vm.set_clock(&kvm_clock_data {
            clock: clocks.system,
            ..Default::default()
        });
        self.gate.run();
        match refusal {
            Some(error) => Err(PauseError::Clocks(error)),
            None => set.map_err(PauseError::Clocks),
        }
    }

    /// Whether the machine is paused.
    pub fn is_paused(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether no processor can ever run again. Nobody knows that of a machine that is paused, or has ended.
    pub(crate) fn is_halted(&self) -> bool {
        let frozen = self.lock();
        frozen.is_none() && self.gate.are_halted().unwrap_or(false)
    }

    fn machine(&self) -> Result<Arc<VmFd>, PauseError> {
        if self.gate.has_ended() {
            return Err(PauseError::Ended);
        }
        self.vm.upgrade().ok_or(PauseError::Ended)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Clocks>> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pauser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Pauser")
            .field("frozen", &self.frozen)
            .finish_non_exhaustive()
    }
}
