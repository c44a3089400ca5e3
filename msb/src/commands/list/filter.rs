//! Filters, as of docker(1): `status=running`.

use std::str::FromStr;

use microsandbox::sandbox::SandboxStatus;

use super::view::View;
use crate::options::Label;

/// All states, by the names that they have in a filter.
const STATUSES: [SandboxStatus; 7] = [
    SandboxStatus::Starting,
    SandboxStatus::Running,
    SandboxStatus::Draining,
    SandboxStatus::Paused,
    SandboxStatus::Stopping,
    SandboxStatus::Stopped,
    SandboxStatus::Crashed,
];

/// What must be so of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// Its name contains this.
    Name(String),
    /// It is in this state.
    Status(SandboxStatus),
    /// It has this label.
    Label(Label),
}

/// Why a text is no filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    /// No known key before an equals sign.
    #[error("a filter is name=PART, status=STATUS or label=KEY[=VALUE]")]
    Key,
    /// Not a state.
    #[error("there is no status {status:?}; there are {}", STATUSES.map(SandboxStatus::name).join(", "))]
    Status {
        /// What was given.
        status: String,
    },
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        match text.split_once('=') {
            Some(("name", part)) => Ok(Filter::Name(part.to_owned())),
            Some(("label", label)) => match Label::parse(label) {
                Ok(label) => Ok(Filter::Label(label)),
                Err(_) => Err(FilterError::Key),
            },
            Some(("status", wanted)) => STATUSES
                .into_iter()
                .find(|status| status.name() == wanted)
                .map(Filter::Status)
                .ok_or_else(|| FilterError::Status {
                    status: wanted.to_owned(),
                }),
            _ => Err(FilterError::Key),
        }
    }
}

impl Filter {
    /// Whether it is so.
    pub(super) fn matches(&self, view: &View) -> bool {
        match self {
            Filter::Name(part) => view.name.contains(part),
            Filter::Status(status) => view.status == *status,
            Filter::Label(label) => view.has(label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_as_docker_users_write_them() {
        let filter = |text: &str| text.parse::<Filter>();
        assert_eq!(filter("name=web"), Ok(Filter::Name("web".to_owned())));
        assert_eq!(
            filter("status=paused"),
            Ok(Filter::Status(SandboxStatus::Paused))
        );
        let label = Label {
            key: "env".to_owned(),
            value: Some("a=b".to_owned()),
        };
        assert_eq!(filter("label=env=a=b"), Ok(Filter::Label(label)));
        for text in ["", "web", "ancestor=x", "label=", "label==x"] {
            assert_eq!(filter(text), Err(FilterError::Key), "{text}");
        }
        let error = filter("status=up").unwrap_err().to_string();
        assert!(
            error.contains("\"up\"") && error.contains("crashed"),
            "{error}"
        );
    }
}
