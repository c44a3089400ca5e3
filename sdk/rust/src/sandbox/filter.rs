//! Which sandboxes are wanted.

use std::collections::BTreeMap;

/// Which sandboxes [`Sandbox::list_with`](super::Sandbox::list_with) tells of. The default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    labels: BTreeMap<String, String>,
}

impl SandboxFilter {
    /// All sandboxes.
    pub fn new() -> SandboxFilter {
        SandboxFilter::default()
    }

    /// Only those that have all of these labels. Called again, the labels add up; of a key, the later value counts.
    #[must_use]
    pub fn with_labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> SandboxFilter {
        let labels = labels.into_iter();
        self.labels
            .extend(labels.map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The labels that are wanted.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }
}
