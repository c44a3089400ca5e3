//! A machine: `boot` builds it in one line of steps, the handle waits for its end.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use vm_memory::{GuestMemory as _, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use crate::cpu::MAX_VCPUS;
use crate::cpu::{self, CpuError, CpuTemplate};
pub use crate::ending::Ending;
use crate::ending::{EndingReporter, Endings};
use crate::halt;
use crate::kernel::{self, KernelError, boot_config};
use crate::layout;
use crate::memory::{self, MemoryError};
pub use crate::memory::{MAX_MEMORY, MIN_MEMORY};
pub use crate::meter::Meter;
pub use crate::pause::{PauseError, Pauser};
pub use crate::platform::Console;
use crate::platform::{ConsoleInput, ConsoleLog, ConsoleState, IoApic, MmioBus, Ports, VirtioSlot};
use crate::vcpu::{Gate, Vcpu, VcpuContext};
use crate::virtio::{
    DeviceDescription, GuestMemory, INTERRUPT_ACK, Interrupt, MmioTransport, Parts, QUEUE_NOTIFY,
    RegisterPages, Registers, Worker,
};

/// Everything that a machine is made of.
pub struct Config {
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Memory in bytes, [`MIN_MEMORY`] to [`MAX_MEMORY`], in whole pages of 4 KiB.
    pub memory: u64,
    /// ELF `vmlinux` or bzImage.
    pub kernel: File,
    /// cpio archive that the kernel unpacks as its first root.
    pub initramfs: Option<File>,
    /// Kernel command line; the devices' parameters are appended. Where it has no room for some 50 of them, the kernel has to know
    /// CONFIG_BOOT_CONFIG.
    pub command_line: String,
    /// The serial port.
    pub console: Console,
    /// virtio devices, in the order in which the kernel finds them.
    pub devices: Vec<DeviceDescription>,
}

/// Why a machine does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// /dev/kvm cannot be used.
    #[error("cannot open /dev/kvm")]
    OpenKvm(#[source] io::Error),
    /// An ioctl failed.
    #[error("KVM refuses to {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// The number of processors is out of range.
    #[error("a machine cannot have {0} processors: give 1 to {MAX_VCPUS}")]
    VcpuCount(u8),
    /// The guest's memory.
    #[error("cannot set up the guest's memory")]
    Memory(#[from] MemoryError),
    /// The kernel.
    #[error("cannot load the guest's kernel")]
    Kernel(#[from] KernelError),
    /// The processors.
    #[error("cannot set up the processors")]
    Cpu(#[from] CpuError),
    /// More devices than the address space has room for.
    #[error("a machine cannot have {0} devices")]
    TooManyDevices(usize),
    /// The kernel command line, on which each device is named, has no room for them, and there is no initramfs that they could follow.
    #[error(
        "{devices} devices do not fit beside the kernel command line without an initramfs: together they have {length} bytes, and a kernel takes {maximum}"
    )]
    DevicesDoNotFit {
        /// How many.
        devices: usize,
        /// Bytes of the command line with all of them.
        length: usize,
        /// The limit.
        maximum: usize,
    },
    /// Events or threads.
    #[error("cannot create {0}")]
    Resource(&'static str, #[source] io::Error),
}

/// Builds the machine and starts its processors.
///
/// # Errors
/// When a part of the configuration is out of range, a file is unusable, or the host refuses a resource.
pub fn boot(config: Config) -> Result<Machine, BootError> {
    if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
        return Err(BootError::VcpuCount(config.vcpus));
    }
    let (ending, endings) = EndingReporter::new();
    let kvm = open_kvm()?;
    let vm = Arc::new(create_vm(&kvm)?);
    // Before any processor: this is what gives each its local APIC.
    split_interrupt_controller(&vm)?;
    let memory = Arc::new(memory::create(config.memory)?);
    memory::register(&vm, &memory)?;

    let traffic = config
        .devices
        .iter()
        .map(|device| device.traffic.clone())
        .collect();
    let registers = RegisterPages::new(config.devices.len());
    let (devices, slots) = attach_devices(&vm, &memory, &registers, config.devices, &ending)?;
    let lines = interrupt_lines(&slots);
    let pins = lines.last().map_or(0, |line| line + 1);
    let io_apic = IoApic::new(pins, Arc::clone(&vm), ending.clone());
    let bus = Arc::new(MmioBus::new(io_apic, devices));
    let log =
        ConsoleLog::new(config.console.output, ending.clone()).map_err(resource("the console"))?;
    let console = log.state();
    let ports = attach_ports(&vm, log, &ending)?;

    // After the devices, which the parameters name.
    let parameters = Parameters::new(&config.command_line, &slots, config.initramfs.is_some())?;
    let entry = load_kernel(
        &memory,
        config.memory,
        config.kernel,
        config.initramfs,
        &parameters,
    )?;
    cpu::write_tables(&memory, config.vcpus, &lines)?;

    let template = CpuTemplate::new(&kvm, config.vcpus)?;
    let vcpus = (0..config.vcpus)
        .map(|index| template.create_vcpu(&vm, index, entry))
        .collect::<Result<Vec<_>, _>>()?;
    // All are created before the first runs: the guest may start them at once.
    let context = VcpuContext {
        ports: ports.clone(),
        bus,
        ending: ending.clone(),
        gate: Arc::new(Gate::new(config.vcpus)),
    };
    let vcpus = (0u8..)
        .zip(vcpus)
        .map(|(index, vcpu)| Vcpu::spawn(index, vcpu, context.clone()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(resource("a processor's thread"))?;
    let input = start_console_input(config.console.input, ports, &ending)?;

    Ok(Machine {
        pauser: Pauser::new(Arc::clone(&context.gate), &vm),
        meter: Meter::new(Arc::clone(&context.gate), &memory, traffic),
        _vcpus: vcpus,
        _input: input,
        console,
        ending,
        endings,
        context,
        _vm: vm,
        _memory: memory,
        _registers: registers,
    })
}

/// A running machine. Dropping it stops it.
// Fields are dropped in this order: the processors first, then what they use.
pub struct Machine {
    _vcpus: Vec<Vcpu>,
    _input: Option<ConsoleInput>,
    console: Arc<ConsoleState>,
    ending: EndingReporter,
    endings: Endings,
    context: VcpuContext,
    pauser: Pauser,
    meter: Meter,
    _vm: Arc<VmFd>,
    _memory: Arc<GuestMemory>,
    _registers: Arc<RegisterPages>,
}

impl Machine {
    /// A handle that stops the machine from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            ending: self.ending.clone(),
        }
    }

    /// A handle that pauses the machine and resumes it from another thread.
    pub fn pauser(&self) -> Pauser {
        self.pauser.clone()
    }

    /// A handle that reads from another thread what the machine uses.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Waits until the machine ends, by itself or by a [`Stopper`], and takes it apart.
    pub fn wait(self) -> Ending {
        let ending = halt::wait(&self.endings, || self.pauser.is_halted());
        self.console.close();
        self.context.gate.end();
        match (ending, self.console.panic()) {
            // A kernel that panics says so and resets the machine.
            (Ending::Reset | Ending::TripleFault, Some(message)) => Ending::Panicked { message },
            (ending, _) => ending,
        }
    }
}

/// Stops a machine by force: its processors are halted where they are.
#[derive(Debug, Clone)]
pub struct Stopper {
    ending: EndingReporter,
}

impl Stopper {
    /// Stops the machine. Has no effect on one that has ended.
    pub fn stop(&self) {
        self.ending.report(Ending::Stopped);
    }
}

fn resource(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |error| BootError::Resource(what, error)
}

fn kvm(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> BootError {
    move |error| BootError::Kvm(what, error)
}

fn open_kvm() -> Result<Kvm, BootError> {
    Kvm::new().map_err(|error| BootError::OpenKvm(io::Error::from_raw_os_error(error.errno())))
}

pub(crate) fn create_vm(host: &Kvm) -> Result<VmFd, BootError> {
    let vm = loop {
        match host.create_vm() {
            // A signal that arrives during KVM_CREATE_VM makes it fail (Linux virt/kvm/kvm_main.c).
            Err(error) if error.errno() == libc::EINTR => {}
            other => break other.map_err(kvm("create a virtual machine"))?,
        }
    };
    cpu::follow_host(&vm).map_err(kvm("count time as the host does"))?;
    Ok(vm)
}

/// Leaves the local APICs to KVM and keeps the registers of the I/O APIC here (Linux `Documentation/virt/kvm/api.rst`,
/// KVM_CAP_SPLIT_IRQCHIP).
pub(crate) fn split_interrupt_controller(vm: &VmFd) -> Result<(), BootError> {
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(kvm("reserve its own pages"))?;
    // Its argument is the number of routes that KVM watches for the ends of level-triggered interrupts: there are none.
    let capability = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    vm.enable_cap(&capability)
        .map_err(kvm("keep the local APICs"))
}

/// The lines that devices have.
fn interrupt_lines(slots: &[VirtioSlot]) -> BTreeSet<u8> {
    slots
        .iter()
        .map(|slot| slot.irq)
        .chain([layout::SERIAL_IRQ])
        .map(|line| line as u8)
        .collect()
}

/// Gives each device its slot, its events and its threads.
fn attach_devices(
    vm: &VmFd,
    memory: &Arc<GuestMemory>,
    registers: &Arc<RegisterPages>,
    devices: Vec<DeviceDescription>,
    ending: &EndingReporter,
) -> Result<(Vec<MmioTransport>, Vec<VirtioSlot>), BootError> {
    let count = devices.len();
    let mut transports = Vec::with_capacity(count);
    let mut slots = Vec::with_capacity(count);
    for (index, device) in devices.into_iter().enumerate() {
        let slot = VirtioSlot::new(index).zip(registers.of_device(index));
        let (slot, registers) = slot.ok_or(BootError::TooManyDevices(count))?;
        transports.push(attach_device(vm, memory, device, registers, &slot, ending)?);
        slots.push(slot);
    }
    if count > 0 {
        let number = u32::try_from(memory.num_regions()).unwrap_or(u32::MAX);
        registers
            .show(vm, number)
            .map_err(kvm("show the devices' registers to the guest"))?;
    }
    Ok((transports, slots))
}

fn attach_device(
    vm: &VmFd,
    memory: &Arc<GuestMemory>,
    device: DeviceDescription,
    registers: Registers,
    slot: &VirtioSlot,
    ending: &EndingReporter,
) -> Result<MmioTransport, BootError> {
    let interrupt = Interrupt::new(registers).map_err(resource("a device's interrupt"))?;
    let interrupt = Arc::new(interrupt);
    vm.register_irqfd(interrupt.line(), slot.irq)
        .map_err(kvm("connect a device's interrupt"))?;
    let (offset, answer) = INTERRUPT_ACK;
    let answered = EventFd::new(EFD_NONBLOCK).map_err(resource("a device's answer"))?;
    let place = IoEventAddress::Mmio(slot.address + offset);
    vm.register_ioevent(&answered, &place, answer)
        .map_err(kvm("catch the answers to a device's interrupts"))?;

    let queue_sizes: Vec<u16> = device
        .workers
        .iter()
        .flat_map(|worker| worker.queue_sizes.iter().copied())
        .collect();
    let notify = IoEventAddress::Mmio(slot.address + QUEUE_NOTIFY);
    let mut kicks = Vec::with_capacity(queue_sizes.len());
    for index in (0u32..).take(queue_sizes.len()) {
        let kick = EventFd::new(EFD_NONBLOCK).map_err(resource("a queue's event"))?;
        vm.register_ioevent(&kick, &notify, index)
            .map_err(kvm("connect a queue's event"))?;
        kicks.push(Arc::new(kick));
    }

    let workers = device
        .workers
        .into_iter()
        .map(|worker| {
            Worker::spawn(
                worker,
                Arc::clone(memory),
                Arc::clone(&interrupt),
                ending.clone(),
            )
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(resource("a device's thread"))?;
    Ok(MmioTransport::new(Parts {
        device_type: device.device_type,
        features: device.features,
        config: device.config,
        queue_sizes,
        kicks,
        interrupt,
        memory: Arc::clone(memory),
        workers,
    }))
}

fn attach_ports(vm: &VmFd, log: ConsoleLog, ending: &EndingReporter) -> Result<Ports, BootError> {
    let ports = Ports::new(log, ending.clone()).map_err(resource("the serial port"))?;
    vm.register_irqfd(ports.serial_line(), layout::SERIAL_IRQ)
        .map_err(kvm("connect the serial port's interrupt"))?;
    Ok(ports)
}

/// What the kernel is told.
#[derive(Debug, PartialEq, Eq)]
struct Parameters {
    command_line: String,
    /// Names of devices for which the command line has no room.
    boot_config: Vec<String>,
}

impl Parameters {
    /// The caller's parameters and those that name the devices: all of them on the command line, or all in a boot configuration, so that
    /// the kernel finds them in order.
    fn new(
        given: &str,
        slots: &[VirtioSlot],
        has_initramfs: bool,
    ) -> Result<Parameters, BootError> {
        let names: String = slots
            .iter()
            .map(|slot| format!(" {}={}", VirtioSlot::PARAMETER, slot.name()))
            .collect();
        let line = command_line(given, &names);
        let maximum = layout::COMMAND_LINE_SIZE - layout::COMMAND_LINE_OF_KERNEL - 1;
        if line.len() <= maximum || slots.is_empty() {
            return Ok(Parameters {
                command_line: line,
                boot_config: Vec::new(),
            });
        }
        if !has_initramfs {
            return Err(BootError::DevicesDoNotFit {
                devices: slots.len(),
                length: line.len(),
                maximum,
            });
        }
        Ok(Parameters {
            command_line: command_line(given, &format!(" {}", boot_config::PARAMETER)),
            boot_config: slots.iter().map(VirtioSlot::name).collect(),
        })
    }

    /// What follows an initramfs of so many bytes.
    fn behind_initramfs(&self, size: u64) -> Vec<u8> {
        if self.boot_config.is_empty() {
            return Vec::new();
        }
        boot_config::of_parameter(VirtioSlot::PARAMETER, &self.boot_config, size)
    }
}

/// Adds parameters to a command line. What stands behind " -- " is for the first process, so they go before it (Linux
/// `Documentation/admin-guide/kernel-parameters.rst`).
fn command_line(given: &str, added: &str) -> String {
    match given.split_once(" -- ") {
        Some((kernel, init)) => format!("{kernel}{added} -- {init}"),
        None => format!("{given}{added}").trim_start().to_owned(),
    }
}

/// Loads what the boot processor starts with; returns where.
fn load_kernel(
    memory: &GuestMemory,
    memory_size: u64,
    kernel: File,
    initramfs: Option<File>,
    parameters: &Parameters,
) -> Result<u64, BootError> {
    let loaded = kernel::load(memory, kernel)?;
    let low_memory_end = memory.iter().next().map_or(0, GuestMemoryRegion::len);
    let initramfs = initramfs
        .map(|file| {
            let trailer = |size| parameters.behind_initramfs(size);
            kernel::load_initramfs(memory, file, trailer, loaded.end, low_memory_end)
        })
        .transpose()?;
    kernel::write_command_line(memory, &parameters.command_line)?;
    kernel::write_boot_params(memory, memory_size, &loaded, initramfs)?;
    Ok(loaded.entry)
}

fn start_console_input(
    input: Option<OwnedFd>,
    ports: Ports,
    ending: &EndingReporter,
) -> Result<Option<ConsoleInput>, BootError> {
    input
        .map(|input| ConsoleInput::spawn(input, ports, ending.clone()))
        .transpose()
        .map_err(resource("the console's input"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: usize) -> Vec<VirtioSlot> {
        (0..count).map_while(VirtioSlot::new).collect()
    }

    #[test]
    fn devices_are_named_before_the_first_process_arguments() {
        let line = |given, count| {
            let parameters = Parameters::new(given, &slots(count), true).unwrap();
            assert_eq!(parameters.boot_config, [""; 0]);
            assert_eq!(parameters.behind_initramfs(5), []);
            parameters.command_line
        };
        assert_eq!(
            line("quiet -- single", 2),
            "quiet virtio_mmio.device=4K@0xd0000000:1 virtio_mmio.device=4K@0xd0001000:2 -- single"
        );
        assert_eq!(line("", 0), "");
    }

    #[test]
    fn devices_that_the_command_line_has_no_room_for_follow_the_initramfs() {
        let parameters = Parameters::new("quiet -- single", &slots(70), true).unwrap();
        assert_eq!(parameters.command_line, "quiet bootconfig -- single");
        assert_eq!(parameters.boot_config.len(), 70);
        assert_eq!(parameters.boot_config[69], "4K@0xd0045000:5");
        let text = parameters.behind_initramfs(0);
        assert!(text.starts_with(b"kernel.virtio_mmio.device = 4K@0xd0000000:1, 4K@0xd0001000:2,"));
    }

    #[test]
    fn a_device_that_the_kernel_would_not_hear_of_is_an_error() {
        assert!(Parameters::new("quiet", &slots(50), false).is_ok());
        assert!(matches!(
            Parameters::new("quiet", &slots(60), false),
            Err(BootError::DevicesDoNotFit { devices: 60, .. })
        ));
    }
}
