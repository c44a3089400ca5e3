//! Environment variables: `KEY=VALUE`, or `KEY` for the value that it has here.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use microsandbox::protocol::Bytes;

/// A variable for the process in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// This value.
    Set {
        /// Name.
        key: OsString,
        /// Value.
        value: OsString,
    },
    /// The value from the environment of `msb`; none there, none in the guest.
    Inherit {
        /// Name.
        key: OsString,
    },
}

/// The name is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a variable is KEY=VALUE or KEY, and KEY is not empty")]
pub(crate) struct VariableError;

impl Variable {
    /// Reads what stands behind `--env`.
    pub(crate) fn parse(text: &OsStr) -> Result<Variable, VariableError> {
        let bytes = text.as_bytes();
        let equals = bytes.iter().position(|&byte| byte == b'=');
        let (key, value) = match equals {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        if key.is_empty() {
            return Err(VariableError);
        }
        let own = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Ok(match value {
            Some(value) => Variable::Set {
                key: own(key),
                value: own(value),
            },
            None => Variable::Inherit { key: own(key) },
        })
    }

    /// Name and value, if there is a value.
    pub(crate) fn resolve(self) -> Option<(Bytes, Bytes)> {
        let (key, value) = match self {
            Variable::Set { key, value } => (key, value),
            Variable::Inherit { key } => {
                let value = env::var_os(&key)?;
                (key, value)
            }
        };
        Some((Bytes(key.into_vec()), Bytes(value.into_vec())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_divides() {
        for (text, key, value) in [("A=b", "A", "b"), ("A=", "A", ""), ("A=b=c", "A", "b=c")] {
            let variable = Variable::parse(OsStr::new(text)).unwrap();
            assert_eq!(
                variable,
                Variable::Set {
                    key: key.into(),
                    value: value.into()
                },
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_alone_takes_the_value_from_here() {
        let path = Variable::parse(OsStr::new("PATH"))
            .unwrap()
            .resolve()
            .unwrap();
        assert_eq!(path.0, Bytes(b"PATH".to_vec()));
        assert_eq!(path.1.0, env::var_os("PATH").unwrap().into_vec());
        assert_eq!(
            Variable::parse(OsStr::new("NOT SET HERE"))
                .unwrap()
                .resolve(),
            None
        );
    }

    #[test]
    fn values_need_not_be_text() {
        let variable = Variable::parse(OsStr::from_bytes(b"A=\xff")).unwrap();
        assert_eq!(
            variable.resolve(),
            Some((Bytes(b"A".to_vec()), Bytes(b"\xff".to_vec())))
        );
    }

    #[test]
    fn a_name_is_needed() {
        assert_eq!(Variable::parse(OsStr::new("")), Err(VariableError));
        assert_eq!(Variable::parse(OsStr::new("=b")), Err(VariableError));
    }
}
