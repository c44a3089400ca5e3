//! What a process of the restricted profile lacks. What the whole guest lacks is left to tests in machines.

use std::os::unix::fs::PermissionsExt;

use super::*;

const RESTRICTED: Profile = Profile {
    scripts: false,
    restricted: true,
};

/// CAP_SYS_ADMIN and CAP_SYS_PTRACE.
const WITHHELD: u64 = 1 << 21 | 1 << 19;

/// A line of proc_pid_status(5), as the set that it shows.
fn set(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

#[test]
fn root_cannot_mount_and_nobody_gains_anything() {
    let Some(guest) = Guest::start_with(RESTRICTED, None) else {
        return;
    };
    let outcome = guest.shell("cat /proc/self/status");
    let status = outcome.text();
    for name in ["CapBnd:", "CapPrm:", "CapEff:"] {
        let all = set(status, name);
        assert!(all != 0 && all & WITHHELD == 0, "{name} {all:x}");
    }
    assert_eq!((set(status, "CapInh:"), set(status, "CapAmb:")), (0, 0));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let outcome = guest.shell("mount -t tmpfs none /mnt; unshare -m true || echo refused");
    assert_eq!(outcome.text(), "refused\n");
    // With the privilege, this reads the environment of a process that has more.
    let outcome = guest.shell("cat /proc/$PPID/environ || echo refused");
    assert_eq!(outcome.text(), "refused\n");
}

#[test]
fn a_program_that_changes_its_user_stays_who_it_was() {
    let Some(guest) = Guest::start_with(RESTRICTED, None) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("id");
    std::fs::copy("/usr/bin/id", &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o4755)).unwrap();
    let exec = Exec {
        user: Some("1234".into()),
        ..exec(&[program.to_str().unwrap(), "-u"])
    };
    assert_eq!(guest.exec(exec).outcome().text(), "1234\n");
}
