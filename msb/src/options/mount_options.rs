//! What stands behind the last colon of a mount: `ro,noexec,size=1G`.

use std::time::Duration;

use microsandbox::protocol::MountOptions;

use super::duration::parse_duration;
use super::size::parse_size;

/// Options that mount(8) knows as the opposites of those that forbid something. They are the default; asking for them
/// sounds like a right that a mount cannot give.
const WEAKENING: [&str; 3] = ["suid", "exec", "dev"];

/// Options of every mount.
const COMMON: [&str; 5] = ["ro", "rw", "noexec", "nosuid", "nodev"];

/// Why a text is no list of options.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    /// Nothing between two commas, or behind the colon.
    #[error("an option is missing: give it, or leave the comma or colon before it out")]
    Missing,
    /// No such option here.
    #[error("the option {name:?} is unknown here: there are {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// What could be.
        known: String,
    },
    /// The opposite of a restriction.
    #[error(
        "the option {name:?} is refused: it is the default, and cannot lift a restriction of what lies there"
    )]
    Weakening {
        /// What was given.
        name: String,
    },
    /// Twice the same.
    #[error("the option {name:?} is there twice")]
    Repeated {
        /// What was given.
        name: String,
    },
    /// Two that exclude each other.
    #[error("the options {one} and {other} exclude each other")]
    Contradiction {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A value is missing, or is there where none belongs.
    #[error("the option {name:?} {rule}")]
    Form {
        /// What was given.
        name: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// A value that means nothing.
    #[error("{value:?} is no value of the option {name}: {reason}")]
    Value {
        /// The option.
        name: &'static str,
        /// What was given.
        value: String,
        /// Why not.
        reason: String,
    },
}

/// Options as they were given, each at most once. They are taken out one by one; [`end`](Self::end) finds what is left.
#[derive(Debug, Default)]
pub(super) struct OptionList<'a> {
    given: Vec<(&'a str, Option<&'a str>)>,
    known: Vec<&'static str>,
}

impl<'a> OptionList<'a> {
    /// Reads a list.
    pub(super) fn parse(text: &'a str) -> Result<OptionList<'a>, OptionError> {
        let mut list = OptionList::default();
        for option in text.split(',') {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, None),
            };
            if name.is_empty() {
                return Err(OptionError::Missing);
            }
            if list.given.iter().any(|(earlier, _)| *earlier == name) {
                return Err(OptionError::Repeated { name: name.into() });
            }
            if WEAKENING.contains(&name) {
                return Err(OptionError::Weakening { name: name.into() });
            }
            list.given.push((name, value));
        }
        Ok(list)
    }

    fn take(&mut self, name: &'static str) -> Option<Option<&'a str>> {
        self.known.push(name);
        let at = self.given.iter().position(|(given, _)| *given == name)?;
        Some(self.given.remove(at).1)
    }

    fn take_flag(&mut self, name: &'static str) -> Result<bool, OptionError> {
        match self.take(name) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(_)) => Err(OptionError::Form {
                name: name.into(),
                rule: "takes no value",
            }),
        }
    }

    /// The options of every mount.
    pub(super) fn take_common(&mut self) -> Result<MountOptions, OptionError> {
        let [read_only, writable, no_exec, no_suid, no_dev] =
            COMMON.map(|name| self.take_flag(name));
        let read_only = read_only?;
        if read_only && writable? {
            return Err(OptionError::Contradiction {
                one: "ro",
                other: "rw",
            });
        }
        Ok(MountOptions {
            read_only,
            no_exec: no_exec?,
            no_suid: no_suid?,
            no_dev: no_dev?,
        })
    }

    /// The value of an option, as `parse` understands it.
    pub(super) fn take_value<T, E: ToString>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, OptionError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| OptionError::Form {
            name: name.into(),
            rule: "needs a value behind =",
        })?;
        parse(value).map(Some).map_err(|error| OptionError::Value {
            name,
            value: value.into(),
            reason: error.to_string(),
        })
    }

    /// A size in bytes.
    pub(super) fn take_size(&mut self, name: &'static str) -> Result<Option<u64>, OptionError> {
        self.take_value(name, parse_size)
    }

    /// A span of time.
    pub(super) fn take_duration(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Duration>, OptionError> {
        self.take_value(name, parse_duration)
    }

    /// One of several words.
    pub(super) fn take_word<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, OptionError> {
        self.take_value(name, |value| {
            let found = words.iter().find(|(word, _)| *word == value);
            found.map(|(_, meaning)| *meaning).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                format!("it is one of {}", words.join(", "))
            })
        })
    }

    /// To be called when all that there could be was taken.
    pub(super) fn end(self) -> Result<(), OptionError> {
        match self.given.first() {
            None => Ok(()),
            Some((name, _)) => Err(OptionError::Unknown {
                name: (*name).into(),
                known: self.known.join(", "),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn common(text: &str) -> Result<MountOptions, OptionError> {
        let mut list = OptionList::parse(text)?;
        let options = list.take_common()?;
        list.end().map(|()| options)
    }

    #[test]
    fn restrictions_are_taken_in_any_order() {
        let options = common("nodev,ro,noexec").unwrap();
        assert!(options.read_only && options.no_exec && options.no_dev && !options.no_suid);
        assert_eq!(common("rw"), Ok(MountOptions::default()));
    }

    #[test]
    fn what_is_no_list_of_options() {
        for (text, message) in [
            ("", "an option is missing"),
            ("ro,", "an option is missing"),
            ("ro,ro", "twice"),
            ("ro,rw", "exclude each other"),
            ("ro=1", "takes no value"),
            ("suid", "is refused"),
            ("ro,exec", "is refused"),
            ("dev", "is refused"),
            ("RO", "there are ro, rw, noexec, nosuid, nodev"),
            ("size=1", "unknown here"),
        ] {
            let error = common(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn values_are_checked() {
        let mut list = OptionList::parse("size=1G,timeout=5,kind=disk,empty=").unwrap();
        assert_eq!(list.take_size("size"), Ok(Some(1 << 30)));
        assert_eq!(
            list.take_duration("timeout"),
            Ok(Some(Duration::from_secs(5)))
        );
        assert_eq!(list.take_size("quota"), Ok(None));
        let error = list.take_word("kind", &[("a", 1), ("b", 2)]).unwrap_err();
        assert!(error.to_string().ends_with("it is one of a, b"), "{error}");
        assert!(matches!(
            list.take_size("empty"),
            Err(OptionError::Form { .. })
        ));
        let mut list = OptionList::parse("size=x").unwrap();
        let error = list.take_size("size").unwrap_err().to_string();
        assert!(
            error.starts_with("\"x\" is no value of the option size: a size is"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z=,\\PC]{0,20}") {
            let _ = common(&text);
        }
    }
}
