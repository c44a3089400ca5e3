//! Filters, as of docker(1): `status=running`. Of several of one key one must be so, but all labels.

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
    /// It has run and does not: `exited`, as docker(1) has it.
    Exited,
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
            Some(("status", "exited")) => Ok(Filter::Exited),
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
    fn matches(&self, view: &View) -> bool {
        match self {
            Filter::Name(part) => view.name.contains(part),
            Filter::Status(status) => view.status == *status,
            Filter::Exited => !view.status.is_alive(),
            Filter::Label(label) => view.has(label),
        }
    }

    /// Whether it says which states are wanted.
    pub(super) fn is_of_status(&self) -> bool {
        matches!(self, Filter::Status(_) | Filter::Exited)
    }

    fn is_of_name(&self) -> bool {
        matches!(self, Filter::Name(_))
    }
}

/// Whether a sandbox is one of those that `filters` want.
pub(super) fn are_met(filters: &[Filter], view: &View) -> bool {
    let any_of = |is_of_key: fn(&Filter) -> bool| {
        let mut of_key = filters.iter().filter(|filter| is_of_key(filter)).peekable();
        of_key.peek().is_none() || of_key.any(|filter| filter.matches(view))
    };
    let mut labels = filters
        .iter()
        .filter(|filter| matches!(filter, Filter::Label(_)));
    any_of(Filter::is_of_name) && any_of(Filter::is_of_status) && labels.all(|it| it.matches(view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_key_must_be_so_and_all_labels() {
        let met = |filters: &[&str], view: &View| {
            let filters: Vec<_> = filters.iter().map(|text| text.parse().unwrap()).collect();
            are_met(&filters, view)
        };
        let mut view = View::sample("web", SandboxStatus::Stopped);
        view.labels.insert("tier".to_owned(), "a".to_owned());
        for filters in [
            &[][..],
            &["status=stopped", "status=crashed"],
            &["name=db", "name=web", "label=tier"],
            &["status=exited", "label=tier=a"],
        ] {
            assert!(met(filters, &view), "{filters:?}");
        }
        for filters in [
            &["status=running", "status=crashed"][..],
            &["status=stopped", "name=db"],
            &["label=tier", "label=other"],
        ] {
            assert!(!met(filters, &view), "{filters:?}");
        }
        assert!(!met(
            &["status=exited"],
            &View::sample("web", SandboxStatus::Paused)
        ));
        assert!(met(
            &["status=exited"],
            &View::sample("web", SandboxStatus::Crashed)
        ));
    }

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
