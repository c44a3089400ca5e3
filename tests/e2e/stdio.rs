//! Standard streams: every byte arrives, ends are seen, and nobody has to wait for somebody else.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread;

use msb_tests::running::piped;
use msb_tests::{Home, Running, processes};

const MIB: usize = 1024 * 1024;

/// Bytes that do not repeat (xorshift64*).
fn noise(length: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What sha256sum(1) of this machine says.
fn digest(bytes: &[u8]) -> String {
    let mut sum = Running::start(piped(&mut Command::new("sha256sum")));
    sum.send(bytes);
    sum.finish().text().to_owned()
}

#[test]
fn thirty_two_mebibytes_go_in_and_come_out() {
    let home = Home::new();
    let data = noise(32 * MIB);
    let mut guest = home
        .busybox()
        .start("tee /tmp/copy; sha256sum </tmp/copy >&2");
    let mut stdin = guest.take_stdin();
    // From a thread: the guest does not read on while nobody takes what it has written.
    let sent = data.clone();
    let writer = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let finished = guest.finish();
    writer.join().unwrap();
    let digest = digest(&data);
    assert_eq!(finished.code(), 0);
    assert_eq!(finished.errors(), digest, "on the way in");
    assert!(
        finished.stdout == data,
        "{} bytes came out differently",
        finished.stdout.len()
    );
}

#[test]
fn output_and_errors_are_apart() {
    let home = Home::new();
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut guest = home
        .busybox()
        .start("dd bs=1 count=256 2>/dev/null; echo to errors >&2; cat >&2; echo out");
    guest.send(&every_byte);
    guest.send(&every_byte);
    let finished = guest.finish();
    assert_eq!(finished.code(), 0);
    assert_eq!(finished.stdout, [&every_byte, b"out\n".as_slice()].concat());
    assert_eq!(
        finished.stderr,
        [b"to errors\n".as_slice(), &every_byte].concat()
    );
}

#[test]
fn streams_may_be_files() {
    let home = Home::new();
    let data = noise(MIB + 1);
    let (input, output) = (home.path().join("input"), home.path().join("output"));
    fs::write(&input, &data).unwrap();
    // Both outputs are one file, as in `>output 2>&1`.
    let shared = File::create(&output).unwrap();
    let mut command = home.busybox().shell_command("cat; echo end >&2");
    command.stdin(File::open(&input).unwrap());
    command.stdout(shared.try_clone().unwrap()).stderr(shared);
    assert_eq!(Running::start(&mut command).finish().code(), 0);
    let written = fs::read(&output).unwrap();
    assert!(
        written == [&data, b"end\n".as_slice()].concat(),
        "{} bytes",
        written.len()
    );
}

#[test]
fn the_end_of_input_is_seen() {
    let home = Home::new();
    // At once,
    let mut command = home.busybox().shell_command("wc -c; read line || echo end");
    let finished = Running::start(command.stdin(Stdio::null())).finish();
    assert_eq!(finished.lines(), ["0", "end"]);
    // and after something, while the command goes on.
    let mut guest = home
        .busybox()
        .start("cat; echo and then; sleep 1; echo more");
    guest.send("no newline");
    guest.stdout.wait_for("no newline");
    guest.end_input();
    assert_eq!(guest.finish().lines(), ["no newlineand then", "more"]);
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    let home = Home::new();
    let mut guest = home
        .busybox()
        .start("head -c 5; exec <&-; echo; sleep 1; echo over");
    let mut stdin = guest.take_stdin();
    let writer = thread::spawn(move || {
        // Fails sooner or later: the reader is gone.
        let _ = stdin.write_all(&b"begin".repeat(4 * MIB));
    });
    assert_eq!(guest.finish().lines(), ["begin", "over"]);
    writer.join().unwrap();
}

#[test]
fn input_that_never_ends_does_not_keep_the_command_alive() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = home.busybox().shell_command("exit 6");
    command.stdin(OwnedFd::from(reader));
    let guest = Running::start(&mut command);
    drop(command);
    assert_eq!(guest.finish().code(), 6);
    drop(writer);
}

#[test]
fn when_nobody_reads_the_output_the_command_ends() {
    let home = Home::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = home.busybox().command(["yes"]);
    command.stdout(OwnedFd::from(writer));
    let guest = Running::start(&mut command);
    drop(command);
    let mut first = [0; 4];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"y\ny\n");
    drop(reader);
    // As of a program that SIGPIPE ended, and as quietly.
    let finished = guest.finish();
    assert_eq!((finished.code(), finished.errors()), (141, ""));
}

#[test]
fn streams_may_be_closed() {
    let home = Home::new();
    let script = "echo nobody reads this; read line || echo no input >&2; exit 5";
    let msb = home.busybox().shell_command(script);
    // A shell closes them; `command` is what it then becomes.
    let mut shell = home.command([""; 0]);
    let mut closing = Command::new("/bin/sh");
    closing
        .args(["-c", "exec \"$@\" <&- >&-", "sh"])
        .arg(msb.get_program())
        .args(msb.get_args());
    closing.env_clear();
    for (name, value) in shell.get_envs() {
        closing.env(name, value.unwrap());
    }
    shell.env_clear();
    let finished = Running::start(piped(&mut closing)).finish();
    assert_eq!(
        (finished.code(), finished.errors()),
        (5, "no input\n"),
        "{finished}"
    );
}

#[test]
fn a_slow_reader_slows_its_command_and_fills_no_memory() {
    const SIZE: usize = 64 * MIB;
    let home = Home::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (log, console) = home.named_pipe("console");
    // The position in the file is how much has been taken; when it rests for two seconds, the pipes are full. It is told
    // by way of the kernel's log, because the other streams share their way with the one that is blocked.
    let script = "
        dd if=/dev/zero of=/tmp/file bs=1M count=64 2>/dev/null
        dd if=/tmp/file bs=64k 2>/dev/null & writer=$!
        position() { awk '/^pos/ { print $2 }' /proc/$writer/fdinfo/0; }
        last=-1
        while now=$(position); [ \"$now\" != \"$last\" ] || [ \"$now\" = 0 ]; do last=$now; sleep 2; done
        echo $now=taken >/dev/kmsg
        wait $writer";
    let guest = home.busybox().with(["--console".as_ref(), log.as_os_str()]);
    let mut command = guest.shell_command(script);
    command.stdout(OwnedFd::from(writer));
    let guest = Running::start(&mut command);
    drop(command);
    console.wait_for("=taken");
    let text = console.so_far();
    let taken = text
        .split_once("=taken")
        .unwrap()
        .0
        .rsplit(' ')
        .next()
        .unwrap();
    let taken: usize = taken.parse().unwrap();
    assert!(
        taken > 0 && taken < SIZE / 4,
        "{taken} bytes were taken, though nobody reads them"
    );
    let mut received = 0;
    let mut buffer = vec![0; MIB];
    while let count @ 1.. = reader.read(&mut buffer).unwrap() {
        received += count;
    }
    let most = peak_memory(&guest);
    assert_eq!(received, SIZE);
    assert_eq!(guest.finish().code(), 0);
    assert!(most < 64 * MIB, "msb needed {most} bytes of memory");
}

/// Most memory that `msb` itself has had, which is not the guest's; none of one that has just ended.
fn peak_memory(running: &Running) -> usize {
    let status = fs::read_to_string(processes::proc_file(running.pid(), "status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or(0, |line| {
        line.trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse::<usize>()
            .unwrap()
            * 1024
    })
}
