//! A sandbox, as it is recorded.

use std::time::SystemTime;

use super::{SandboxConfig, SandboxStatus};
use crate::error::MicrosandboxError;

/// A sandbox as it was when it was looked up, running or not.
#[derive(Debug, Clone)]
pub struct SandboxHandle {
    name: String,
    status: SandboxStatus,
    config_json: String,
    created_at: SystemTime,
    updated_at: SystemTime,
}

impl SandboxHandle {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it did when it was looked up.
    pub fn status(&self) -> SandboxStatus {
        self.status
    }

    /// Its configuration in JSON, as it is recorded.
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// Its configuration.
    ///
    /// # Errors
    /// [`MicrosandboxError::InvalidConfig`] when it was recorded by a release that knows more of it.
    pub fn config(&self) -> Result<SandboxConfig, MicrosandboxError> {
        serde_json::from_str(&self.config_json)
            .map_err(|error| MicrosandboxError::invalid("config", error))
    }

    /// When it was created.
    pub fn created_at(&self) -> SystemTime {
        self.created_at
    }

    /// When it was last created, started or seen to have ended.
    pub fn updated_at(&self) -> SystemTime {
        self.updated_at
    }
}
