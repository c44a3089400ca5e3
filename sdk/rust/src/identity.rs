//! Identities: what tells a thing from all others that ever had its name.

use std::fs::File;
use std::io::{self, Read};

/// 16 random hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Id(String);

impl Id {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub(crate) fn generate() -> io::Result<Id> {
        let mut random = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        Ok(Id(format!("{:016x}", u64::from_ne_bytes(random))))
    }

    /// Reads one out of the name of a directory, where anybody could have put anything.
    pub(crate) fn parse(text: &str) -> Option<Id> {
        let valid = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Id(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
