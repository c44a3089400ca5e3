//! What a machine uses: by its monitor, and by what its guest says, if that answers in time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microsandbox::control::MachineMetrics;
use microsandbox::launch::{LaunchConfig, RootAccess};
use microsandbox::protocol::Measurement;
use vmm::machine::Meter;

use super::control::ClientId;

/// How long the guest may take to say what it uses.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// Shortest time over which the use of processors is measured.
const SHORTEST: Duration = Duration::from_millis(100);

/// Measures one machine.
#[derive(Debug)]
pub(super) struct Metrics {
    meter: Meter,
    usage: Usage,
    memory: u64,
    /// Image of the root's private layer.
    upper: Option<PathBuf>,
    /// Who waits for the guest's answer, and until when.
    waiting: Vec<ClientId>,
    pub(super) deadline: Option<Instant>,
}

/// Processor time at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    time: Duration,
}

/// How much of a processor was used lately.
#[derive(Debug)]
struct Usage {
    started: Instant,
    /// At least [`SHORTEST`] apart.
    before: Reading,
    last: Reading,
}

impl Metrics {
    /// The metrics of the machine of `config`, which started at `started`.
    pub(super) fn new(config: &LaunchConfig, meter: Meter, started: Instant) -> Metrics {
        let upper = match &config.root.access {
            RootAccess::DiskLayer(image) => Some(image.path.0.clone()),
            _ => None,
        };
        Metrics {
            meter,
            usage: Usage::new(started),
            memory: config.memory,
            upper,
            waiting: Vec::new(),
            deadline: None,
        }
    }

    /// Lets `client` wait until the guest has answered, or takes too long.
    pub(super) fn wait(&mut self, client: ClientId, now: Instant) {
        self.waiting.push(client);
        if self.deadline.is_none() {
            self.deadline = now.checked_add(ANSWER_LIMIT);
        }
    }

    /// Those who waited, who wait no longer.
    pub(super) fn take_waiting(&mut self) -> Vec<ClientId> {
        self.deadline = None;
        std::mem::take(&mut self.waiting)
    }

    /// What the machine uses now.
    pub(super) fn read(
        &mut self,
        measurement: Option<Measurement>,
        sessions: u32,
        now: Instant,
    ) -> MachineMetrics {
        let time = self.meter.vcpu_time();
        let resident = self.meter.resident_memory();
        let used = measurement.map(|it| it.memory_total.saturating_sub(it.memory_available));
        let (upper_used, upper_free) = measurement.and_then(|it| it.upper).unzip();
        let upper = self.upper.as_ref().and_then(|path| fs::metadata(path).ok());
        MachineMetrics {
            uptime_ns: nanoseconds(now.saturating_duration_since(self.usage.started)),
            vcpu_time_ns: nanoseconds(time),
            cpu_percent: self.usage.percent(Reading { at: now, time }),
            memory_limit: self.memory,
            memory_used: used.or(resident).unwrap_or(0),
            memory_available: measurement.map(|it| it.memory_available),
            memory_host_resident: resident,
            disk_read: self.meter.disk_read(),
            disk_written: self.meter.disk_written(),
            net_received: 0,
            net_sent: 0,
            upper_used,
            upper_free,
            // In units of 512 bytes (stat(2)).
            upper_host_allocated: upper.map(|file| file.blocks().saturating_mul(512)),
            sessions,
        }
    }
}

impl Usage {
    fn new(started: Instant) -> Usage {
        let nothing = Reading {
            at: started,
            time: Duration::ZERO,
        };
        Usage {
            started,
            before: nothing,
            last: nothing,
        }
    }

    /// In percent of one processor, since a reading that is at least [`SHORTEST`] old; else since the start.
    fn percent(&mut self, now: Reading) -> f64 {
        let age = |reading: Reading| now.at.saturating_duration_since(reading.at);
        let since = if age(self.last) >= SHORTEST {
            self.last
        } else {
            self.before
        };
        if age(self.last) >= SHORTEST {
            self.before = std::mem::replace(&mut self.last, now);
        }
        let elapsed = age(since).as_secs_f64();
        let used = now.time.saturating_sub(since.time).as_secs_f64();
        if elapsed > 0.0 {
            100.0 * used / elapsed
        } else {
            0.0
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_measured_over_a_tenth_of_a_second_at_least() {
        let started = Instant::now();
        let mut usage = Usage::new(started);
        let mut percent = |at: u64, time: u64| {
            let reading = Reading {
                at: started + Duration::from_millis(at),
                time: Duration::from_millis(time),
            };
            usage.percent(reading).round()
        };
        assert_eq!(percent(0, 0), 0.0);
        assert_eq!(percent(50, 50), 100.0);
        // Two processors since the start.
        assert_eq!(percent(1000, 2000), 200.0);
        // Half of one since then.
        assert_eq!(percent(1200, 2100), 50.0);
        // Too soon: since the reading before.
        assert_eq!(percent(1201, 2101), 50.0);
        assert_eq!(percent(1299, 2101), 34.0);
        assert_eq!(percent(1300, 2100), 0.0);
    }
}
