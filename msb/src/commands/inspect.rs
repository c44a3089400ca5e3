//! `msb inspect`

use clap::Args;
use microsandbox::Sandbox;
use microsandbox::names::Name;
use microsandbox::sandbox::{SandboxHandle, SandboxStopResult, StopReason};
use serde::Serialize;
use serde_json::Value;

use super::Format;
use super::advice::advise;
use super::list::SandboxView;
use super::metrics::reading::{Reading, read};
use super::records::configuration;
use super::runtime::block_on;
use crate::failure::{self, FAILED};
use crate::{output, utc};

/// Shows all that is known of sandboxes
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them are shown, 1 otherwise

Examples:
  msb inspect web
  msb inspect web db --format json")]
pub(super) struct Arguments {
    /// Names of the sandboxes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<Name>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A sandbox with its configuration.
#[derive(Debug, Serialize)]
struct Details {
    name: String,
    status: String,
    created_at: String,
    updated_at: String,
    /// Where it keeps its log and its private layer.
    directory: String,
    /// How its last run ended; while it runs, the one before.
    last_stop: Option<StopView>,
    /// What it uses, if it runs.
    metrics: Option<Reading>,
    config: Value,
}

/// How a run ended.
#[derive(Debug, Serialize)]
struct StopView {
    at: String,
    reason: StopReason,
    exit_code: Option<i32>,
    signal: Option<i32>,
    source: Option<String>,
    detail: Option<String>,
}

/// Shows them.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut status = 0;
    let details = block_on(async {
        let mut details = Vec::new();
        for name in &arguments.names {
            let found = match Sandbox::get(name.as_str()).await {
                Ok(sandbox) => Details::of(&sandbox).await,
                Err(error) => Err(advise(error).await),
            };
            match found {
                Ok(found) => details.push(found),
                Err(error) => {
                    failure::report(&error);
                    status = FAILED;
                }
            }
        }
        Ok(details)
    })?;
    let text = match arguments.format {
        Format::Text => {
            let descriptions: Vec<_> = details.iter().map(Details::describe).collect();
            descriptions.join("\n")
        }
        Format::Json => output::json(&details)?,
    };
    output::print(&text)?;
    Ok(status)
}

impl Details {
    async fn of(sandbox: &SandboxHandle) -> anyhow::Result<Details> {
        let config = configuration(sandbox)?;
        let view = SandboxView::of(sandbox);
        // One that is on its way up or down has none, and may be gone by now.
        let metrics = match sandbox.status().is_alive() {
            true => read(sandbox).await.ok(),
            false => None,
        };
        Ok(Details {
            name: view.name,
            status: view.status.to_string(),
            created_at: view.created_at,
            updated_at: view.updated_at,
            directory: sandbox.directory().display().to_string(),
            last_stop: sandbox.last_stop().map(StopView::of),
            metrics,
            config,
        })
    }

    /// All of it, for people: what was not set is left out.
    fn describe(&self) -> String {
        let mut text = format!(
            "name: {}\nstatus: {}\ncreated: {}\nupdated: {}\ndirectory: {}\n",
            self.name, self.status, self.created_at, self.updated_at, self.directory
        );
        if let Some(stop) = &self.last_stop {
            text.push_str(&format!("last stop: {}\n", stop.describe()));
        }
        if let Some(metrics) = &self.metrics {
            text.push_str(&format!("uses: {}\n", metrics.describe()));
        }
        let fields = self.config.as_object().into_iter().flatten();
        for (key, value) in fields.filter(|(key, value)| *key != "name" && is_set(value)) {
            match value {
                Value::String(value) => {
                    text.push_str(&format!("{key}: {}\n", output::clean(value)));
                }
                value => text.push_str(&format!("{key}: {value}\n")),
            }
        }
        text
    }
}

impl StopView {
    fn of(stop: SandboxStopResult) -> StopView {
        StopView {
            at: utc::rfc3339(stop.observed_at),
            reason: stop.reason,
            exit_code: stop.exit_code,
            signal: stop.signal,
            source: stop.source,
            detail: stop.detail,
        }
    }

    /// `completed, exit code 3, 2026-11-25T20:50:07Z`, and what there is to say about it.
    fn describe(&self) -> String {
        let mut text = self.reason.to_string();
        if let Some(code) = self.exit_code {
            text.push_str(&format!(", exit code {code}"));
        }
        if let Some(signal) = self.signal {
            text.push_str(&format!(", signal {signal}"));
        }
        text.push_str(&format!(", {}", self.at));
        if let Some(detail) = &self.detail {
            // The lines of the kernel's log are part of it, and whoever is root in the guest can write to that.
            let lines: Vec<_> = detail.lines().map(output::clean).collect();
            text.push_str(&format!(": {}", lines.join("\n  ")));
        }
        text
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_last_words_move_no_cursor() {
        let stop = StopView {
            at: "2026-11-25T20:50:07Z".to_owned(),
            reason: StopReason::Crashed,
            exit_code: None,
            signal: None,
            source: None,
            detail: Some("it panicked\n[1.0] \x1b[2Jroot\rX\n[2.0] end\n".to_owned()),
        };
        let details = Details {
            name: "web".to_owned(),
            status: "crashed".to_owned(),
            created_at: String::new(),
            updated_at: String::new(),
            directory: "/home".to_owned(),
            last_stop: Some(stop),
            metrics: None,
            config: serde_json::json!({ "hostname": "a\x1b[2Jb" }),
        };
        let text = details.describe();
        let last = "last stop: crashed, 2026-11-25T20:50:07Z: it panicked\n  [1.0]  [2Jroot X\n  [2.0] end\n";
        assert!(text.contains(last), "{text:?}");
        assert!(text.ends_with("hostname: a [2Jb\n"), "{text:?}");
    }
}
