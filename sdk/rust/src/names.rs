//! Names of sandboxes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::str::FromStr;

/// Longest name of a sandbox, in bytes.
pub const MAX_NAME: usize = 128;

/// Longest host name that Linux takes, in bytes (`__NEW_UTS_LEN`, see sethostname(2)).
pub const MAX_HOSTNAME: usize = 64;

/// Name of a sandbox: 1 to [`MAX_NAME`] bytes of UTF-8 without `/` and control characters, and
/// neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(String);

/// Why a text is no name of a sandbox.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("A name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("A name of {length} bytes is longer than {MAX_NAME}")]
    TooLong {
        /// Length in bytes.
        length: usize,
    },
    /// `.` and `..` mean something else wherever paths are understood.
    #[error("{name:?} cannot be a name")]
    Reserved {
        /// What was given.
        name: String,
    },
    /// `/`, NUL or another control character.
    #[error("The name {name:?} contains {character:?}")]
    Character {
        /// What was given.
        name: String,
        /// The character that a name cannot have.
        character: char,
    },
}

impl Name {
    /// A name for a sandbox that got none: `msb-` and eight random hexadecimal digits.
    ///
    /// # Errors
    /// When the system has no random bytes to give.
    pub fn generate() -> io::Result<Name> {
        let mut random = [0; 4];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        Ok(Name(format!("msb-{:08x}", u32::from_ne_bytes(random))))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A host name made from this name: whatever a host name cannot have becomes `-`.
    pub fn to_hostname(&self) -> String {
        let hostname: String = self
            .0
            .chars()
            .map(|character| {
                if is_hostname_character(character) {
                    character
                } else {
                    '-'
                }
            })
            .take(MAX_HOSTNAME)
            .collect();
        match hostname.trim_matches(['-', '.']) {
            "" => "sandbox".to_owned(),
            trimmed => trimmed.to_owned(),
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Name, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(NameError::TooLong { length: name.len() });
        }
        if name == "." || name == ".." {
            return Err(NameError::Reserved {
                name: name.to_owned(),
            });
        }
        match name
            .chars()
            .find(|&character| character == '/' || character.is_control())
        {
            Some(character) => Err(NameError::Character {
                name: name.to_owned(),
                character,
            }),
            None => Ok(Name(name.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why a text is no host name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing, or more than the kernel takes.
    #[error("A host name has 1 to {MAX_HOSTNAME} bytes, not {length}")]
    Length {
        /// Length in bytes.
        length: usize,
    },
    /// Something other than letters, digits, `-` and `.`.
    #[error("The host name contains {character:?}")]
    Character {
        /// The character that a host name cannot have.
        character: char,
    },
    /// `-` or `.` at an end.
    #[error("A host name begins and ends with a letter or a digit")]
    End,
}

/// Checks a host name after RFC 952 and RFC 1123: ASCII letters, digits, `-` and `.`, beginning and
/// ending with a letter or a digit, at most [`MAX_HOSTNAME`] bytes.
///
/// # Errors
/// Which of these rules the name breaks.
pub fn check_hostname(hostname: &str) -> Result<(), HostnameError> {
    if hostname.is_empty() || hostname.len() > MAX_HOSTNAME {
        return Err(HostnameError::Length {
            length: hostname.len(),
        });
    }
    if let Some(character) = hostname
        .chars()
        .find(|&character| !is_hostname_character(character))
    {
        return Err(HostnameError::Character { character });
    }
    if hostname.trim_matches(['-', '.']) != hostname {
        return Err(HostnameError::End);
    }
    Ok(())
}

fn is_hostname_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-' || character == '.'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_that_people_give() {
        for name in [
            "web",
            "Web 2",
            "a.b",
            "...",
            "\u{fc}bung",
            &"x".repeat(MAX_NAME),
        ] {
            assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_would_harm_a_path_or_a_terminal() {
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(
            long.parse::<Name>(),
            Err(NameError::TooLong {
                length: MAX_NAME + 1
            })
        );
        for name in [".", ".."] {
            assert!(matches!(
                name.parse::<Name>(),
                Err(NameError::Reserved { .. })
            ));
        }
        for name in ["a/b", "a\0b", "a\nb", "\u{1b}[2J", "\u{85}"] {
            assert!(
                matches!(name.parse::<Name>(), Err(NameError::Character { .. })),
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_limit_counts_bytes_and_not_characters() {
        assert!("\u{fc}".repeat(MAX_NAME / 2).parse::<Name>().is_ok());
        assert!("\u{fc}".repeat(MAX_NAME / 2 + 1).parse::<Name>().is_err());
    }

    #[test]
    fn generated_names_are_names() {
        let name = Name::generate().unwrap();
        assert_eq!(name.as_str().len(), 12);
        assert_eq!(name.as_str().parse::<Name>().unwrap(), name);
        assert_eq!(check_hostname(&name.to_hostname()), Ok(()));
    }

    #[test]
    fn every_name_gives_a_valid_host_name() {
        for (name, hostname) in [
            ("web", "web"),
            ("my box!", "my-box"),
            ("...", "sandbox"),
            ("\u{fc}", "sandbox"),
        ] {
            assert_eq!(name.parse::<Name>().unwrap().to_hostname(), hostname);
        }
        let long = "x".repeat(MAX_NAME).parse::<Name>().unwrap();
        assert_eq!(check_hostname(&long.to_hostname()), Ok(()));
    }

    #[test]
    fn host_names_follow_the_rules_of_the_net() {
        assert_eq!(check_hostname("db-1.example"), Ok(()));
        assert_eq!(check_hostname(""), Err(HostnameError::Length { length: 0 }));
        assert_eq!(
            check_hostname("a b"),
            Err(HostnameError::Character { character: ' ' })
        );
        assert_eq!(check_hostname("-a"), Err(HostnameError::End));
    }
}
