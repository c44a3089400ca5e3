//! What sandboxes use.

use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::machine::{ANSWER, Machine};
use crate::control::{ControlClient, ControlError, MachineMetrics};
use crate::error::MicrosandboxError;

/// Shortest time between two readings of a stream.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// What a sandbox uses, at a moment. Bytes and times count from its last start.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxMetrics {
    /// Of one processor, in percent, over the last moments: 200 means two processors ran all the time.
    pub cpu_percent: f64,
    /// Nanoseconds that its virtual processors ran, together.
    pub vcpu_time_ns: u64,
    /// Bytes of memory in use: by what the guest says, or what the host gave it if the guest says nothing.
    pub memory_bytes: u64,
    /// Bytes of memory that the guest says could be used.
    pub memory_available_bytes: Option<u64>,
    /// Bytes of the host's memory behind the guest's.
    pub memory_host_resident_bytes: Option<u64>,
    /// Bytes of memory that the guest may have.
    pub memory_limit_bytes: u64,
    /// Bytes read from disks and shared folders.
    pub disk_read_bytes: u64,
    /// Bytes written to disks and shared folders.
    pub disk_write_bytes: u64,
    /// Bytes received over the network.
    pub net_rx_bytes: u64,
    /// Bytes sent over the network.
    pub net_tx_bytes: u64,
    /// Bytes in use in the private layer of the root, if it is on disk and the guest says so.
    pub upper_used_bytes: Option<u64>,
    /// Bytes that are free there.
    pub upper_free_bytes: Option<u64>,
    /// Bytes that its image takes up on the host.
    pub upper_host_allocated_bytes: Option<u64>,
    /// Sessions that there are.
    pub sessions: u32,
    /// Time since its start.
    pub uptime: Duration,
}

impl From<MachineMetrics> for SandboxMetrics {
    fn from(metrics: MachineMetrics) -> SandboxMetrics {
        SandboxMetrics {
            cpu_percent: metrics.cpu_percent,
            vcpu_time_ns: metrics.vcpu_time_ns,
            memory_bytes: metrics.memory_used,
            memory_available_bytes: metrics.memory_available,
            memory_host_resident_bytes: metrics.memory_host_resident,
            memory_limit_bytes: metrics.memory_limit,
            disk_read_bytes: metrics.disk_read,
            disk_write_bytes: metrics.disk_written,
            net_rx_bytes: metrics.net_received,
            net_tx_bytes: metrics.net_sent,
            upper_used_bytes: metrics.upper_used,
            upper_free_bytes: metrics.upper_free,
            upper_host_allocated_bytes: metrics.upper_host_allocated,
            sessions: metrics.sessions,
            uptime: Duration::from_nanos(metrics.uptime_ns),
        }
    }
}

/// What a sandbox uses, again and again. Dropping it ends it.
///
/// ```no_run
/// # use std::time::Duration;
/// # async fn example(sandbox: microsandbox::Sandbox) -> Result<(), microsandbox::MicrosandboxError> {
/// let mut readings = sandbox.metrics_stream(Duration::from_secs(1)).await?;
/// while let Some(reading) = readings.recv().await? {
///     println!("{:.1} %, {} bytes", reading.cpu_percent, reading.memory_bytes);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MetricsStream {
    machine: Machine,
    ticks: Interval,
    /// One connection for all readings; `None` during one and at the end.
    connection: Option<ControlClient>,
    /// A reading that is under way, whoever still waits for it.
    reading: Option<JoinHandle<Reading>>,
}

/// What came of a reading, with the connection for the next.
type Reading = Result<(MachineMetrics, ControlClient), ControlError>;

impl MetricsStream {
    pub(super) async fn new(
        machine: Machine,
        period: Duration,
    ) -> Result<MetricsStream, MicrosandboxError> {
        let connection = machine.control(Ok).await?;
        let mut ticks = interval(period.max(MIN_INTERVAL));
        // Readings that come late are not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(MetricsStream {
            machine,
            ticks,
            connection: Some(connection),
            reading: None,
        })
    }

    /// Waits for the next reading, the first of which comes at once; `None` when the sandbox has ended. What is given up while
    /// it waits is not lost.
    ///
    /// # Errors
    /// When the machine's process cannot be understood or does not answer. After an error there is nothing more.
    pub async fn recv(&mut self) -> Result<Option<SandboxMetrics>, MicrosandboxError> {
        let reading = match &mut self.reading {
            Some(reading) => reading,
            None => {
                self.ticks.tick().await;
                let Some(mut connection) = self.connection.take() else {
                    return Ok(None);
                };
                self.reading.insert(spawn_blocking(move || {
                    let metrics = connection.metrics(ANSWER)?;
                    Ok((metrics, connection))
                }))
            }
        };
        let read = reading.await;
        self.reading = None;
        let failed = MicrosandboxError::runtime("A thread of the library failed");
        match read.map_err(failed)? {
            Ok((metrics, connection)) => {
                self.connection = Some(connection);
                Ok(Some(metrics.into()))
            }
            Err(ControlError::Gone) => Ok(None),
            Err(error) => Err(self.machine.control_error(error).await),
        }
    }
}
