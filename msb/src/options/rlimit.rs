//! Resource limits: `nofile=1024`, `nofile=1024:4096`, `core=unlimited`.

use microsandbox::sandbox::{Rlimit, RlimitResource};

/// Names of the limits, as in ulimit(1) and prlimit(1); see setrlimit(2).
const RESOURCES: [(&str, RlimitResource); 16] = [
    ("as", RlimitResource::As),
    ("core", RlimitResource::Core),
    ("cpu", RlimitResource::Cpu),
    ("data", RlimitResource::Data),
    ("fsize", RlimitResource::Fsize),
    ("locks", RlimitResource::Locks),
    ("memlock", RlimitResource::Memlock),
    ("msgqueue", RlimitResource::Msgqueue),
    ("nice", RlimitResource::Nice),
    ("nofile", RlimitResource::Nofile),
    ("nproc", RlimitResource::Nproc),
    ("rss", RlimitResource::Rss),
    ("rtprio", RlimitResource::Rtprio),
    ("rttime", RlimitResource::Rttime),
    ("sigpending", RlimitResource::Sigpending),
    ("stack", RlimitResource::Stack),
];

/// Why a text is no limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RlimitError {
    /// No equals sign.
    #[error("a limit is RESOURCE=SOFT[:HARD]")]
    Format,
    /// No such resource.
    #[error("there is no resource {name:?}; there are {}", names())]
    Resource {
        /// What was given.
        name: String,
    },
    /// Neither a number nor `unlimited`.
    #[error("{value:?} is neither a number nor `unlimited`")]
    Value {
        /// What was given.
        value: String,
    },
    /// See setrlimit(2).
    #[error("the soft limit is above the hard limit")]
    Order,
}

/// Reads a limit. Without a hard limit, the soft limit is both.
pub(crate) fn parse_rlimit(text: &str) -> Result<Rlimit, RlimitError> {
    let (name, limits) = text.split_once('=').ok_or(RlimitError::Format)?;
    let known = RESOURCES
        .iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known));
    let &(_, resource) = known.ok_or_else(|| RlimitError::Resource {
        name: name.to_owned(),
    })?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (parse_limit(soft)?, parse_limit(hard)?);
    if soft > hard {
        return Err(RlimitError::Order);
    }
    Ok(Rlimit {
        resource,
        soft,
        hard,
    })
}

fn parse_limit(value: &str) -> Result<u64, RlimitError> {
    match value {
        // `RLIM_INFINITY`
        "unlimited" => Some(u64::MAX),
        _ if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| RlimitError::Value {
        value: value.to_owned(),
    })
}

fn names() -> String {
    RESOURCES.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_as_people_write_them() {
        let limit = |soft, hard| {
            Ok(Rlimit {
                resource: RlimitResource::Nofile,
                soft,
                hard,
            })
        };
        assert_eq!(parse_rlimit("nofile=1024"), limit(1024, 1024));
        assert_eq!(parse_rlimit("NOFILE=1024:4096"), limit(1024, 4096));
        assert_eq!(parse_rlimit("nofile=0:unlimited"), limit(0, u64::MAX));
        assert_eq!(parse_rlimit("nofile=unlimited"), limit(u64::MAX, u64::MAX));
    }

    #[test]
    fn what_is_no_limit() {
        assert_eq!(parse_rlimit("nofile"), Err(RlimitError::Format));
        assert_eq!(parse_rlimit("nofile=2:1"), Err(RlimitError::Order));
        assert_eq!(parse_rlimit("nofile=unlimited:1"), Err(RlimitError::Order));
        for text in [
            "nofile=",
            "nofile=-1",
            "nofile=+1",
            "nofile=1:",
            "nofile=1:2:3",
            "nofile=1k",
        ] {
            assert!(
                matches!(parse_rlimit(text), Err(RlimitError::Value { .. })),
                "{text}"
            );
        }
        let error = parse_rlimit("files=1").unwrap_err().to_string();
        assert!(
            error.contains("\"files\"") && error.contains("nofile"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in "(nofile)?=?\\PC{0,20}") {
            let _ = parse_rlimit(&text);
        }
    }
}
