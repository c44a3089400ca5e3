//! The processor: from the monitor's entry state to an environment for Rust code, and the end of the machine.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

const STACK_SIZE: usize = 64 * 1024;
const PAGE_ENTRIES: usize = 512;
/// Address space that is mapped one to one: all that a 32-bit address reaches, with the devices' registers.
const MAPPED_GIB: usize = 4;

const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;
const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// The keyboard controller's command port, and the command that pulses the processor's reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// Memory that the processor, and nobody else, uses behind the compiler's back.
#[repr(C, align(4096))]
struct Owned<T>(UnsafeCell<T>);

// SAFETY: there is one processor.
unsafe impl<T> Sync for Owned<T> {}

static STACK: Owned<[u8; STACK_SIZE]> = Owned(UnsafeCell::new([0; STACK_SIZE]));
static LEVEL_4: Owned<[u64; PAGE_ENTRIES]> = Owned(UnsafeCell::new([0; PAGE_ENTRIES]));
static LEVEL_3: Owned<[u64; PAGE_ENTRIES]> = Owned(UnsafeCell::new([0; PAGE_ENTRIES]));
static LEVEL_2: Owned<[[u64; PAGE_ENTRIES]; MAPPED_GIB]> =
    Owned(UnsafeCell::new([[0; PAGE_ENTRIES]; MAPPED_GIB]));

// The state at entry is that of the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst): RSI points to the
// boot parameters, there is no stack, interrupts are off. Rust code needs SSE: CR0.EM off and CR0.MP on, CR4.OSFXSR and
// CR4.OSXMMEXCPT on (Intel SDM volume 3, section 14.1). An exception finds no handler: a triple fault ends the machine.
global_asm!(
    ".pushsection .entry, \"ax\"",
    ".global _start",
    "_start:",
    "mov rax, cr0",
    "and rax, -5",
    "or rax, 2",
    "mov cr0, rax",
    "mov rax, cr4",
    "or rax, 0x600",
    "mov cr4, rax",
    "lea rsp, [rip + {stack} + {stack_size}]",
    "xor ebp, ebp",
    "mov rdi, rsi",
    "call {main}",
    "ud2",
    ".popsection",
    stack = sym STACK,
    stack_size = const STACK_SIZE,
    main = sym crate::main,
);

/// Leaves the monitor's page tables, which lie where devices will be told to write.
pub(crate) fn map_memory() {
    let level_2 = LEVEL_2.0.get();
    // SAFETY: there is one processor, it does not walk these tables yet, and no reference to them exists.
    unsafe {
        (*LEVEL_4.0.get())[0] = LEVEL_3.0.get() as u64 | PRESENT_WRITABLE;
        for gib in 0..MAPPED_GIB {
            (*LEVEL_3.0.get())[gib] = &raw const (*level_2)[gib] as u64 | PRESENT_WRITABLE;
            for entry in 0..PAGE_ENTRIES {
                let page = (gib * PAGE_ENTRIES + entry) as u64;
                (*level_2)[gib][entry] = (page * LARGE_PAGE_SIZE) | LARGE_PAGE | PRESENT_WRITABLE;
            }
        }
    }
    // SAFETY: the new tables map the code, the stack and everything else at the same addresses as the old ones.
    unsafe { asm!("mov cr3, {}", in(reg) LEVEL_4.0.get(), options(nostack)) };
}

/// Writes a byte to a port.
pub(crate) fn write_port(port: u16, value: u8) {
    // SAFETY: ports of this machine are the serial port and the keyboard controller, which do not touch memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Ends the machine as a kernel does that reboots.
pub(crate) fn reset() -> ! {
    write_port(KEYBOARD_COMMAND, PULSE_RESET);
    loop {
        // SAFETY: waits for the end.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

/// The compiler's tables for unwinding name it; nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
