//! Names of images, as Docker understands them: `alpine`, `python:3.12`, `localhost:5000/x`, `ghcr.io/x/y@sha256:...`.
//!
//! The grammar is that of `distribution/reference`; what is missing is completed as Docker does: the registry by
//! `docker.io`, the namespace of an official image by `library`, the tag by `latest`.

mod grammar;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that have neither a tag nor a digest.
pub const DEFAULT_TAG: &str = "latest";

/// Another name of [`DEFAULT_REGISTRY`].
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Namespace of the images of [`DEFAULT_REGISTRY`] that are named without one.
const OFFICIAL: &str = "library/";
/// Longest name of a registry, in bytes: a host name (RFC 1035, 2.3.4) and a port.
const MAX_REGISTRY: usize = 255 + 6;
/// Longest path of a repository, in bytes.
const MAX_REPOSITORY: usize = 255;

/// The name of an image, complete: with a registry, a repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has another form than a name.
    #[error("{text:?} is no name of an image: {reason}")]
    Malformed {
        /// The text, shortened.
        text: String,
        /// What is wrong, as a clause.
        reason: &'static str,
    },
    /// A part is longer than registries permit.
    #[error("the {part} of an image's name has {length} bytes, more than {limit}")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length.
        length: usize,
        /// What is permitted.
        limit: usize,
    },
    /// What follows the `@` is no digest.
    #[error("the digest of the image's name cannot be used")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path of the repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Whether both name something in the same repository.
    pub fn is_of_repository(&self, other: &Reference) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }

    /// The tag; none only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which decides if there is a tag, too.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// As people write it: without what would be completed.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        match (&self.tag, &self.digest) {
            (Some(tag), None) if tag == DEFAULT_TAG => {}
            _ => self.push_version(&mut text),
        }
        text
    }

    /// The short name of the repository, with the tag even if it would be completed.
    pub fn familiar_tagged(&self) -> String {
        let mut text = self.familiar_name();
        self.push_version(&mut text);
        text
    }

    fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}", self.registry, self.repository);
        }
        match self.repository.strip_prefix(OFFICIAL) {
            // Completing `library/a/b` without its namespace would not add it again.
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => self.repository.clone(),
        }
    }

    fn push_version(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

/// The complete name; parsing it again gives the same reference.
impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut version = String::new();
        self.push_version(&mut version);
        write!(formatter, "{}/{}{version}", self.registry, self.repository)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        let malformed = |reason| ReferenceError::Malformed {
            text: text.chars().take(300).collect(),
            reason,
        };
        if text.is_empty() {
            return Err(malformed("it is empty"));
        }
        if grammar::is_identifier(text) {
            return Err(malformed(
                "64 hexadecimal digits are an identifier and not a name",
            ));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, remainder) = split_registry(rest);
        let (path, tag) = match remainder.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remainder, None),
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        if !grammar::is_registry(registry) {
            return Err(malformed("what is before the first / is no registry"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(malformed("a repository is written in lower case"));
        }
        if !grammar::is_repository(&repository) {
            return Err(malformed(
                "a repository consists of lower-case letters and digits, separated by /, -, ., _ or __",
            ));
        }
        if tag.is_some_and(|tag| !grammar::is_tag(tag)) {
            return Err(malformed(
                "a tag has 1 to 128 letters, digits, ., _ and -, and begins with none of . and -",
            ));
        }
        check_length("registry", registry, MAX_REGISTRY)?;
        check_length("repository", &repository, MAX_REPOSITORY)?;
        let tag = tag.map(str::to_owned);
        Ok(Reference {
            registry: registry.to_owned(),
            repository,
            tag: tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned())),
            digest,
        })
    }
}

/// The registry, and what follows it. What is before the first `/` is one if it looks like a host and not like a part of
/// a path: it has a dot or a port, is `localhost`, or has a capital letter.
fn split_registry(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_REGISTRY, text);
    };
    let is_host = first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|byte| byte.is_ascii_uppercase());
    match first {
        LEGACY_REGISTRY => (DEFAULT_REGISTRY, rest),
        _ if is_host => (first, rest),
        _ => (DEFAULT_REGISTRY, text),
    }
}

fn check_length(part: &'static str, text: &str, limit: usize) -> Result<(), ReferenceError> {
    if text.len() <= limit {
        return Ok(());
    }
    Err(ReferenceError::TooLong {
        part,
        length: text.len(),
        limit,
    })
}
