//! A snapshot as it is printed.

use std::collections::BTreeMap;

use microsandbox::snapshots::{SnapshotHandle, SnapshotRoot};
use serde::Serialize;

use crate::commands::Format;
use crate::options::{display_rounded_size, display_size};
use crate::output;
use crate::utc::rfc3339;

/// What is known of a snapshot, as `--format json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct View {
    /// None for one at a path.
    name: Option<String>,
    id: String,
    path: String,
    root: SnapshotRoot,
    pub(super) sandbox: String,
    size_bytes: u64,
    /// None if its file is gone.
    used_bytes: Option<u64>,
    digest: String,
    labels: BTreeMap<String, String>,
    pub(super) created_at: String,
}

impl View {
    /// Examines the snapshot.
    pub(super) fn of(snapshot: &SnapshotHandle) -> View {
        View {
            name: snapshot.name().map(str::to_owned),
            id: snapshot.id().to_owned(),
            path: snapshot.path().display().to_string(),
            root: snapshot.root().clone(),
            sandbox: snapshot.sandbox().to_owned(),
            size_bytes: snapshot.size_bytes(),
            used_bytes: snapshot.used_bytes().ok(),
            digest: snapshot.digest().to_string(),
            labels: snapshot.labels().clone(),
            created_at: rfc3339(snapshot.created_at()),
        }
    }

    /// Its name, or `-`.
    pub(super) fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "-".to_owned())
    }

    /// The image, or the path.
    pub(super) fn based_on(&self) -> String {
        self.root.display_name()
    }

    /// What can be written.
    pub(super) fn size(&self) -> String {
        display_size(self.size_bytes)
    }

    /// What it takes up.
    pub(super) fn used(&self) -> String {
        self.used_bytes
            .map_or_else(|| "missing".to_owned(), display_rounded_size)
    }

    /// All of it, for people: a line for each thing that it says.
    pub(super) fn describe(&self) -> String {
        let mut lines = vec![
            ("name", self.name.clone().unwrap_or_default()),
            ("id", self.id.clone()),
            ("path", self.path.clone()),
            ("based on", self.based_on()),
        ];
        if let SnapshotRoot::Image {
            manifest_digest, ..
        } = &self.root
        {
            lines.push(("image digest", manifest_digest.clone()));
        }
        lines.extend([
            ("sandbox", self.sandbox.clone()),
            ("size", self.size()),
            ("used", self.used()),
            ("digest", self.digest.clone()),
            ("created", self.created_at.clone()),
        ]);
        let labels = self.labels.iter();
        lines.extend(labels.map(|(key, value)| ("label", format!("{key}={value}"))));
        let lines = lines.iter().filter(|(_, value)| !value.is_empty());
        lines
            .map(|(title, value)| format!("{title}: {}\n", output::clean(value)))
            .collect()
    }
}

/// What is told of a snapshot that was just made or loaded.
///
/// # Errors
/// When it cannot be written as JSON.
pub(super) fn created(
    snapshot: &SnapshotHandle,
    format: Format,
    quiet: bool,
) -> anyhow::Result<String> {
    Ok(match format {
        Format::Json => output::json(&View::of(snapshot))?,
        Format::Text if quiet => String::new(),
        Format::Text => format!("{}\n", snapshot.display_name()),
    })
}
