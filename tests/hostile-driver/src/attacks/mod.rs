//! What is done to a device in a round, from a reset on; the round ends with another reset, wherever this stops.

mod blocks;
mod chains;
mod packets;
mod registers;
mod requests;
mod resets;
mod rings;
mod set_up;

use crate::device::{Device, Kind};
use crate::memory::Ram;
use crate::random::Random;

/// Whether the device had to ask for a reset, and did; or what it did wrong.
pub(crate) type Outcome = Result<bool, &'static str>;

/// One way to break a device.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) carry_out: fn(&Device, Ram, &Random) -> Outcome,
}

const fn attack(name: &'static str, carry_out: fn(&Device, Ram, &Random) -> Outcome) -> Attack {
    Attack { name, carry_out }
}

/// What any device can be told.
const COMMON: [Attack; 12] = [
    attack("accesses of every width", registers::any_access),
    attack(
        "status and features out of order",
        set_up::steps_out_of_order,
    ),
    attack("features not offered", set_up::features_not_offered),
    attack("queues against the rules", set_up::bad_queue),
    attack("kicks out of place", set_up::kicks_out_of_place),
    attack("available index out of range", rings::index_out_of_range),
    attack("available index backwards", rings::index_backwards),
    attack("heads out of range", rings::heads_out_of_range),
    attack("rings that change", rings::changing_rings),
    attack("malformed chains", chains::malformed),
    attack("chains over the rings", chains::over_the_rings),
    attack("resets in the middle of I/O", resets::in_the_middle),
];

const BLOCK: [Attack; 1] = [attack("requests to a disk", blocks::half_right)];

const FILE_SYSTEM: [Attack; 2] = [
    attack("FUSE requests", requests::half_right),
    attack("FUSE garbage", requests::garbage),
];

const VSOCK: [Attack; 2] = [
    attack("vsock packets", packets::half_right),
    attack("a conversation against the rules", packets::conversation),
];

impl Attack {
    /// One for a device of this kind.
    pub(crate) fn choose(kind: Kind, random: &Random) -> Attack {
        let own: &[Attack] = match kind {
            Kind::Block => &BLOCK,
            Kind::FileSystem => &FILE_SYSTEM,
            Kind::Vsock => &VSOCK,
            Kind::Entropy | Kind::Unknown(_) => &[],
        };
        if !own.is_empty() && random.once_in(3) {
            return random.pick(own);
        }
        random.pick(&COMMON)
    }
}
