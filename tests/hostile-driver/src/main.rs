//! A guest kernel that is one hostile virtio driver.
//!
//! It finds the devices on its command line and, for so many rounds, breaks one of them: by its registers, its rings or
//! its requests. After every round it resets the device, and after every few demands that it works. What came of it goes
//! to the serial port; then the guest resets the machine.
//!
//! ```text
//! attacks/  what is done to a device          proof   that it works after a reset
//! device    the driver's half of virtio-mmio  ring    one queue in the driver's memory
//! memory    what devices may write to         machine the processor, from the entry to the end
//! ```
//! `hostile.seed=N` and `hostile.rounds=N` on the command line say what happens; the same numbers do the same again, as
//! far as the monitor's threads allow.
#![no_std]
#![no_main]

mod attacks;
mod boot_parameters;
mod device;
mod machine;
mod memory;
mod memory_functions;
mod proof;
mod random;
mod registers;
mod ring;
mod serial;

use attacks::Attack;
use boot_parameters::BootParameters;
use device::Device;
use random::Random;

/// Rounds between two signs of life.
const REPORT_EVERY: u64 = 500;

/// Most rounds between two proofs that a device works: a proof takes as long as a round.
const LONGEST_BATCH: u64 = 5;

/// What the rounds came to.
#[derive(Default)]
struct Tally {
    rounds: u64,
    /// Rounds in which a device was to ask for a reset, and did.
    needs_reset: u64,
    /// Proofs that a device works, after every few rounds and at the end.
    works: u64,
}

/// A round that went wrong.
struct Failure {
    device: Device,
    attack: &'static str,
    reason: &'static str,
}

impl Failure {
    fn new(device: &Device, attack: &'static str, reason: &'static str) -> Failure {
        Failure {
            device: *device,
            attack,
            reason,
        }
    }
}

/// Called by the entry code with the address of the boot parameters.
extern "C" fn main(boot_parameters: u64) -> ! {
    machine::map_memory();
    let parameters = BootParameters::read(boot_parameters);
    let mut tally = Tally::default();
    match run(&parameters, &mut tally) {
        Ok(()) => say!(
            "verdict: rounds {} needs_reset {} works {}",
            tally.rounds,
            tally.needs_reset,
            tally.works
        ),
        Err(failure) => say!(
            "verdict: failed in round {} ({} against the device of type {} at {:#x}): {}",
            tally.rounds,
            failure.attack,
            failure.device.kind.number(),
            failure.device.registers.base(),
            failure.reason
        ),
    }
    say!("hostile: over");
    machine::reset()
}

fn run(parameters: &BootParameters, tally: &mut Tally) -> Result<(), Failure> {
    let random = Random::new(parameters.seed);
    say!(
        "hostile: seed {}, {} rounds, {} devices",
        parameters.seed,
        parameters.rounds,
        parameters.devices().count()
    );
    while tally.rounds < parameters.rounds {
        for device in parameters.devices() {
            attack(&device, parameters, &random, tally)?;
        }
    }
    // Whatever was done to the others since their last turn.
    for device in parameters.devices() {
        prove(&device, "nothing since the last proof", &random, tally)?;
    }
    Ok(())
}

/// A few rounds against a device, and the proof that it works afterwards.
fn attack(
    device: &Device,
    parameters: &BootParameters,
    random: &Random,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut last = "";
    for _ in 0..1 + random.below(LONGEST_BATCH) {
        let attack = Attack::choose(device.kind, random);
        last = attack.name;
        let outcome = (attack.carry_out)(device, parameters.ram, random);
        let needs_reset = outcome.and_then(|needs_reset| device.reset().map(|()| needs_reset));
        if needs_reset.map_err(|reason| Failure::new(device, last, reason))? {
            tally.needs_reset += 1;
        }
        tally.rounds += 1;
        if tally.rounds.is_multiple_of(REPORT_EVERY) {
            say!("hostile: {} rounds", tally.rounds);
        }
    }
    prove(device, last, random, tally)
}

/// Has a device that was reset show that it works. `last` is what was done to it before.
fn prove(
    device: &Device,
    last: &'static str,
    random: &Random,
    tally: &mut Tally,
) -> Result<(), Failure> {
    proof::works(device, random).map_err(|reason| Failure::new(device, last, reason))?;
    device.set_status(0);
    tally.works += 1;
    Ok(())
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("verdict: the guest itself panicked: {info}\nhostile: over");
    machine::reset()
}
