//! `msb run --timings`: how long each phase took.

use std::fmt::{self, Display};
use std::time::Duration;

use clap::ValueEnum;
use microsandbox::launch::{Moment, Startup};

/// How the times are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TimingsFormat {
    /// For people.
    Table,
    /// For programs: one object in one line.
    Json,
}

/// The phases of one `msb run`, as far as it came.
#[derive(Debug)]
pub(super) struct Timings {
    begin: Moment,
    /// Name of each phase and its end.
    phases: Vec<(&'static str, Moment)>,
}

impl Timings {
    /// Starts the clock.
    pub(super) fn start() -> Timings {
        Timings {
            begin: Moment::now(),
            phases: Vec::new(),
        }
    }

    /// The guest is up.
    pub(super) fn started(&mut self, startup: &Startup) {
        self.phases.extend([
            ("spawn", startup.process),
            ("build", startup.kernel_entry),
            ("kernel", startup.agent_started()),
            ("agentd", startup.ready),
            ("ready", Moment::now()),
        ]);
    }

    /// The command is over; it wrote its first byte at `first_output`, if any.
    pub(super) fn exited(&mut self, first_output: Option<Moment>) {
        if let Some(moment) = first_output {
            self.phases.push(("first byte", moment));
        }
        self.phases.push(("exit", Moment::now()));
    }

    /// The machine is no more.
    pub(super) fn stopped(&mut self) {
        self.phases.push(("stop", Moment::now()));
    }

    /// Each phase with its end since the begin, and its length.
    fn rows(&self) -> impl Iterator<Item = (&'static str, Duration, Duration)> {
        let mut last = self.begin;
        self.phases.iter().map(move |(name, end)| {
            let length = end.since(last);
            last = *end;
            (*name, end.since(self.begin), length)
        })
    }

    /// The times as text.
    pub(super) fn display(&self, format: TimingsFormat) -> impl Display {
        fmt::from_fn(move |formatter| match format {
            TimingsFormat::Table => self.table(formatter),
            TimingsFormat::Json => self.json(formatter),
        })
    }

    fn table(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<12}{:>12}{:>12}", "PHASE", "TOOK ms", "AT ms")?;
        for (name, end, length) in self.rows() {
            let [length, end] = [length, end].map(|time| time.as_secs_f64() * 1000.0);
            write!(formatter, "\n{name:<12}{length:>12.2}{end:>12.2}")?;
        }
        Ok(())
    }

    fn json(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.rows().map(|(name, end, _)| {
            let ns = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
            (format!("{}_ns", name.replace(' ', "_")), ns.into())
        });
        serde_json::Value::Object(ends.collect()).fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microsandbox::protocol::Ready;

    fn timings() -> Timings {
        let mut timings = Timings::start();
        let begin = timings.begin;
        let agent = Ready {
            kernel_ns: 1,
            agent_ns: 0,
        };
        timings.started(&Startup {
            process: begin,
            kernel_entry: begin,
            ready: begin,
            agent,
        });
        timings
    }

    #[test]
    fn phases_come_in_order_and_add_up() {
        let mut timings = timings();
        timings.exited(Some(Moment::now()));
        timings.stopped();
        let rows: Vec<_> = timings.rows().collect();
        let names: Vec<_> = rows.iter().map(|(name, ..)| *name).collect();
        let expected = "spawn build kernel agentd ready first+byte exit stop";
        assert_eq!(
            names.join(" ").replace("first byte", "first+byte"),
            expected
        );
        let sum: Duration = rows.iter().map(|(.., length)| *length).sum();
        assert_eq!(rows.last().map(|(_, end, _)| *end), Some(sum));
    }

    #[test]
    fn a_command_without_output_has_no_first_byte() {
        let mut timings = timings();
        timings.exited(None);
        let json = timings.display(TimingsFormat::Json).to_string();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(value["first_byte_ns"].is_null());
        assert!(value["exit_ns"].is_u64());
        let table = timings.display(TimingsFormat::Table).to_string();
        assert_eq!(table.lines().count(), 7);
    }
}
