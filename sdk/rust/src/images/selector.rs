//! How users name an image that is here.

use std::str::FromStr;

use image::{Digest, Reference, ReferenceError};

use super::ImageHandle;

/// Fewest hexadecimal digits that stand for a digest.
const MIN_DIGITS: usize = 6;

/// What a user says an image is.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    text: String,
    /// Hexadecimal digits with which its digest begins.
    pub(super) digits: Option<String>,
    /// Its name.
    pub(super) reference: Option<Reference>,
}

impl Selector {
    /// As the user wrote it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The names of an image that it was found by: the one that was given; if that has a digest, all of its repository; all if
    /// no name was given.
    pub(super) fn names_of(&self, found: &ImageHandle) -> Vec<Reference> {
        let names = found.references();
        let meant = |name: &&Reference| match &self.reference {
            Some(given) if names.contains(given) => given == *name,
            Some(given) if given.digest() == Some(found.digest()) => given.is_of_repository(name),
            _ => true,
        };
        names.iter().filter(meant).cloned().collect()
    }

    /// Of a digest that is complete.
    pub(super) fn of_digest(digest: &Digest) -> Selector {
        Selector {
            text: digest.to_string(),
            digits: Some(digest.hex()),
            reference: None,
        }
    }
}

impl FromStr for Selector {
    type Err = ReferenceError;

    /// A name; the digest of a manifest or a configuration; or the beginning of one, without `sha256:` or with it. A
    /// name comes before the beginning of a digest.
    fn from_str(text: &str) -> Result<Selector, ReferenceError> {
        let (digits, prefixed) = match text.strip_prefix("sha256:") {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        let is_digest = (MIN_DIGITS..=64).contains(&digits.len())
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let digits = is_digest.then(|| digits.to_owned());
        let reference = match text.parse() {
            _ if prefixed && is_digest => None,
            Ok(reference) => Some(reference),
            Err(_) if is_digest => None,
            Err(error) => return Err(error),
        };
        Ok(Selector {
            text: text.to_owned(),
            digits,
            reference,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_digests_are_told_apart() {
        let select = |text: &str| {
            let selector: Selector = text.parse().unwrap();
            (
                selector.reference.map(|name| name.familiar()),
                selector.digits,
            )
        };
        assert_eq!(select("debian"), (Some("debian".into()), None));
        assert_eq!(select("abc"), (Some("abc".into()), None));
        let both = (Some("abcdef".into()), Some("abcdef".into()));
        assert_eq!(select("abcdef"), both);
        assert_eq!(select("sha256:abcdef"), (None, Some("abcdef".into())));
        let digits = "a".repeat(64);
        assert_eq!(select(&digits), (None, Some(digits.clone())));
        assert_eq!(select("sha256:latest").0, Some("sha256".into()));
        assert!("sha256:".parse::<Selector>().is_err());
        assert!("A".parse::<Selector>().is_err());
    }
}
