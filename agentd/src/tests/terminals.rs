//! Sessions with a terminal.

use protocol::{ResourceLimit, Stage};

use super::*;

fn on_terminal(exec: Exec) -> Exec {
    Exec {
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
        ..exec
    }
}

#[test]
fn a_process_sees_a_terminal_of_the_size_that_was_asked_for() {
    let Some(guest) = Guest::start() else { return };
    let line =
        "test -t 0 && test -t 1 && test -t 2 && stty size && echo $TERM && echo x > /dev/tty";
    let outcome = guest.exec(on_terminal(shell(line))).outcome();
    assert_eq!(
        (outcome.text(), outcome.code()),
        ("24 80\r\nxterm\r\nx\r\n", 0)
    );
    assert!(outcome.stderr.is_empty());
}

#[test]
fn a_new_size_arrives_with_its_signal() {
    let Some(guest) = Guest::start() else { return };
    let line = "trap 'stty size; exit' WINCH; echo on; while :; do sleep 0.05; done";
    let mut client = guest.exec(on_terminal(shell(line)));
    client.hear_until("on\r\n");
    client.say(HostMessage::Resize(TerminalSize {
        rows: 50,
        columns: 132,
    }));
    assert_eq!(client.outcome().text(), "50 132\r\n");
}

#[test]
fn what_is_typed_is_echoed_and_control_keys_work() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(on_terminal(exec(&["cat"])));
    client.started();
    client.say(HostMessage::Stdin(b"hello\r"));
    client.hear_until("hello\r\nhello\r\n");
    client.say(HostMessage::Stdin(b"\x04"));
    assert_eq!(client.outcome().code(), 0, "Ctrl-D ends the input");
    let mut client = guest.exec(on_terminal(exec(&["cat"])));
    client.started();
    client.say(HostMessage::Stdin(b"\x03"));
    assert_eq!(client.outcome().signal(), 2, "Ctrl-C interrupts");
}

#[test]
fn the_end_of_stdin_is_typed_too() {
    let Some(guest) = Guest::start() else { return };
    for text in [&b""[..], b"line\n", b"no end of line"] {
        let mut client = guest.exec(on_terminal(exec(&["cat"])));
        client.started();
        client.say(HostMessage::Stdin(text));
        client.say(HostMessage::StdinEnd);
        let outcome = client.outcome();
        assert_eq!(outcome.code(), 0);
        let text = str::from_utf8(text).unwrap().trim();
        assert_eq!(
            outcome.text().matches(text).count(),
            if text.is_empty() { 1 } else { 2 }
        );
    }
}

#[test]
fn who_reads_keys_by_itself_is_told_the_end_of_stdin() {
    let Some(guest) = Guest::start() else { return };
    let line = "stty -icanon -echo; echo ready; dd bs=1 count=1 2>&- | od -An -tx1";
    let mut client = guest.exec(on_terminal(shell(line)));
    client.hear_until("ready\r\n");
    client.say(HostMessage::StdinEnd);
    assert_eq!(client.outcome().text().trim(), "04");
}

#[test]
fn who_reads_keys_from_now_on_is_told_the_end_of_stdin_again() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let line = format!(
        "echo on; until [ -e {} ]; do sleep 0.05; done; stty -icanon -echo; echo ready
         until [ $(dd bs=1 count=1 2>&- | od -An -tx1) = 04 ]; do :; done; echo told",
        mark.display()
    );
    let mut client = guest.exec(on_terminal(shell(&line)));
    client.hear_until("on\r\n");
    client.say(HostMessage::StdinEnd);
    std::fs::write(mark, "").unwrap();
    client.hear_until("ready\r\n");
    assert_eq!(client.outcome().text(), "told\r\n");
}

#[test]
fn all_output_of_a_terminal_comes_before_the_exit() {
    let Some(guest) = Guest::start() else { return };
    let outcome = guest.exec(on_terminal(shell("seq 1 100000"))).outcome();
    let last = outcome.text().lines().last();
    assert_eq!(
        (outcome.text().lines().count(), last),
        (100_000, Some("100000"))
    );
}

#[test]
fn a_process_left_behind_does_not_keep_the_terminal() {
    let Some(guest) = Guest::start() else { return };
    let outcome = guest
        .exec(on_terminal(shell("trap '' HUP; sleep 60 & echo hi")))
        .outcome();
    assert_eq!((outcome.text(), outcome.code()), ("hi\r\n", 0));
}

#[test]
fn a_vanished_client_hangs_up() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let line = format!(
        "trap 'touch {}; exit' HUP; echo on; while :; do sleep 0.05; done",
        mark.display()
    );
    let mut client = guest.exec(on_terminal(shell(&line)));
    let pid = client.started();
    client.hear_until("on\r\n");
    drop(client);
    let wait = format!("while kill -0 {pid} 2>&-; do sleep 0.05; done");
    assert_eq!(guest.shell(&wait).code(), 0);
    assert!(mark.exists());
}

#[test]
fn the_terminal_belongs_to_its_user() {
    let Some(guest) = Guest::start() else { return };
    let exec = Exec {
        user: Some("1234".into()),
        ..shell("stat -c %u $(tty); echo x > /dev/stdout")
    };
    let outcome = guest.exec(on_terminal(exec)).outcome();
    assert_eq!(outcome.text(), "1234\r\nx\r\n");
}

#[test]
fn what_fails_before_the_program_is_told_apart_on_a_terminal_too() {
    let Some(guest) = Guest::start() else { return };
    let limit = ResourceLimit {
        resource: 1000,
        soft: 1,
        hard: 1,
    };
    let execs = [
        Exec {
            cwd: Some(bytes("/no/such")),
            ..shell("pwd")
        },
        Exec {
            user: Some("nobody-here".into()),
            ..shell("id")
        },
        Exec {
            rlimits: vec![limit],
            ..shell("ulimit -a")
        },
        exec(&["no-such-program"]),
    ];
    let stages = execs.map(|exec| {
        let outcome = guest.exec(on_terminal(exec)).outcome();
        outcome.failure.map(|failure| failure.stage)
    });
    let expected = [
        Stage::WorkingDirectory,
        Stage::User,
        Stage::ResourceLimit,
        Stage::ProgramNotFound,
    ];
    assert_eq!(stages, expected.map(Some));
}

#[test]
fn a_terminal_that_nobody_reads_still_gets_signals() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(on_terminal(exec(&["sleep", "60"])));
    client.started();
    let line = [b'x'; 1000];
    for _ in 0..200 {
        client.say(HostMessage::Stdin(&line));
    }
    client.say(HostMessage::Signal(libc::SIGKILL));
    assert_eq!(client.outcome().signal(), 9);
}
