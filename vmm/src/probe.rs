//! Can this host's /dev/kvm run an ordinary kernel?
//!
//! Opening the device proves little: some hosts offer one that emulates the guest instruction by instruction and gives up on
//! those that every kernel uses. So a small guest runs a few of them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use kvm_ioctls::Kvm;
use nix::unistd::{Gid, Group};
use vm_memory::{Bytes, GuestAddress};

use crate::cpu::{self, CpuTemplate};
use crate::ending::{Ending, EndingReporter};
use crate::layout;
use crate::machine::{self, BootError};
use crate::memory;
use crate::platform::{ConsoleLog, IoApic, MmioBus, Ports};
use crate::vcpu::{Gate, Vcpu, VcpuContext};

const DEVICE: &str = "/dev/kvm";
/// Inputs of an I/O APIC that the guest does not touch.
const PINS: u8 = 1;
/// The guest needs microseconds on a processor and milliseconds in an emulated one.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// What the host's KVM is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmState {
    /// It runs ordinary kernels.
    Fine,
    /// There is no /dev/kvm.
    Missing,
    /// This user may not open it.
    NotPermitted {
        /// The group whose members may, if it is one that a user can join.
        group: Option<String>,
    },
    /// It opens and does not run the guest.
    CannotRun {
        /// What happened, as a sentence without a full stop.
        reason: String,
    },
}

/// Runs the probe guest; takes milliseconds, and never more than ten seconds.
pub fn probe() -> KvmState {
    match Kvm::new() {
        Ok(kvm) => run(&kvm).unwrap_or_else(|error| KvmState::CannotRun {
            reason: chain(&error),
        }),
        Err(error) => match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmState::Missing,
            libc::EACCES | libc::EPERM => KvmState::NotPermitted {
                group: device_group(),
            },
            _ => KvmState::CannotRun {
                reason: format!("it cannot be opened: {error}"),
            },
        },
    }
}

fn run(kvm: &Kvm) -> Result<KvmState, BootError> {
    let vm = Arc::new(machine::create_vm(kvm)?);
    machine::split_interrupt_controller(&vm)?;
    let memory = memory::create(memory::MIN_MEMORY)?;
    memory::register(&vm, &memory)?;
    cpu::write_tables(&memory, 1, &BTreeSet::new())?;
    memory
        .write_slice(&GUEST, GuestAddress(layout::HIGH_MEMORY))
        .map_err(cpu::CpuError::Write)?;
    let vcpu = CpuTemplate::new(kvm, 1)?.create_vcpu(&vm, 0, layout::HIGH_MEMORY)?;

    let (ending, endings) = EndingReporter::new();
    let resource = |error: io::Error| BootError::Resource("the probe's processor", error);
    let log = ConsoleLog::new(None, ending.clone()).map_err(resource)?;
    let ports = Ports::new(log, ending.clone()).map_err(resource)?;
    let io_apic = IoApic::new(PINS, vm, ending.clone());
    let context = VcpuContext {
        ports,
        bus: Arc::new(MmioBus::new(io_apic, Vec::new())),
        ending,
        gate: Arc::new(Gate::new(1)),
    };
    let _vcpu = Vcpu::spawn(0, vcpu, context).map_err(resource)?;
    Ok(judge(endings.recv_timeout(TIME_LIMIT)))
}

fn judge(ending: Result<Ending, RecvTimeoutError>) -> KvmState {
    let reason = match ending {
        Ok(Ending::Reset) => return KvmState::Fine,
        Ok(Ending::Failed { reason }) => reason,
        Ok(_) => "the probe guest shut down on an instruction that every kernel uses".to_owned(),
        Err(_) => format!(
            "the probe guest did not end within {} s",
            TIME_LIMIT.as_secs()
        ),
    };
    KvmState::CannotRun { reason }
}

/// 64-bit code, entered at its first byte. It ends by a pulse on the reset line, because a `hlt` never leaves KVM with the interrupt
/// controller in the kernel. The 16 bytes at offset 0x100 are zero. Kernels use cmpxchg16b where the processor has it (CPUID.1:ECX
/// bit 13).
const GUEST: [u8; 45] = [
    0xb8, 0x01, 0x00, 0x00, 0x00, //                    mov eax, 1
    0x0f, 0xa2, //                                      cpuid
    0x0f, 0xba, 0xe1, 0x0d, //                          bt ecx, 13
    0x73, 0x16, //                                      jnc without
    0x31, 0xc0, //                                      xor eax, eax
    0x31, 0xd2, //                                      xor edx, edx
    0xbb, 0x01, 0x00, 0x00, 0x00, //                    mov ebx, 1
    0x31, 0xc9, //                                      xor ecx, ecx
    0xf0, 0x48, 0x0f, 0xc7, 0x0d, 0xdf, 0x00, 0x00, 0x00, // lock cmpxchg16b [rip + 0xdf]
    0x75, 0x08, //                                      jnz bad
    0xdb, 0xe2, //                             without: fnclex
    0xb0, 0xfe, //                                      mov al, 0xfe
    0xe6, 0x64, //                                      out 0x64, al
    0xeb, 0xfe, //                                halt: jmp halt
    0x0f, 0x0b, //                                 bad: ud2
];

/// Name, or else number, of the group of /dev/kvm. None for the group of root: who may open the device is not decided
/// by its members then, and nobody should be among them.
fn device_group() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let gid = std::fs::metadata(DEVICE).ok()?.gid();
    if gid == 0 {
        return None;
    }
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    Some(group.map_or_else(|| gid.to_string(), |group| group.name))
}

/// The error and its sources in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
