//! What a process starts with, and what a client hears when it does not start.

use std::os::unix::fs::PermissionsExt;

use nix::sys::resource::{Resource, getrlimit};
use protocol::{ResourceLimit, Stage};

use super::*;

fn failure_of(guest: &Guest, exec: Exec) -> (Stage, i32) {
    let outcome = guest.exec(exec).outcome();
    assert!(!outcome.started);
    let failure = outcome
        .failure
        .unwrap_or_else(|| panic!("{:?}", outcome.exit));
    assert!(!failure.message.is_empty());
    (failure.stage, failure.errno)
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let Some(guest) = Guest::start() else { return };
    assert_eq!(guest.shell("exit 0").code(), 0);
    assert_eq!(guest.shell("exit 255").code(), 255);
    assert_eq!(guest.shell("kill -TERM $$").signal(), 15);
    assert_eq!(guest.shell("kill -KILL $$").signal(), 9);
    assert_eq!(
        guest.shell("kill -40 $$").signal(),
        40,
        "a real-time signal"
    );
}

#[test]
fn programs_that_cannot_be_executed_are_explained() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let plain = script(&folder, "plain", 0o644, "#!/bin/sh\n");
    let orphan = script(&folder, "orphan", 0o755, "#!/no/such/interpreter\n");
    let bare = script(&folder, "bare", 0o755, "echo hello\n");
    let directory = folder.path().to_str().unwrap();
    for (program, stage, errno) in [
        ("no-such-program", Stage::ProgramNotFound, libc::ENOENT),
        ("/no/such/program", Stage::ProgramNotFound, libc::ENOENT),
        ("/etc/passwd/x", Stage::ProgramNotFound, libc::ENOENT),
        ("", Stage::ProgramNotFound, libc::ENOENT),
        (&plain, Stage::ProgramNotExecutable, libc::EACCES),
        (directory, Stage::ProgramNotExecutable, libc::EACCES),
        (&orphan, Stage::ProgramNotExecutable, libc::ENOENT),
        (&bare, Stage::ProgramNotExecutable, libc::ENOEXEC),
    ] {
        assert_eq!(
            failure_of(&guest, exec(&[program])),
            (stage, errno),
            "{program}"
        );
    }
}

#[test]
fn the_path_of_the_process_decides() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    script(&folder, "tool", 0o755, "#!/bin/sh\necho \"$0\"\n");
    let other = tempfile::tempdir().unwrap();
    script(&other, "tool", 0o644, "#!/bin/sh\necho wrong\n");
    let path = format!("{}:{}", other.path().display(), folder.path().display());
    let with_path = |path: &str| Exec {
        env: vec![(bytes("PATH"), bytes(path))],
        ..exec(&["tool"])
    };
    let outcome = guest.exec(with_path(&path)).outcome();
    assert_eq!(
        outcome.text(),
        format!("{}/tool\n", folder.path().display())
    );
    let only_denied = other.path().to_str().unwrap();
    assert_eq!(
        failure_of(&guest, with_path(only_denied)),
        (Stage::ProgramNotExecutable, libc::EACCES)
    );
    assert_eq!(
        failure_of(&guest, exec(&["tool"])),
        (Stage::ProgramNotFound, libc::ENOENT)
    );
}

#[test]
fn a_relative_program_is_beneath_the_working_directory() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    script(&folder, "tool", 0o755, "#!/bin/sh\npwd\n");
    let cwd = folder.path().to_str().unwrap();
    let outcome = guest
        .exec(Exec {
            cwd: Some(bytes(cwd)),
            ..exec(&["./tool"])
        })
        .outcome();
    assert_eq!(outcome.text(), format!("{cwd}\n"));
}

#[test]
fn the_working_directory_has_to_be_there() {
    let Some(guest) = Guest::start() else { return };
    assert_eq!(guest.shell("pwd").text(), "/\n");
    for (cwd, errno) in [("/no/such", libc::ENOENT), ("/etc/passwd", libc::ENOTDIR)] {
        let exec = Exec {
            cwd: Some(bytes(cwd)),
            ..shell("pwd")
        };
        assert_eq!(failure_of(&guest, exec), (Stage::WorkingDirectory, errno));
    }
    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let cwd = private.path().to_str().unwrap();
    let user = Some("1234".into());
    let exec = Exec {
        cwd: Some(bytes(cwd)),
        user,
        ..shell("pwd")
    };
    assert_eq!(
        failure_of(&guest, exec),
        (Stage::WorkingDirectory, libc::EACCES)
    );
}

#[test]
fn users_come_with_their_groups_and_homes() {
    let Some(guest) = Guest::start() else { return };
    let run = |user: &str, line: &str| {
        guest
            .exec(Exec {
                user: Some(user.into()),
                ..shell(line)
            })
            .outcome()
            .text()
            .to_owned()
    };
    assert_eq!(
        run("daemon", "id -u; id -g; id -G; echo $HOME $USER"),
        "1\n1\n1\n/usr/sbin daemon\n"
    );
    assert_eq!(
        run("1234:5678", "id -u; id -G; echo $HOME:$USER"),
        "1234\n5678\n/:\n"
    );
    assert_eq!(guest.shell("id -u; echo $HOME").text(), "0\n/root\n");
    let unknown = Exec {
        user: Some("no-such-user".into()),
        ..shell("true")
    };
    assert_eq!(failure_of(&guest, unknown), (Stage::User, libc::ENOENT));
}

#[test]
fn no_arguments_mean_the_login_shell() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(Exec {
        stdin: true,
        user: Some("1234".into()),
        ..exec(&[])
    });
    client.say(HostMessage::Stdin(b"echo $0 $SHELL\n"));
    client.say(HostMessage::StdinEnd);
    assert_eq!(client.outcome().text(), "/bin/sh /bin/sh\n");
}

#[test]
fn limits_are_set_or_the_process_does_not_start() {
    let Some(guest) = Guest::start() else { return };
    let limited = |resource, soft, hard| Exec {
        rlimits: vec![ResourceLimit {
            resource,
            soft,
            hard,
        }],
        ..shell("ulimit -Sn; ulimit -Hn; ulimit -Sc")
    };
    let open_files = libc::RLIMIT_NOFILE;
    let outcome = guest.exec(limited(open_files, 77, 88)).outcome();
    assert!(outcome.text().starts_with("77\n88\n"), "{}", outcome.text());
    let outcome = guest
        .exec(limited(libc::RLIMIT_CORE, 0, u64::MAX))
        .outcome();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(outcome.text(), format!("1024\n{hard}\n0\n"));
    let failure = failure_of(&guest, limited(open_files, 88, 77));
    assert_eq!(failure, (Stage::ResourceLimit, libc::EINVAL));
    assert_eq!(
        failure_of(&guest, limited(999, 1, 1)),
        (Stage::ResourceLimit, libc::EINVAL)
    );
}

#[test]
fn nothing_of_agentd_leaks_into_the_process() {
    let Some(guest) = Guest::start() else { return };
    // Some other sessions, so that there are descriptors to leak.
    let _others = [guest.exec(shell("sleep 60")), guest.exec(shell("sleep 60"))];
    // The fourth is the directory that ls reads.
    assert_eq!(guest.shell("ls /proc/self/fd").text(), "0\n1\n2\n3\n");
    let outcome = guest.shell("umask; env | sort");
    assert_eq!(
        outcome.text(),
        "0022\nHOME=/root\nLOGNAME=root\n\
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\n\
         SHELL=/bin/bash\nUSER=root\n"
    );
    let outcome = guest.shell("grep -E 'Sig(Blk|Ign)' /proc/self/status");
    let masks: Vec<u64> = (outcome.text().split_whitespace().skip(1).step_by(2))
        .map(|mask| u64::from_str_radix(mask, 16).unwrap())
        .collect();
    let pipe = 1 << (libc::SIGPIPE - 1);
    assert_eq!((masks[0], masks[1] & pipe), (0, 0));
}

#[test]
fn a_process_leads_its_own_session_and_group() {
    let Some(guest) = Guest::start() else { return };
    let outcome = guest.exec(exec(&[
        "perl",
        "-e",
        "print getpgrp() == $$ ? 'leads' : 'follows'",
    ]));
    assert_eq!(outcome.outcome().text(), "leads");
}

#[test]
fn its_user_can_open_the_streams_by_their_names() {
    let Some(guest) = Guest::start() else { return };
    let user = Some("1234".into());
    let line = "echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin";
    let mut client = guest.exec(Exec {
        user,
        stdin: true,
        ..shell(line)
    });
    client.say(HostMessage::Stdin(b"in\n"));
    client.say(HostMessage::StdinEnd);
    let outcome = client.outcome();
    assert_eq!(
        (outcome.text(), &outcome.stderr[..]),
        ("out\nin\n", &b"err\n"[..])
    );
}
