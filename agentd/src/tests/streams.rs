//! Standard streams through sessions.

use std::thread;
use std::time::Instant;

use protocol::Stage;

use super::*;

/// Bytes in which a lost, doubled or exchanged piece shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn output_and_errors_arrive_apart() {
    let Some(guest) = Guest::start() else { return };
    let outcome = guest.shell("echo out; echo err >&2; exit 3");
    assert!(outcome.started);
    assert_eq!(
        (outcome.text(), &outcome.stderr[..], outcome.code()),
        ("out\n", &b"err\n"[..], 3)
    );
}

#[test]
fn megabytes_pass_through_a_process_unharmed() {
    let Some(guest) = Guest::start() else { return };
    let sent = pattern(16 * 1024 * 1024);
    let mut client = guest.exec(Exec {
        stdin: true,
        ..exec(&["cat"])
    });
    let mut received = Vec::new();
    let mut rest = &sent[..];
    while !rest.is_empty() {
        while client.credit == 0 {
            match client.hear() {
                Heard::Stdout(data) => received.extend(data),
                Heard::Started(_) => {}
                other => panic!("{other:?}"),
            }
        }
        let (now, later) = rest.split_at(rest.len().min(client.credit).min(MAX_DATA));
        client.credit -= now.len();
        client.say(HostMessage::Stdin(now));
        rest = later;
    }
    client.say(HostMessage::StdinEnd);
    let outcome = client.outcome();
    received.extend(&outcome.stdout);
    assert!(received == sent);
    assert_eq!(outcome.code(), 0);
}

#[test]
fn all_output_comes_before_the_exit() {
    let Some(guest) = Guest::start() else { return };
    let outcome = guest.shell("head -c 8000000 /dev/zero; head -c 3000000 /dev/zero >&2");
    assert_eq!(
        (outcome.stdout.len(), outcome.stderr.len()),
        (8_000_000, 3_000_000)
    );
}

#[test]
fn a_flood_on_one_stream_does_not_silence_the_other() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(shell("yes & sleep 0.2; echo here >&2; wait"));
    loop {
        match client.hear() {
            Heard::Stderr(data) => return assert_eq!(data, b"here\n"),
            Heard::Started(_) | Heard::Stdout(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn without_stdin_there_is_the_null_device() {
    let Some(guest) = Guest::start() else { return };
    assert_eq!(
        guest.shell("cat; echo $?; readlink /proc/self/fd/0").text(),
        "0\n/dev/null\n"
    );
    let mut client = guest.exec(shell("sleep 60"));
    client.started();
    client.say(HostMessage::Stdin(b"x"));
    assert_eq!(client.fail().stage, Stage::Protocol);
}

#[test]
fn stdin_may_follow_exec_at_once_and_end() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(Exec {
        stdin: true,
        ..shell("cat; echo end")
    });
    client.say(HostMessage::Stdin(b"one "));
    client.say(HostMessage::Stdin(b""));
    client.say(HostMessage::Stdin(b"two "));
    client.say(HostMessage::StdinEnd);
    assert_eq!(client.outcome().text(), "one two end\n");
}

#[test]
fn a_process_that_closes_its_stdin_is_reported() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(Exec {
        stdin: true,
        ..shell("exec <&-; sleep 0.2; echo done")
    });
    client.started();
    assert_eq!(client.hear(), Heard::StdinClosed);
    client.say(HostMessage::Stdin(b"nobody reads this"));
    let outcome = client.outcome();
    assert_eq!((outcome.text(), outcome.code()), ("done\n", 0));
}

#[test]
fn a_process_that_does_not_read_still_gets_signals() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(Exec {
        stdin: true,
        ..exec(&["sleep", "60"])
    });
    let data = vec![0; MAX_DATA];
    for _ in 0..INITIAL_STDIN_CREDIT as usize / MAX_DATA {
        client.say(HostMessage::Stdin(&data));
    }
    client.say(HostMessage::Signal(libc::SIGTERM));
    assert_eq!(client.outcome().signal(), 15);
    guest.assert_alive();
}

#[test]
fn signals_reach_the_whole_group() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(shell(
        "sleep 60 & trap 'wait; exit 5' USR1; echo on; wait; exit 6",
    ));
    client.hear_until("on\n");
    // The shell survives it through its trap, and its child has to die for the shell's `wait`.
    client.say(HostMessage::Signal(libc::SIGUSR1));
    assert_eq!(client.outcome().code(), 5);
}

#[test]
fn a_client_that_does_not_read_stops_only_its_own_process() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark").to_str().unwrap().to_owned();
    let mut slow = guest.exec(shell(&format!("head -c 20000000 /dev/zero; touch {mark}")));
    slow.started();
    for _ in 0..20 {
        guest.assert_alive();
    }
    assert!(
        !std::path::Path::new(&mark).exists(),
        "somebody holds 20 MB in memory"
    );
    assert_eq!(slow.outcome().stdout.len(), 20_000_000);
}

#[test]
fn a_process_left_behind_does_not_keep_the_session() {
    let Some(guest) = Guest::start() else { return };
    let begin = Instant::now();
    for line in ["sleep 60 & echo hi", "setsid yes & sleep 0.2; echo hi >&2"] {
        assert_eq!(guest.shell(line).code(), 0, "{line}");
    }
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn many_sessions_run_at_once() {
    let Some(guest) = Guest::start() else { return };
    thread::scope(|scope| {
        let run = |n: usize| {
            let outcome = guest.shell(&format!("sleep 0.1; head -c {n}00000 /dev/zero; exit {n}"));
            assert_eq!(
                (outcome.stdout.len(), usize::from(outcome.code())),
                (n * 100_000, n)
            );
        };
        for n in 0..24 {
            scope.spawn(move || run(n));
        }
    });
}

#[test]
fn time_is_over_for_the_whole_group() {
    let Some(guest) = Guest::start() else { return };
    let line = "sleep 61.25 & echo $!; wait";
    let outcome = guest
        .exec(Exec {
            timeout_ms: Some(1000),
            ..shell(line)
        })
        .outcome();
    assert_eq!(outcome.signal(), 9);
    assert!(outcome.exit.unwrap().timed_out);
    let child = outcome.text().trim().parse().unwrap();
    super::hostile::wait_for_end(&guest, child);
    let quick = guest
        .exec(Exec {
            timeout_ms: Some(60_000),
            ..shell("exit 4")
        })
        .outcome();
    assert_eq!((quick.code(), quick.exit.unwrap().timed_out), (4, false));
    let endless = guest
        .exec(Exec {
            timeout_ms: Some(u64::MAX),
            ..shell("exit 4")
        })
        .outcome();
    assert_eq!(endless.code(), 4);
}
