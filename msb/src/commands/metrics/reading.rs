//! What sandboxes use, read at one moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use microsandbox::names::Name;
use microsandbox::sandbox::{SandboxHandle, SandboxMetrics};
use microsandbox::{MicrosandboxError, Sandbox};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::commands::advice::advise;
use crate::commands::records::all_or_why_not;
use crate::commands::stats::screen::Screen;
use crate::failure::{self, FAILED};
use crate::options::display_rounded_size;
use crate::table::table;

/// The sandboxes that are looked at.
#[derive(Debug)]
pub(in crate::commands) struct Subject {
    /// All that run if there are none.
    names: Vec<Name>,
    missing: Missing,
}

/// Sandboxes, or their records, that could not be read when they were looked at last. Who looks again and again wants to be told once.
#[derive(Debug, Default)]
struct Missing {
    names: BTreeSet<String>,
}

/// What a sandbox uses. Bytes and times count from its last start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::commands) struct Reading {
    pub(in crate::commands) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(in crate::commands) cpu_percent: f64,
    pub(super) vcpu_time_ns: u64,
    pub(in crate::commands) memory_bytes: u64,
    pub(super) memory_available_bytes: Option<u64>,
    pub(super) memory_host_resident_bytes: Option<u64>,
    pub(super) memory_limit_bytes: u64,
    pub(super) disk_read_bytes: u64,
    pub(super) disk_write_bytes: u64,
    pub(super) net_rx_bytes: u64,
    pub(super) net_tx_bytes: u64,
    pub(super) upper_used_bytes: Option<u64>,
    pub(super) upper_free_bytes: Option<u64>,
    pub(super) upper_host_allocated_bytes: Option<u64>,
    pub(super) sessions: u32,
    pub(super) uptime_seconds: f64,
}

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::commands) enum Order {
    Cpu,
    Mem,
    Name,
}

impl Order {
    /// Puts readings, which come by name, into this order.
    pub(in crate::commands) fn apply(self, readings: &mut [Reading]) {
        match self {
            Order::Name => {}
            Order::Cpu => {
                readings.sort_by(|one, other| other.cpu_percent.total_cmp(&one.cpu_percent));
            }
            Order::Mem => readings.sort_by_key(|reading| Reverse(reading.memory_bytes)),
        }
    }
}

impl Subject {
    /// These sandboxes; all that run if there are no names.
    pub(in crate::commands) fn new(names: Vec<Name>) -> Subject {
        Subject {
            names,
            missing: Missing::default(),
        }
    }

    /// Reads all of them at the same time. That one cannot be read and was asked for by name, or what is recorded of one, is
    /// reported on `screen`, but not again by the next reading.
    ///
    /// # Errors
    /// When the sandboxes cannot be listed.
    pub(in crate::commands) async fn read(
        &mut self,
        screen: &mut Screen,
    ) -> anyhow::Result<Vec<Reading>> {
        let mut failures = Vec::new();
        let mut work = JoinSet::new();
        for handle in self.handles(&mut failures).await? {
            work.spawn(async move {
                let reading = read(&handle).await;
                (handle.name().to_owned(), reading)
            });
        }
        let mut readings = Vec::new();
        while let Some(done) = work.join_next().await {
            match done.context("a task ended early")? {
                (_, Ok(reading)) => readings.push(reading),
                // Of those that nobody named, the ones that run are shown, and this one does not any more.
                (_, Err(_)) if self.names.is_empty() => {}
                (name, Err(error)) => failures.push((name, error)),
            }
        }
        for error in self.missing.update(failures) {
            screen.leave();
            failure::report(&advise(error).await);
        }
        readings.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(readings)
    }

    /// Whether nothing is left of what was asked for.
    pub(in crate::commands) fn is_gone(&self, readings: &[Reading]) -> bool {
        !self.names.is_empty() && readings.is_empty()
    }

    /// The exit status after these readings.
    pub(in crate::commands) fn status(&self, readings: &[Reading]) -> u8 {
        let missing = self.names.iter().any(|name| {
            let is_read = |reading: &Reading| reading.name == name.as_str();
            !readings.iter().any(is_read)
        });
        let unreadable = self.names.is_empty() && !self.missing.names.is_empty();
        if missing || unreadable { FAILED } else { 0 }
    }

    async fn handles(
        &self,
        failures: &mut Vec<(String, MicrosandboxError)>,
    ) -> anyhow::Result<Vec<SandboxHandle>> {
        if self.names.is_empty() {
            let (mut all, unreadable) = all_or_why_not().await?;
            failures.extend(
                unreadable
                    .into_iter()
                    .map(|error| (error.to_string(), error)),
            );
            all.retain(|handle| handle.status().is_alive());
            return Ok(all);
        }
        let mut handles = Vec::new();
        for name in &self.names {
            match Sandbox::get(name.as_str()).await {
                Ok(handle) => handles.push(handle),
                Err(error) => failures.push((name.to_string(), error)),
            }
        }
        Ok(handles)
    }
}

impl Missing {
    /// Takes the failures of a reading; returns those of sandboxes that did not fail at the reading before.
    fn update<E>(&mut self, failures: Vec<(String, E)>) -> Vec<E> {
        let now = failures.iter().map(|(name, _)| name.clone()).collect();
        let before = std::mem::replace(&mut self.names, now);
        let is_new = |(name, error)| (!before.contains(&name)).then_some(error);
        failures.into_iter().filter_map(is_new).collect()
    }
}

/// Reads one of them.
///
/// # Errors
/// When it does not run any more.
pub(in crate::commands) async fn read(
    handle: &SandboxHandle,
) -> Result<Reading, MicrosandboxError> {
    let metrics = handle.metrics().await?;
    // Without its labels a sandbox still has metrics.
    let labels = handle.config().map(|config| config.labels);
    Ok(Reading::new(
        handle.name().to_owned(),
        labels.unwrap_or_default(),
        metrics,
    ))
}

impl Reading {
    pub(super) fn new(
        name: String,
        labels: BTreeMap<String, String>,
        metrics: SandboxMetrics,
    ) -> Reading {
        Reading {
            name,
            labels,
            cpu_percent: metrics.cpu_percent,
            vcpu_time_ns: metrics.vcpu_time_ns,
            memory_bytes: metrics.memory_bytes,
            memory_available_bytes: metrics.memory_available_bytes,
            memory_host_resident_bytes: metrics.memory_host_resident_bytes,
            memory_limit_bytes: metrics.memory_limit_bytes,
            disk_read_bytes: metrics.disk_read_bytes,
            disk_write_bytes: metrics.disk_write_bytes,
            net_rx_bytes: metrics.net_rx_bytes,
            net_tx_bytes: metrics.net_tx_bytes,
            upper_used_bytes: metrics.upper_used_bytes,
            upper_free_bytes: metrics.upper_free_bytes,
            upper_host_allocated_bytes: metrics.upper_host_allocated_bytes,
            sessions: metrics.sessions,
            uptime_seconds: metrics.uptime.as_secs_f64(),
        }
    }
}

impl Reading {
    /// The most important of it, for people.
    pub(in crate::commands) fn describe(&self) -> String {
        format!(
            "{:.1}% of a processor, {} of {} memory, {} read, {} written, up {}",
            self.cpu_percent,
            display_rounded_size(self.memory_bytes),
            display_rounded_size(self.memory_limit_bytes),
            display_rounded_size(self.disk_read_bytes),
            display_rounded_size(self.disk_write_bytes),
            uptime(self.uptime_seconds as u64)
        )
    }
}

/// Readings for people.
pub(in crate::commands) fn in_columns(readings: &[Reading]) -> String {
    let rows: Vec<_> = readings.iter().map(row).collect();
    let titles = [
        "NAME", "CPU %", "MEMORY", "LIMIT", "MEM %", "READ", "WRITTEN", "UPTIME",
    ];
    table(titles, &rows)
}

fn row(reading: &Reading) -> [String; 8] {
    let share = reading.memory_bytes as f64 * 100.0 / (reading.memory_limit_bytes.max(1)) as f64;
    [
        reading.name.clone(),
        format!("{:.1}%", reading.cpu_percent),
        display_rounded_size(reading.memory_bytes),
        display_rounded_size(reading.memory_limit_bytes),
        format!("{share:.1}%"),
        display_rounded_size(reading.disk_read_bytes),
        display_rounded_size(reading.disk_write_bytes),
        uptime(reading.uptime_seconds as u64),
    ]
}

/// `5s`, `3m 20s`, `2h 5m`, `4d 1h`.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_is_told_once_and_again_after_coming_back() {
        let mut missing = Missing::default();
        let mut update = |names: &[&'static str]| {
            let failures = names.iter().map(|&name| (name.to_owned(), name));
            missing.update(failures.collect())
        };
        assert_eq!(update(&["one"]), ["one"]);
        assert_eq!(update(&["one", "two"]), ["two"]);
        assert_eq!(update(&["two"]), [""; 0]);
        assert_eq!(update(&["one", "two"]), ["one"]);
    }

    #[test]
    fn uptimes_as_people_read_them() {
        for (seconds, text) in [
            (5, "5s"),
            (200, "3m 20s"),
            (7500, "2h 5m"),
            (349_300, "4d 1h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
