//! Clients that break rules or vanish. Every test ends with a server that still works.

use std::io::{Read, Write};

use protocol::{Boot, Root, RootAccess, RootSource, Shutdown, Stage};

use super::*;

/// Waits until the process `pid` of the guest is gone.
pub(super) fn wait_for_end(guest: &Guest, pid: u32) {
    let line = format!("while kill -0 {pid} 2>&-; do sleep 0.05; done");
    let limited = Exec {
        timeout_ms: Some(10_000),
        ..shell(&line)
    };
    assert_eq!(guest.exec(limited).outcome().code(), 0, "{pid} lives on");
}

#[test]
fn frames_out_of_order_are_refused() {
    let Some(guest) = Guest::start() else { return };
    let root = Root {
        source: RootSource::Shared { tag: "x".into() },
        access: RootAccess::Writable,
    };
    let boot = || {
        HostMessage::Boot(Box::new(Boot {
            root: root.clone(),
            mounts: vec![],
            hostname: "".into(),
            scripts: vec![],
            restricted: false,
            init: None,
            patches: vec![],
        }))
    };
    let hello = || HostMessage::Hello(Hello::current("test"));
    let program = || HostMessage::Exec(Box::new(shell("sleep 60")));
    let stop = || HostMessage::Shutdown(Shutdown { grace_ms: 0 });
    for messages in [
        vec![program()],
        vec![HostMessage::StdinEnd],
        vec![hello(), hello()],
        vec![hello(), boot()],
        vec![hello(), stop()],
        vec![hello(), HostMessage::Signal(9)],
        vec![hello(), program(), program()],
        vec![hello(), program(), stop()],
        vec![hello(), program(), HostMessage::StdinEnd],
        vec![
            hello(),
            program(),
            HostMessage::Resize(TerminalSize {
                rows: 1,
                columns: 1,
            }),
        ],
        vec![hello(), program(), HostMessage::Signal(0)],
        vec![hello(), program(), HostMessage::Signal(65)],
        vec![hello(), program(), HostMessage::Signal(-9)],
    ] {
        let mut client = guest.stranger();
        for message in &messages {
            client.say(message.clone());
        }
        assert_eq!(client.fail().stage, Stage::Protocol, "{messages:?}");
        assert_eq!(client.hear(), Heard::End);
    }
    guest.assert_alive();
}

#[test]
fn another_version_hears_of_both() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.stranger();
    client.say(HostMessage::Hello(Hello {
        version: 77,
        ..Hello::current("future")
    }));
    let message = client.fail().message;
    let own = format!("this side {}", protocol::VERSION);
    assert!(
        message.contains("77") && message.contains(&own),
        "{message}"
    );
}

#[test]
fn garbage_ends_its_own_session_only() {
    let Some(guest) = Guest::start() else { return };
    let mut bystander = guest.exec(Exec {
        stdin: true,
        ..exec(&["cat"])
    });
    bystander.started();
    let frames: [&[u8]; 5] = [
        &[0xff; 64],
        &[1, 0, 0, 0, 99],
        &[0, 0, 0, 0],
        &[3, 0, 0, 0, 4, 0, 0],
        &[6, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    for garbage in frames {
        let mut client = guest.stranger();
        client.stream.write_all(garbage).unwrap();
        assert_eq!(client.fail().stage, Stage::Protocol, "{garbage:?}");
    }
    bystander.say(HostMessage::Stdin(b"still here"));
    bystander.say(HostMessage::StdinEnd);
    assert_eq!(bystander.outcome().text(), "still here");
}

#[test]
fn a_bad_frame_kills_the_process_of_its_session() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(shell("trap '' HUP TERM; sleep 60"));
    let pid = client.started();
    client.stream.write_all(&[1, 0, 0, 0, 99]).unwrap();
    assert_eq!(client.fail().stage, Stage::Protocol);
    wait_for_end(&guest, pid);
}

#[test]
fn more_than_the_credit_is_refused() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(Exec {
        stdin: true,
        ..exec(&["sleep", "60"])
    });
    let pid = client.started();
    let data = vec![0; MAX_DATA];
    // What fits the pipe counts as consumed.
    for _ in 0..=INITIAL_STDIN_CREDIT as usize / MAX_DATA + 1 {
        client.say(HostMessage::Stdin(&data));
    }
    assert_eq!(client.fail().stage, Stage::Protocol);
    wait_for_end(&guest, pid);
}

#[test]
fn a_client_that_vanishes_takes_its_process_along() {
    let Some(guest) = Guest::start() else { return };
    for line in [
        "sleep 60",
        "trap '' HUP; while :; do sleep 0.1; done",
        "yes",
        "kill -STOP $$",
    ] {
        let mut client = guest.exec(shell(line));
        let pid = client.started();
        drop(client);
        wait_for_end(&guest, pid);
    }
    // A process may use its last moments.
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let line = format!(
        "trap 'touch {}; exit' HUP; echo on; while :; do sleep 0.1; done",
        mark.display()
    );
    let mut client = guest.exec(shell(&line));
    let pid = client.started();
    client.hear_until("on\n");
    drop(client);
    wait_for_end(&guest, pid);
    assert!(mark.exists());
}

#[test]
fn children_go_with_the_process_whose_client_vanished() {
    let Some(guest) = Guest::start() else { return };
    let mut client = guest.exec(shell("(trap '' HUP; exec sleep 61.5) & echo $!; wait"));
    client.started();
    let child = client.hear_until("\n").trim().parse().unwrap();
    drop(client);
    wait_for_end(&guest, child);
}

#[test]
fn silent_clients_do_not_stay() {
    let Some(guest) = Guest::start() else { return };
    let mut silent = guest.connect();
    let mut half = guest.connect();
    half.write_all(&[12, 0, 0, 0, 0]).unwrap();
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        // Its greeting, and after ten seconds the end.
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.is_empty());
    }
}

#[test]
fn there_is_a_limit_to_sessions() {
    let Some(guest) = Guest::start() else { return };
    // They are accepted in this order, so the next one is one too many.
    let crowd: Vec<_> = (0..1024).map(|_| guest.connect()).collect();
    let failure = guest.stranger().fail();
    assert_eq!((failure.stage, failure.errno), (Stage::Spawn, libc::EAGAIN));
    drop(crowd);
    // The server hears of that one by one.
    let is_full = || guest.shell("true").failure.is_some();
    assert!((0..10_000).any(|_| !is_full()));
    guest.assert_alive();
}

#[test]
fn random_bytes_in_every_phase_leave_the_server_alive() {
    let Some(guest) = Guest::start() else { return };
    let mut state = 7u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for round in 0..300 {
        let mut client = match round % 2 {
            0 => guest.stranger(),
            _ => guest.exec(Exec {
                stdin: true,
                ..exec(&["cat"])
            }),
        };
        let length = random() % 40;
        let mut junk: Vec<u8> = (0..length).map(|_| random() as u8).collect();
        if round % 3 == 0 {
            // A frame that is at least whole.
            let body = junk.split_off(junk.len().min(4));
            junk = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
            junk.extend(body);
        }
        let _ = client.stream.write_all(&junk);
    }
    guest.assert_alive();
}
