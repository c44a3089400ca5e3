//! How a process runs in a guest: the options that `run`, `create` and `exec` share.

use clap::Args;
use microsandbox::protocol::{Bytes, ResourceLimit};
use microsandbox::sandbox::Rlimit;

use crate::options::{GuestPath, Variable, os_value, parse_rlimit};

/// The surroundings of a process.
#[derive(Debug, Args)]
pub(in crate::commands) struct ProcessArguments {
    /// Variable for the command's environment; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = os_value(Variable::parse))]
    env: Vec<Variable>,

    /// Directory in which the command starts [default: /]
    #[arg(short, long, value_name = "PATH", value_parser = os_value(GuestPath::parse))]
    pub(in crate::commands) workdir: Option<GuestPath>,

    /// User that the command runs as: NAME, UID, NAME:GROUP or UID:GID [default: root]
    #[arg(short, long, value_name = "USER")]
    pub(in crate::commands) user: Option<String>,

    /// Resource limit of the command, such as nofile=1024:4096
    #[arg(long, value_name = "RESOURCE=SOFT[:HARD]", value_parser = parse_rlimit)]
    pub(in crate::commands) rlimit: Vec<Rlimit>,
}

impl ProcessArguments {
    /// The resource limits for the process.
    pub(in crate::commands) fn limits(&self) -> Vec<ResourceLimit> {
        self.rlimit
            .iter()
            .copied()
            .map(ResourceLimit::from)
            .collect()
    }

    /// The variables for the process. With a terminal, the guest should know its kind.
    pub(in crate::commands) fn environment(&self, terminal: bool) -> Vec<(Bytes, Bytes)> {
        let term = Variable::Inherit { key: "TERM".into() };
        terminal
            .then_some(term)
            .into_iter()
            .chain(self.env.iter().cloned())
            .filter_map(Variable::resolve)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_kind() {
        let process = |env| ProcessArguments {
            env,
            workdir: None,
            user: None,
            rlimit: Vec::new(),
        };
        let term = Variable::Set {
            key: "TERM".into(),
            value: "dumb".into(),
        };
        assert_eq!(
            process(vec![term]).environment(true).pop(),
            Some((Bytes(b"TERM".to_vec()), Bytes(b"dumb".to_vec())))
        );
        assert_eq!(process(Vec::new()).environment(false), []);
    }
}
