//! Programs made from text: `NAME=BODY`, `NAME:FILE`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest file name that Linux takes, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// A script as it stands on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScriptArgument {
    /// Its file name in the guest.
    pub(crate) name: String,
    /// Where its contents are.
    pub(crate) source: ScriptSource,
}

/// Where the contents of a script are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScriptSource {
    /// Here.
    Body(Vec<u8>),
    /// In a file of the host.
    File(PathBuf),
}

/// Why a text is no script.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScriptError {
    /// Nothing divides name and contents.
    #[error("a script is NAME{separator}{contents}")]
    Format {
        /// What divides them.
        separator: char,
        /// What comes behind.
        contents: &'static str,
    },
    /// Not a file name.
    #[error("{name:?} cannot be the name of a script: it becomes a file name")]
    Name {
        /// What was given.
        name: String,
    },
}

impl ScriptArgument {
    /// Reads what stands behind `--script`.
    pub(crate) fn inline(text: &OsStr) -> Result<ScriptArgument, ScriptError> {
        let (name, body) = divide(text, '=', "BODY")?;
        Ok(ScriptArgument {
            name,
            source: ScriptSource::Body(with_interpreter(body)),
        })
    }

    /// Reads what stands behind `--script-path`.
    pub(crate) fn file(text: &OsStr) -> Result<ScriptArgument, ScriptError> {
        let (name, path) = divide(text, ':', "PATH")?;
        Ok(ScriptArgument {
            name,
            source: ScriptSource::File(Path::new(OsStr::from_bytes(path)).to_owned()),
        })
    }
}

fn divide<'a>(
    text: &'a OsStr,
    separator: char,
    contents: &'static str,
) -> Result<(String, &'a [u8]), ScriptError> {
    let bytes = text.as_bytes();
    let format = || ScriptError::Format {
        separator,
        contents,
    };
    let at = bytes.iter().position(|&byte| char::from(byte) == separator);
    let at = at.ok_or_else(format)?;
    let (name, rest) = (&bytes[..at], &bytes[at + 1..]);
    if rest.is_empty() {
        return Err(format());
    }
    let shown = String::from_utf8_lossy(name).into_owned();
    let is_file_name = !matches!(name, b"" | b"." | b"..")
        && name.len() <= MAX_NAME
        && std::str::from_utf8(name).is_ok()
        && !shown
            .chars()
            .any(|character| character == '/' || character.is_control());
    if !is_file_name {
        return Err(ScriptError::Name { name: shown });
    }
    Ok((shown, rest))
}

/// The kernel executes no text that does not name its interpreter (execve(2)); text alone is for the shell.
fn with_interpreter(body: &[u8]) -> Vec<u8> {
    if body.starts_with(b"#!") {
        return body.to_vec();
    }
    let mut script = b"#!/bin/sh\n".to_vec();
    script.extend_from_slice(body);
    script.push(b'\n');
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_for_the_shell_unless_it_says_otherwise() {
        for (text, body) in [
            ("a=echo 1=2", "#!/bin/sh\necho 1=2\n"),
            ("a=#!/bin/awk -f\nBEGIN {}", "#!/bin/awk -f\nBEGIN {}"),
        ] {
            let script = ScriptArgument::inline(OsStr::new(text)).unwrap();
            assert_eq!(script.name, "a");
            assert_eq!(script.source, ScriptSource::Body(body.into()));
        }
        let script = ScriptArgument::file(OsStr::new("b:./x:y")).unwrap();
        assert_eq!(script.source, ScriptSource::File("./x:y".into()));
    }

    #[test]
    fn names_are_file_names() {
        for text in [
            "=x",
            ".=x",
            "..=x",
            "a/b=x",
            "a\nb=x",
            &format!("{}=x", "a".repeat(256)),
        ] {
            let error = ScriptArgument::inline(OsStr::new(text)).unwrap_err();
            assert!(matches!(error, ScriptError::Name { .. }), "{text}");
        }
        for text in ["", "a", "a=", "a:b"] {
            let error = ScriptArgument::inline(OsStr::new(text)).unwrap_err();
            assert!(matches!(error, ScriptError::Format { .. }), "{text}");
        }
    }
}
