//! `msb inspect`

use clap::Args;
use microsandbox::Sandbox;
use microsandbox::names::Name;
use microsandbox::sandbox::SandboxHandle;
use serde::Serialize;
use serde_json::Value;

use super::Format;
use super::advice::advise;
use super::list::SandboxView;
use super::runtime::block_on;
use crate::failure::{self, FAILED};
use crate::output;

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
    config: Value,
}

/// Shows them.
pub(super) fn execute(arguments: &Arguments) -> anyhow::Result<u8> {
    let mut status = 0;
    let details = block_on(async {
        let mut details = Vec::new();
        for name in &arguments.names {
            match Sandbox::get(name.as_str()).await {
                Ok(sandbox) => details.push(Details::of(&sandbox)?),
                Err(error) => {
                    failure::report(&advise(error).await);
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
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&details)?),
    };
    output::print(&text)?;
    Ok(status)
}

impl Details {
    fn of(sandbox: &SandboxHandle) -> anyhow::Result<Details> {
        let view = SandboxView::of(sandbox);
        Ok(Details {
            name: view.name,
            status: view.status.to_string(),
            created_at: view.created_at,
            updated_at: view.updated_at,
            config: serde_json::from_str(sandbox.config_json())?,
        })
    }

    /// All of it, for people: what was not set is left out.
    fn describe(&self) -> String {
        let mut text = format!(
            "name: {}\nstatus: {}\ncreated: {}\nupdated: {}\n",
            self.name, self.status, self.created_at, self.updated_at
        );
        let fields = self.config.as_object().into_iter().flatten();
        for (key, value) in fields.filter(|(key, value)| *key != "name" && is_set(value)) {
            match value {
                Value::String(value) => text.push_str(&format!("{key}: {value}\n")),
                value => text.push_str(&format!("{key}: {value}\n")),
            }
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
