//! A role that is taken on a disk with little room.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What became of a role that had too little room.
pub(crate) struct Failure {
    /// Size of the disk.
    pub(crate) kilobytes: u64,
    /// What the role said.
    pub(crate) error: String,
    /// Paths of all that it left on the disk, one on a line.
    pub(crate) left: String,
}

/// Takes the role of this program for a home, which is its argument, while a disk of the next of the sizes, in kilobytes, is in place of
/// `directory`; until it succeeds. `check` sees each failure; their number is returned.
pub(crate) fn until_there_is_enough(
    role: &str,
    home: &Path,
    directory: &Path,
    sizes: impl Iterator<Item = u64>,
    mut check: impl FnMut(Failure),
) -> usize {
    for (failures, kilobytes) in sizes.enumerate() {
        let script = format!(
            "mount -t tmpfs -o mode=700,size={kilobytes}k none '{0}'
            status=0; \"$1\" {role} '{1}' || status=$?
            find '{0}' -mindepth 1 >'{1}/left'
            exit $status",
            directory.display(),
            home.display(),
        );
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-ec", &script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        if output.status.success() {
            return failures;
        }
        check(Failure {
            kilobytes,
            error: String::from_utf8(output.stderr).unwrap(),
            left: fs::read_to_string(home.join("left")).unwrap(),
        });
    }
    panic!("there was never room enough");
}
