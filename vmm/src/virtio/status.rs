//! Device status and its legal transitions, section 3.1.1 "Driver Requirements: Device Initialization".

/// Bits of the device status register, section 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(u32);

impl Status {
    pub(crate) const EMPTY: Status = Status(0);
    pub(crate) const ACKNOWLEDGE: Status = Status(1);
    pub(crate) const DRIVER: Status = Status(2);
    pub(crate) const DRIVER_OK: Status = Status(4);
    pub(crate) const FEATURES_OK: Status = Status(8);
    pub(crate) const NEEDS_RESET: Status = Status(64);
    pub(crate) const FAILED: Status = Status(128);

    pub(crate) const fn from_bits(bits: u32) -> Status {
        Status(bits)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn contains(self, other: Status) -> bool {
        self.0 & other.0 == other.0
    }

    const fn with(self, other: Status) -> Status {
        Status(self.0 | other.0)
    }

    /// What the driver's write of `written` asks for, when that is a legal next step.
    pub(crate) fn step(self, written: Status) -> Option<Step> {
        if written == Status::EMPTY {
            return Some(Step::Reset);
        }
        let current = Status(self.0 & !Status::NEEDS_RESET.0);
        let written = Status(written.0 & !Status::NEEDS_RESET.0);
        if written == current.with(Status::FAILED) {
            return Some(Step::Failed);
        }
        STEPS
            .iter()
            .find(|(from, to, _)| *from == current && *to == written)
            .map(|(_, _, step)| *step)
    }
}

/// What a write to the status register means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Back to the beginning.
    Reset,
    /// The driver noticed the device, or knows how to drive it.
    Noticed(Status),
    /// The driver accepted features.
    Features,
    /// The driver is ready.
    Start,
    /// The driver gave up.
    Failed,
}

const NOTICED: Status = Status::ACKNOWLEDGE;
const DRIVEN: Status = NOTICED.with(Status::DRIVER);
const AGREED: Status = DRIVEN.with(Status::FEATURES_OK);
const RUNNING: Status = AGREED.with(Status::DRIVER_OK);

/// From, to, what it means. Whatever is not here is refused; bits are never cleared but by a reset.
const STEPS: [(Status, Status, Step); 5] = [
    (Status::EMPTY, NOTICED, Step::Noticed(Status::ACKNOWLEDGE)),
    (NOTICED, DRIVEN, Step::Noticed(Status::DRIVER)),
    (DRIVEN, AGREED, Step::Features),
    (AGREED, RUNNING, Step::Start),
    (AGREED, AGREED, Step::Noticed(Status::EMPTY)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_order_of_the_specification_is_legal() {
        let order = [Status::EMPTY, NOTICED, DRIVEN, AGREED, RUNNING];
        for (at, from) in order.iter().enumerate() {
            for (to_at, to) in order.iter().enumerate().skip(1) {
                let legal = to_at == at + 1 || (*from == AGREED && *to == AGREED);
                assert_eq!(from.step(*to).is_some(), legal, "{from:?} to {to:?}");
            }
            assert_eq!(from.step(Status::EMPTY), Some(Step::Reset));
            assert_eq!(from.step(from.with(Status::FAILED)), Some(Step::Failed));
        }
    }

    #[test]
    fn a_device_in_need_of_reset_still_takes_steps_and_keeps_its_bit() {
        let from = RUNNING.with(Status::NEEDS_RESET);
        assert_eq!(from.step(Status::EMPTY), Some(Step::Reset));
        assert_eq!(
            DRIVEN.with(Status::NEEDS_RESET).step(AGREED),
            Some(Step::Features)
        );
    }
}
