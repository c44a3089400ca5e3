//! Metrics in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::reading::Reading;

/// A metric: name, type, help, and its value if it is known.
type Metric = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Reading) -> Option<f64>,
);

const NANOSECONDS: f64 = 1e9;

const METRICS: [Metric; 15] = [
    (
        "msb_cpu_percent",
        "gauge",
        "Use of one processor in percent, over the last moments.",
        |r| Some(r.cpu_percent),
    ),
    (
        "msb_vcpu_seconds_total",
        "counter",
        "Time that the virtual processors ran.",
        |r| Some(r.vcpu_time_ns as f64 / NANOSECONDS),
    ),
    ("msb_memory_bytes", "gauge", "Memory in use.", |r| {
        Some(r.memory_bytes as f64)
    }),
    (
        "msb_memory_available_bytes",
        "gauge",
        "Memory that the guest says could be used.",
        |r| number(r.memory_available_bytes),
    ),
    (
        "msb_memory_host_resident_bytes",
        "gauge",
        "Memory of the host behind the guest's.",
        |r| number(r.memory_host_resident_bytes),
    ),
    (
        "msb_memory_limit_bytes",
        "gauge",
        "Memory that the guest may have.",
        |r| Some(r.memory_limit_bytes as f64),
    ),
    (
        "msb_disk_read_bytes_total",
        "counter",
        "Bytes read from disks and shared folders.",
        |r| Some(r.disk_read_bytes as f64),
    ),
    (
        "msb_disk_write_bytes_total",
        "counter",
        "Bytes written to disks and shared folders.",
        |r| Some(r.disk_write_bytes as f64),
    ),
    (
        "msb_network_receive_bytes_total",
        "counter",
        "Bytes received over the network.",
        |r| Some(r.net_rx_bytes as f64),
    ),
    (
        "msb_network_transmit_bytes_total",
        "counter",
        "Bytes sent over the network.",
        |r| Some(r.net_tx_bytes as f64),
    ),
    (
        "msb_upper_used_bytes",
        "gauge",
        "Bytes in use in the private layer of the root.",
        |r| number(r.upper_used_bytes),
    ),
    (
        "msb_upper_free_bytes",
        "gauge",
        "Bytes free in the private layer of the root.",
        |r| number(r.upper_free_bytes),
    ),
    (
        "msb_upper_host_allocated_bytes",
        "gauge",
        "Bytes of the host's disk behind the private layer.",
        |r| number(r.upper_host_allocated_bytes),
    ),
    ("msb_sessions", "gauge", "Sessions that there are.", |r| {
        Some(f64::from(r.sessions))
    }),
    (
        "msb_uptime_seconds",
        "gauge",
        "Time since the start.",
        |r| Some(r.uptime_seconds),
    ),
];

fn number(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// All readings, metric by metric as the format wants it.
pub(super) fn render(readings: &[Reading]) -> String {
    let labels: Vec<_> = readings.iter().map(labels).collect();
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        let mut samples = String::new();
        for (reading, labels) in readings.iter().zip(&labels) {
            if let Some(value) = value(reading) {
                // Writing to a string does not fail.
                let _ = writeln!(samples, "{name}{{{labels}}} {value}");
            }
        }
        if !samples.is_empty() {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"
            );
        }
    }
    text
}

/// The labels of a sandbox's samples: its name, and its own labels under names that Prometheus takes.
fn labels(reading: &Reading) -> String {
    let mut labels = BTreeMap::new();
    for (key, value) in &reading.labels {
        // Of two that become the same, the first.
        labels.entry(label_name(key)).or_insert(value.as_str());
    }
    let mut text = format!("sandbox=\"{}\"", escape(&reading.name));
    for (name, value) in labels {
        let _ = write!(text, ",{name}=\"{}\"", escape(value));
    }
    text
}

fn label_name(key: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("label_{}", key.chars().map(allowed).collect::<String>())
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use microsandbox::sandbox::SandboxMetrics;

    use super::*;

    #[test]
    fn the_text_format() {
        let metrics = SandboxMetrics {
            cpu_percent: 12.5,
            vcpu_time_ns: 1_500_000_000,
            memory_bytes: 1 << 40,
            memory_available_bytes: None,
            memory_host_resident_bytes: None,
            memory_limit_bytes: 1,
            disk_read_bytes: 2,
            disk_write_bytes: 3,
            net_rx_bytes: 0,
            net_tx_bytes: 0,
            upper_used_bytes: None,
            upper_free_bytes: None,
            upper_host_allocated_bytes: None,
            sessions: 4,
            uptime: Duration::from_secs(5),
        };
        let labels = [("app.kind", "a\\b\"c\n"), ("app_kind", "second")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let readings = ["one", "two"].map(|name| {
            let labels = if name == "one" {
                labels.clone().into()
            } else {
                BTreeMap::new()
            };
            Reading::new(name.to_owned(), labels, metrics.clone())
        });
        let text = render(&readings);
        let start = "# HELP msb_cpu_percent Use of one processor in percent, over the last moments.\n\
            # TYPE msb_cpu_percent gauge\n\
            msb_cpu_percent{sandbox=\"one\",label_app_kind=\"a\\\\b\\\"c\\n\"} 12.5\n\
            msb_cpu_percent{sandbox=\"two\"} 12.5\n\
            # HELP msb_vcpu_seconds_total";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("msb_vcpu_seconds_total{sandbox=\"two\"} 1.5\n"));
        assert!(text.contains("msb_memory_bytes{sandbox=\"two\"} 1099511627776\n"));
        // What is not known is left out, with its description.
        assert!(!text.contains("msb_memory_available_bytes"), "{text}");
    }
}
