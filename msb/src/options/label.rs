//! Labels on the command line: `KEY[=VALUE]`.

/// A label as it is given to a volume or a sandbox, or looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    /// Its name.
    pub(crate) key: String,
    /// None is no value when it is given, and any value when it is looked for.
    pub(crate) value: Option<String>,
}

/// The name is missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a label is KEY=VALUE or KEY, and KEY is not empty")]
pub(crate) struct LabelError;

impl Label {
    /// Reads what stands behind `--label`.
    pub(crate) fn parse(text: &str) -> Result<Label, LabelError> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(LabelError);
        }
        Ok(Label {
            key: key.to_owned(),
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_equals_sign_divides() {
        for (text, key, value) in [
            ("env=prod", "env", Some("prod")),
            ("env", "env", None),
            ("env=", "env", Some("")),
            ("a=b=c", "a", Some("b=c")),
        ] {
            let label = Label::parse(text).unwrap();
            assert_eq!((label.key.as_str(), label.value.as_deref()), (key, value));
        }
        assert_eq!(Label::parse(""), Err(LabelError));
        assert_eq!(Label::parse("=x"), Err(LabelError));
    }
}
