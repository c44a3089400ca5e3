//! Commands in a mount namespace of their own: a full disk, or a device that is gone, without harm to anybody else.

use std::process::Command;

use crate::running::piped;

/// The shell script `script` in a mount namespace of its own, as the root of a user namespace, with `command` as `"$@"`.
pub fn in_namespace(command: &Command, script: &str) -> Command {
    let mut namespace = Command::new("unshare");
    namespace
        .args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            namespace.env(name, value);
        }
    }
    piped(&mut namespace);
    namespace
}
