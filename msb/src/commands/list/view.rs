//! A sandbox as it is listed.

use std::collections::BTreeMap;

use microsandbox::sandbox::{SandboxHandle, SandboxStatus};
use serde::Serialize;

use crate::options::Label;
use crate::utc::rfc3339;

/// Most characters of a command in a table.
const MAX_COMMAND: usize = 30;

/// What is known of a sandbox, as `--format json` prints it.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct View {
    pub(in crate::commands) name: String,
    pub(in crate::commands) status: SandboxStatus,
    /// Empty where a later release recorded more than this one understands.
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) cpus: u8,
    pub(super) memory_mib: u32,
    pub(super) labels: BTreeMap<String, String>,
    pub(in crate::commands) created_at: String,
    pub(in crate::commands) updated_at: String,
}

impl View {
    /// What is recorded.
    pub(in crate::commands) fn of(sandbox: &SandboxHandle) -> View {
        let config = sandbox.config().ok();
        let config = config.as_ref();
        View {
            name: sandbox.name().to_owned(),
            status: sandbox.status(),
            image: config.map_or_else(String::new, |config| config.image.display().to_string()),
            command: config.map_or_else(Vec::new, |config| {
                [&config.entrypoint[..], &config.command].concat()
            }),
            cpus: config.map_or(0, |config| config.cpus),
            memory_mib: config.map_or(0, |config| config.memory_mib),
            labels: config.map_or_else(BTreeMap::new, |config| config.labels.clone()),
            created_at: rfc3339(sandbox.created_at()),
            updated_at: rfc3339(sandbox.updated_at()),
        }
    }

    /// Whether it has the label.
    pub(super) fn has(&self, label: &Label) -> bool {
        match (self.labels.get(&label.key), &label.value) {
            (Some(value), Some(wanted)) => value == wanted,
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// The command in a column: not all of it if it is long.
    pub(super) fn shown_command(&self) -> String {
        let command = self.command.join(" ");
        match command.char_indices().nth(MAX_COMMAND) {
            Some((end, _)) => format!("{}\u{2026}", command.get(..end).unwrap_or_default()),
            None if command.is_empty() => "-".to_owned(),
            None => command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl View {
        /// One that has nothing but a name and a state.
        pub(in super::super) fn sample(name: &str, status: SandboxStatus) -> View {
            View {
                name: name.to_owned(),
                status,
                image: String::new(),
                command: Vec::new(),
                cpus: 1,
                memory_mib: 512,
                labels: BTreeMap::new(),
                created_at: String::new(),
                updated_at: String::new(),
            }
        }
    }

    #[test]
    fn a_long_command_is_cut_between_characters() {
        let view = |command: &[&str]| View {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..View::sample("web", SandboxStatus::Running)
        };
        assert_eq!(view(&[]).shown_command(), "-");
        assert_eq!(view(&["a", "b"]).shown_command(), "a b");
        let long = "\u{fc}".repeat(31);
        assert_eq!(
            view(&[&long]).shown_command(),
            format!("{}\u{2026}", "\u{fc}".repeat(30))
        );
    }
}
