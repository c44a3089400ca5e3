//! Log lines, on standard error or elsewhere.

use std::io;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Least severe log lines to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// Only what has gone wrong.
    Error,
    /// Also what may go wrong.
    Warn,
    /// Also what is done.
    Info,
    /// Also how it is done.
    Debug,
    /// Also every step.
    Trace,
}

impl LogLevel {
    /// The name, as on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// Prints log lines from `level` on.
pub(crate) fn start(level: LogLevel) {
    start_with(level, io::stderr);
}

/// Writes log lines from `level` on.
pub(crate) fn start_with(
    level: LogLevel,
    writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level.filter())
        .with_writer(writer)
        .with_target(matches!(level, LogLevel::Debug | LogLevel::Trace))
        .without_time()
        // It would report a disk that is full under standard error there, and panic because it cannot.
        .log_internal_errors(false)
        .finish();
    // Fails only when logging was started before; then it stays as it is.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
