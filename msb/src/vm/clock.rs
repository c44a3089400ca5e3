//! Notices when the host's wall clock is set, so that the guest's can be, too.

use std::io;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use microsandbox::protocol::ClockTime;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;

use super::supervisor::Event;

/// When the timer would expire, in seconds since 1970: the last second that the kernel has a name for (KTIME_SEC_MAX, in 2262). No
/// clock gets there: it cannot be set to the last 30 years before (clock_settime(2), TIME_SETTOD_SEC_MAX).
const NEVER: i64 = i64::MAX / 1_000_000_000;

/// Tells of each time that the wall clock jumps.
///
/// # Errors
/// When there can be no more threads or descriptors.
pub(super) fn watch(events: Sender<Event>) -> io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    // Never joined: it ends with this process.
    thread::Builder::new()
        .name("clock".to_owned())
        .spawn(move || {
            while arm(&timer).is_ok() {
                // Setting the clock cancels the timer (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), which `TimerFd::wait` does
                // not tell from its expiry.
                match read(&timer, &mut [0; 8]) {
                    Err(Errno::ECANCELED) => {
                        if events.send(Event::ClockSet).is_err() {
                            return;
                        }
                    }
                    Err(Errno::EINTR) => {}
                    // There are no more events.
                    Ok(_) | Err(_) => return,
                }
            }
        })?;
    Ok(())
}

fn arm(timer: &TimerFd) -> nix::Result<()> {
    timer.set(
        Expiration::OneShot(TimeSpec::new(NEVER, 0)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )
}

/// The time of day.
pub(super) fn now() -> ClockTime {
    // A clock before 1970 is none that a guest should have.
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ClockTime {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanoseconds: time.subsec_nanos(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_watch_does_not_expire() {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC).unwrap();
        arm(&timer).unwrap();
        let Some(Expiration::OneShot(left)) = timer.get().unwrap() else {
            panic!("it has expired")
        };
        // From the latest time that a clock can be set to.
        let latest = Duration::from_secs(i64::MAX as u64 / 1_000_000_000 - 30 * 365 * 24 * 3600);
        let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(today + Duration::from(left) > latest, "{left}");
    }
}
