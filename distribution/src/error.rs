//! Why nothing can be had from a registry.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::credentials::CredentialError;
use image::digest::Digest;
use image::manifest::ManifestError;
use image::store::StoreError;

/// Why an image cannot be pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What the registry gave is no image that can be used.
    #[error("The image cannot be used: its document {digest} is none that msb understands")]
    Document {
        /// Of the manifest or index.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// An index leads to an index, and so on.
    #[error("The image cannot be used: its indices lead to each other")]
    TooManyIndices,
    /// The store cannot take it, or what came is not what its digest says.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the work ended without a result.
    #[error("The pull was given up")]
    Task {
        /// How.
        source: Reason,
    },
}

impl PullError {
    pub(super) fn document(digest: Digest, source: ManifestError) -> PullError {
        PullError::Document { digest, source }
    }

    pub(super) fn no_source(digest: &Digest) -> PullError {
        PullError::Task {
            source: Reason::new(format!("nobody serves {digest}")),
        }
    }

    pub(super) fn task(error: impl Error + 'static) -> PullError {
        PullError::Task {
            source: Reason::of(&error),
        }
    }
}

/// Nothing can be had from a registry. No text of it holds a credential, an address with a query, or what a registry wrote.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached, or the connection broke too often.
    #[error("Failed to reach the registry {registry}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// The innermost reason.
        source: Reason,
    },
    /// It said nothing for too long.
    #[error("The registry {registry} did not answer within {seconds} s")]
    Stalled {
        /// Host and port.
        registry: String,
        /// How long that was.
        seconds: u64,
    },
    /// 401: it wants credentials, or others than it got.
    #[error("The registry {registry} refuses access to {repository} with {shown}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
        /// What it was shown.
        shown: Shown,
    },
    /// 403: it knows who asks, and does not permit it.
    #[error("The registry {registry} does not permit this with {repository}")]
    Denied {
        /// Host and port.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// 404: there is no such thing.
    #[error("{what} does not exist on the registry {registry}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// 429, and waiting did not help or would take too long.
    #[error("The registry {registry} answers no more requests for now{}", wait(*.retry_after))]
    TooManyRequests {
        /// Host and port.
        registry: String,
        /// When it would answer again, in seconds, if it said.
        retry_after: Option<u64>,
    },
    /// Any other status.
    #[error("The registry {registry} answered with status {status}{}", parenthesised(.code))]
    Status {
        /// Host and port.
        registry: String,
        /// HTTP status.
        status: u16,
        /// The error's code (distribution specification, "Error Codes"); empty if it gave none.
        code: String,
    },
    /// It does not keep to the protocol.
    #[error("The registry {registry} gave an answer that cannot be used: {what}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What is wrong, as a clause.
        what: String,
    },
    /// It sent something else than was asked for.
    #[error("The registry {registry} sent {found} for {expected}")]
    WrongDigest {
        /// Host and port.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// It leads somewhere without encryption.
    #[error("The registry {registry} leads to {host} without encryption")]
    Unencrypted {
        /// Host and port of the registry.
        registry: String,
        /// Host that it leads to.
        host: String,
    },
    /// The settings for registries cannot be used.
    #[error("{path} cannot be used: {what}")]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There are no usable certificates in a file.
    #[error("{path} holds no certificates that can be used: {what}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Proxy variables or the system's certificates cannot be used.
    #[error("No connections can be made: {what}")]
    Client {
        /// What is wrong.
        what: String,
    },
    /// The credentials cannot be found.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// What was shown to a registry, without the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// A name and a password, or a token.
    Credentials,
}

impl fmt::Display for Shown {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Shown::Nothing => "no credentials",
            Shown::Credentials => "these credentials",
        })
    }
}

/// The innermost reason of an error, without what lies around it: that names addresses, which may hold signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

impl Reason {
    /// The innermost reason of `error`.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Reason {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Reason(innermost.to_string())
    }

    /// A reason in words.
    pub(super) fn new(text: impl Into<String>) -> Reason {
        Reason(text.into())
    }
}

fn wait(retry_after: Option<u64>) -> String {
    retry_after.map_or_else(String::new, |seconds| format!(" (again in {seconds} s)"))
}

fn parenthesised(code: &str) -> String {
    if code.is_empty() {
        String::new()
    } else {
        format!(" ({code})")
    }
}
