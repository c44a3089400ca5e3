//! Noticing that a guest has halted for ever.
//!
//! A kernel that is to power off, and finds no switch for that, masks every line of the I/O APIC, and halts each processor with
//! interrupts off (Linux `arch/x86/kernel/reboot.c`, `native_machine_halt`). Such an HLT ends by NMI, SMI, INIT and RESET
//! only (Intel SDM volume 2, "HLT"), and with all processors halted so nobody is left who could send one: the machine is
//! over. KVM keeps that to itself, since an HLT is the business of its local APIC. But the masked lines are seen, shortly before; from then on
//! the processors are looked at for a while, at growing distances, until all of them have halted, or it was something else: a
//! kernel that starts another one (kexec) does the same.

use std::time::{Duration, Instant};

use crate::ending::{Ending, Endings, News};

/// When the processors are looked at first. They need less than a millisecond, unless the host is busy.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// The longest time between two looks; after it there is none. A kernel waits up to a second for a processor that does not stop.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Waits for the end of a machine. `are_halted` says whether no processor can ever run again.
pub(crate) fn wait(endings: &Endings, are_halted: impl Fn() -> bool) -> Ending {
    let mut look: Option<Look> = None;
    loop {
        match endings.next(look.as_ref().map(|look| look.at)) {
            Some(News::Ending(ending)) => return ending,
            Some(News::Isolated) => look = Some(Look::after(FIRST_LOOK)),
            None if are_halted() => {
                // A processor that is gone is not looked at, and has reported why before it went.
                return endings.try_recv().unwrap_or(Ending::Halted);
            }
            None => look = look.and_then(Look::next),
        }
    }
}

/// A look at the processors.
struct Look {
    at: Instant,
    distance: Duration,
}

impl Look {
    fn after(distance: Duration) -> Look {
        Look {
            at: Instant::now() + distance,
            distance,
        }
    }

    fn next(self) -> Option<Look> {
        (self.distance < LAST_LOOK).then(|| Look::after((self.distance * 2).min(LAST_LOOK)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ending::EndingReporter;

    #[test]
    fn processors_are_looked_at_when_no_line_can_wake_them() {
        let (reporter, endings) = EndingReporter::new();
        reporter.isolated();
        reporter.isolated();
        let looks = Cell::new(0);
        let halted_at_last = || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        };
        assert_eq!(wait(&endings, halted_at_last), Ending::Halted);
        assert_eq!(looks.get(), 3);
    }

    #[test]
    fn what_was_reported_before_counts() {
        let (reporter, endings) = EndingReporter::new();
        reporter.isolated();
        let ends_meanwhile = || {
            reporter.report(Ending::Reset);
            true
        };
        assert_eq!(wait(&endings, ends_meanwhile), Ending::Reset);
        // Without a reason nobody looks.
        reporter.report(Ending::TripleFault);
        assert_eq!(wait(&endings, || panic!("a look")), Ending::TripleFault);
    }

    #[test]
    fn looks_come_to_an_end() {
        let mut distances = Vec::new();
        let mut look = Some(Look::after(FIRST_LOOK));
        while let Some(this) = look {
            distances.push(this.distance);
            look = this.next();
        }
        assert_eq!(distances.last(), Some(&LAST_LOOK));
        assert_eq!(distances.len(), 10);
    }
}
