//! Keys that leave a process with a terminal alone, as of docker(1): `ctrl-p,ctrl-q`, `ctrl-]`, `q`.

use std::str::FromStr;

/// Most keys: nobody remembers more.
const MAX_KEYS: usize = 8;

/// A sequence of keys, as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

/// Why a text is no such sequence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DetachKeysError {
    /// Neither a character nor one with `ctrl-`.
    #[error(
        "{key:?} is no key: a key is one ASCII character, or ctrl- and a letter or one of @[\\]^_"
    )]
    Key {
        /// What was given.
        key: String,
    },
    /// None, or too many.
    #[error("give 1 to {MAX_KEYS} keys with commas between them")]
    Count,
}

impl DetachKeys {
    /// The bytes, at least one.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    fn from_str(text: &str) -> Result<DetachKeys, DetachKeysError> {
        let keys: Vec<_> = text.split(',').map(byte).collect::<Result<_, _>>()?;
        if keys.len() > MAX_KEYS {
            return Err(DetachKeysError::Count);
        }
        Ok(DetachKeys(keys))
    }
}

/// What a terminal sends for a key.
fn byte(key: &str) -> Result<u8, DetachKeysError> {
    let control = key.strip_prefix("ctrl-");
    match control.unwrap_or(key).as_bytes() {
        [character] if control.is_none() && character.is_ascii_graphic() => Ok(*character),
        // The control characters are the letters without their upper three bits (ECMA-48, 5.2).
        [character]
            if matches!(character.to_ascii_uppercase(), b'@'..=b'_') && control.is_some() =>
        {
            Ok(character & 0x1f)
        }
        _ => Err(DetachKeysError::Key {
            key: key.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_a_terminal_sends() {
        for (text, bytes) in [
            ("ctrl-p,ctrl-q", &[0x10, 0x11][..]),
            ("ctrl-P", &[0x10]),
            ("ctrl-]", &[0x1d]),
            ("ctrl-@", &[0]),
            ("~,.", b"~."),
        ] {
            let keys: DetachKeys = text.parse().unwrap();
            assert_eq!(keys.as_bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_key() {
        for text in [
            "", "ctrl-", "ctrl-1", "ab", "ctrl-p,", " ", "\u{e4}", "a,ctrl-{",
        ] {
            let error = text.parse::<DetachKeys>().unwrap_err();
            assert!(matches!(error, DetachKeysError::Key { .. }), "{text}");
        }
        let many = ["a"; 9].join(",");
        assert_eq!(many.parse::<DetachKeys>(), Err(DetachKeysError::Count));
    }
}
