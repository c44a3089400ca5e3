//! What sandboxes wrote: kept, bounded, followed, read when they have stopped.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use msb_tests::{Finished, Home, Running, Terminal};
use nix::sys::signal::Signal;
use serde_json::Value;

#[track_caller]
fn remove(home: &Home, name: &str) {
    assert_eq!(home.msb(["rm", "-f", name]).lines(), [name]);
}

fn logs(home: &Home, options: &[&str]) -> Finished {
    home.msb(["logs"].iter().chain(options))
}

#[test]
fn what_commands_wrote_is_read_byte_for_byte_running_and_stopped() {
    let home = Home::new();
    home.create(&["--log-level=debug", "--rlimit=nofile=77"], "web");
    let limited = home.exec_shell("web", "[ $(ulimit -n) = 77 ]");
    assert_eq!(limited.code(), 0, "{limited}");
    let bytes = r"printf 'a\0\377\nb' ; printf error >&2";
    assert_eq!(home.exec_shell("web", bytes).code(), 0);
    for _ in 0..2 {
        let read = logs(&home, &["web"]);
        assert_eq!(read.code(), 0, "{read}");
        assert_eq!(read.stdout, b"a\0\xff\nb");
        assert_eq!(read.stderr, b"error");
        // It works when it has stopped, too.
        home.msb(["stop", "web"]);
    }
    let system = logs(&home, &["--source=system", "web"]);
    assert!(system.text().contains("ready"), "{system}");
    assert!(system.text().contains("stopped"), "{system}");
    // What the machine's process has to say, which has no standard error that anybody sees.
    assert!(system.text().contains("machine: DEBUG"), "{system}");
    home.msb(["rm", "web"]);
    logs(&home, &["web"]).assert_error(1, "web");
}

#[test]
fn lines_are_chosen() {
    let home = Home::new();
    home.create(&[], "web");
    home.exec_shell("web", "seq 1 20; echo 'no number' >&2");
    home.exec_shell("web", "echo last");
    assert_eq!(
        logs(&home, &["--tail=2", "--source=stdout", "web"]).lines(),
        ["20", "last"]
    );
    assert_eq!(
        logs(&home, &["--grep=^1[0-2]", "web"]).lines(),
        ["10", "11", "12"]
    );
    assert_eq!(
        logs(&home, &["--since=1h", "--grep=last", "web"]).lines(),
        ["last"]
    );
    assert_eq!(logs(&home, &["--until=1h", "web"]).stdout, b"");
    let json = logs(&home, &["--json", "--tail=1", "web"]);
    let entry: Value = serde_json::from_str(json.text()).unwrap();
    assert_eq!(entry["text"], "last\n");
    assert_eq!(entry["source"], "stdout");
    assert_eq!(entry["session"], 2);
    let stamped = logs(&home, &["--timestamps", "--show-id", "--tail=1", "web"]);
    let time = entry["timestamp"].as_str().unwrap();
    assert_eq!(stamped.lines(), [format!("{time} [2] last")]);
    let until = |moment: &str| {
        let until = format!("--until={moment}");
        let found = logs(&home, &[&until, "--grep=^(20|last)$", "web"]);
        found.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(until(time), ["20"]);
    assert_eq!(until("2999-01-01T00:00:00Z"), ["20", "last"]);
    let colored = logs(&home, &["--color", "--source=stderr", "web"]);
    assert_eq!(colored.stderr, b"\x1b[31mno number\x1b[0m\n", "{colored}");
    let plain = logs(&home, &["--color", "--no-color", "--source=stderr", "web"]);
    assert_eq!(plain.stderr, b"no number\n", "{plain}");
    // Without being asked, on terminals only.
    let terminal = Terminal::start(home.command(["logs", "--source=stderr", "web"]));
    terminal.screen.wait_for("\x1b[31mno number\x1b[0m\r\n");
    assert_eq!(terminal.finish().code, 0);
    // The last line need not have an end.
    home.exec_shell("web", "printf 'whole\\nrest'");
    assert_eq!(logs(&home, &["--tail=2", "web"]).lines(), ["whole", "rest"]);
    assert_eq!(logs(&home, &["--tail=0", "web"]).stdout, b"");
    // However far back they are.
    home.exec_shell("web", "seq 1 100000 >&2");
    assert_eq!(
        logs(&home, &["--tail=3", "--grep=^[a-z]", "web"]).lines(),
        ["last", "whole", "rest"]
    );
    remove(&home, "web");
}

#[test]
fn a_log_is_followed_until_its_sandbox_ends() {
    let home = Home::new();
    home.create(&[], "web");
    home.exec_shell("web", "echo before");
    home.exec_shell("web", "echo more");
    let mut last = Running::start(&mut home.command(["logs", "-f", "--tail=1", "web"]));
    last.stdout.wait_for("more");
    let mut following = Running::start(&mut home.command(["logs", "-f", "web"]));
    following.stdout.wait_for("more");
    home.exec_shell("web", "echo meanwhile");
    following.stdout.wait_for("meanwhile");
    // However it ends.
    nix::sys::signal::kill(home.machine(), Signal::SIGKILL).unwrap();
    following.end_input();
    let finished = following.finish();
    assert_eq!(finished.lines(), ["before", "more", "meanwhile"]);
    last.end_input();
    assert_eq!(last.finish().lines(), ["more", "meanwhile"]);
    remove(&home, "web");
}

#[test]
fn quiet_logs_are_empty_and_files_are_no_output() {
    let home = Home::new();
    home.create(&["--quiet-logs"], "quiet");
    home.exec_shell("quiet", "echo secret");
    assert_eq!(logs(&home, &["--source=all", "quiet"]).stdout, b"");
    home.create(&[], "web");
    home.exec_shell("web", "echo contents >/file");
    let copied = home.msb(["cp", "web:/file", home.folder("out").to_str().unwrap()]);
    assert_eq!(copied.code(), 0, "{copied}");
    assert_eq!(logs(&home, &["web"]).stdout, b"");
    remove(&home, "web");
    remove(&home, "quiet");
}
