//! Which sandboxes are wanted, and which there are.

use std::collections::BTreeMap;

use super::SandboxHandle;
use crate::error::MicrosandboxError;

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

/// The sandboxes that there are, as far as their records can be read.
#[derive(Debug)]
pub struct SandboxListing {
    /// Newest first.
    pub sandboxes: Vec<SandboxHandle>,
    /// Why others cannot be told of: [`DatabaseError::Record`](crate::database::DatabaseError::Record) for each.
    pub unreadable: Vec<MicrosandboxError>,
}

impl SandboxListing {
    /// All of them.
    ///
    /// # Errors
    /// Why one of them cannot be told of.
    pub(crate) fn complete(self) -> Result<Vec<SandboxHandle>, MicrosandboxError> {
        match self.unreadable.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(self.sandboxes),
        }
    }
}
