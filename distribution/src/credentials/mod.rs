//! Who somebody is at a registry, and where Docker keeps that.

mod file;
mod helper;
mod list;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use file::{CredentialFile, KeptIn};
pub use list::Login;

use super::secret::Secret;

/// What somebody shows a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// A name and a password, or a personal access token in its place.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's authorization server exchanges for others (OAuth 2 refresh token).
    IdentityToken(Secret),
}

/// Why credentials cannot be found or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Neither variable is set.
    #[error("Neither DOCKER_CONFIG nor HOME names a directory with a config.json")]
    NoPlace,
    /// The file cannot be read or written.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is no JSON object with the fields that Docker gives it. What it holds instead is not shown: it may be secret.
    #[error("{path} is no configuration of Docker: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A credential helper's name is none.
    #[error("{name:?} cannot be the name of a credential helper")]
    HelperName {
        /// The name.
        name: String,
    },
    /// A credential helper does not do what it is asked.
    #[error("The credential helper docker-credential-{name} {failure}")]
    Helper {
        /// Its name.
        name: String,
        /// What is wrong.
        failure: HelperFailure,
        /// The system's reason, where there is one.
        source: Option<io::Error>,
    },
}

/// What a credential helper does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelperFailure {
    /// There is no such program, or it cannot be run.
    Start,
    /// It takes too long.
    Timeout,
    /// It fails.
    Status,
    /// Its answer is none.
    Answer,
}

impl fmt::Display for HelperFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            HelperFailure::Start => "cannot be started",
            HelperFailure::Timeout => "took too long and was ended",
            HelperFailure::Status => "failed",
            HelperFailure::Answer => "gave an answer that cannot be used",
        })
    }
}
