//! What was removed, as it is printed.

use microsandbox::images::RemovedImages;
use serde::Serialize;

/// What was removed, as `--format json` prints it.
#[derive(Debug, Default, Serialize)]
pub(super) struct View {
    untagged: Vec<String>,
    removed: Vec<String>,
    freed_bytes: u64,
}

impl View {
    /// Adds what was removed afterwards.
    pub(super) fn add(&mut self, removed: &RemovedImages) {
        let names = removed.references.iter();
        self.untagged
            .extend(names.map(|name| name.familiar_tagged()));
        let images = removed.images.iter();
        self.removed.extend(images.map(ToString::to_string));
        self.freed_bytes = self.freed_bytes.saturating_add(removed.pruned.bytes);
    }
}

impl From<&RemovedImages> for View {
    fn from(removed: &RemovedImages) -> View {
        let mut view = View::default();
        view.add(removed);
        view
    }
}

/// A line for each name and for each image that went with its last one.
pub(super) fn lines(removed: &RemovedImages) -> String {
    let mut text = String::new();
    for name in &removed.references {
        text.push_str(&format!("untagged: {}\n", name.familiar_tagged()));
    }
    for image in &removed.images {
        text.push_str(&format!("removed: {image}\n"));
    }
    text
}
