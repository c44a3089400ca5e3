//! What can happen to anybody: ends in the middle of things, memory and disks that are full, peers that do not read, a host without KVM.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Instant;

use msb_tests::client::{frame, shell};
use msb_tests::namespace::in_namespace;
use msb_tests::{Client, Finished, Home, LIMIT, Running, Terminal, processes};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::{ExitStatus, Hello, HostMessage};

const MIB: usize = 1024 * 1024;

/// Runs a shell script in a session of its own and returns its output.
#[track_caller]
fn in_session(home: &Home, script: &str) -> String {
    let answers = Client::exec(home, shell(script)).answers();
    assert_eq!(answers.exited, Some(ExitStatus::Code(0)), "{answers:?}");
    String::from_utf8(answers.stdout).unwrap()
}

/// How many descriptors a process has open.
fn open_files(pid: Pid) -> usize {
    fs::read_dir(processes::proc_file(pid, "fd"))
        .unwrap()
        .count()
}

#[test]
fn a_thousand_sessions_come_and_go() {
    let home = Home::new();
    let mut guest = home
        .busybox()
        .start("echo ready; while read line; do echo got $line; done");
    guest.stdout.wait_for("ready\n");
    let machine = home.machine();
    let greeting = frame(&HostMessage::Hello(Hello::current("test")));
    let wait_for_ever = || shell("exec tail -f /dev/null");
    in_session(&home, "true");
    let before = open_files(machine);
    for number in 0..1000 {
        match number % 4 {
            0 => drop(Client::connect(&home)),
            1 => Client::connect(&home).send(&greeting),
            2 => Client::connect(&home).send(&greeting[..greeting.len() / 2]),
            _ => drop(Client::exec(&home, wait_for_ever())),
        }
    }
    // And many at once, some of them with a process.
    let mut crowd: Vec<_> = (0..300).map(|_| Client::connect(&home)).collect();
    crowd.extend((0..30).map(|_| Client::exec(&home, wait_for_ever())));
    for client in crowd.iter_mut().rev().take(30) {
        client.wait_for_start();
    }
    drop(crowd);
    // Their processes end with them,
    let script = "while pidof tail >/dev/null; do sleep 0.1; done; echo alone";
    assert_eq!(in_session(&home, script), "alone\n");
    // and so does what the machine needed for them, as soon as it has heard of it.
    let deadline = Instant::now() + LIMIT;
    while open_files(machine) > before {
        assert!(
            Instant::now() < deadline,
            "{before} descriptors have become {}",
            open_files(machine)
        );
    }
    guest.send("a word\n");
    guest.stdout.wait_for("got a word\n");
    assert_eq!(guest.finish().code(), 0);
}

#[test]
fn input_that_nobody_reads_keeps_nobody_else_waiting() {
    let home = Home::new();
    let mut guest = home.busybox().start("echo ready; exec sleep 1000");
    guest.stdout.wait_for("ready\n");
    let mut stdin = guest.take_stdin();
    let feeder = thread::spawn(move || {
        use std::io::Write;
        let piece = vec![b'x'; MIB];
        let mut sent = 0;
        while stdin.write_all(&piece).is_ok() {
            sent += 1;
        }
        sent
    });
    // One that does not care for credit is thrown out when the agent has had enough of it.
    let mut exec = shell("sleep 1000");
    exec.stdin = true;
    let mut greedy = Client::exec(&home, exec);
    greedy.wait_for_start();
    for _ in 0..16 {
        greedy.say(&HostMessage::Stdin(&vec![0; 64 * 1024]));
    }
    let failure = greedy.answers().failed.expect("it is refused");
    assert!(failure.message.contains("credit"), "{failure:?}");
    // The others do not notice any of it.
    let megabyte = in_session(&home, "head -c 1048576 /dev/zero | tr '\\0' y");
    assert!(megabyte.len() == MIB && megabyte.bytes().all(|byte| byte == b'y'));
    // Signals get through, too.
    guest.signal(Signal::SIGTERM);
    let finished = guest.finish();
    assert_eq!((finished.code(), finished.errors()), (143, ""));
    assert!(feeder.join().unwrap() < 4, "somebody kept all that");
}

/// A GiB; a quarter of that where the processor is emulated, which takes as long.
fn much() -> usize {
    let emulated = env::var_os("KVMHOST").is_some();
    if emulated { 256 * MIB } else { 1024 * MIB }
}

/// Starts a command that writes so much into a pipe of 4 KiB.
fn much_output(home: &Home) -> (Running, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let guest = home.busybox().with(["--memory=128M"]);
    let mut command = guest.command(["head", "-c", &much().to_string(), "/dev/zero"]);
    command.stdout(OwnedFd::from(writer));
    (Running::start(&mut command), reader)
}

#[test]
fn much_output_arrives_at_a_slow_reader_and_ends_with_one_that_dies() {
    let home = Home::new();
    let (guest, mut reader) = much_output(&home);
    let (mut piece, zeroes) = ([0; 4096], [0; 4096]);
    let mut received = 0;
    let mut most = [0, 0];
    while let count @ 1.. = reader.read(&mut piece).unwrap() {
        assert!(piece[..count] == zeroes[..count]);
        received += count;
        if received == much() / 2 {
            most = [peak_memory(guest.pid()), peak_memory(home.machine())];
        }
    }
    assert_eq!(received, much());
    assert_eq!(guest.finish().code(), 0);
    let [msb, machine] = most;
    assert!(msb < 64 * MIB, "msb needed {msb} bytes of memory");
    // The kernel's file and the guest's memory included.
    assert!(machine < 192 * MIB, "the machine needed {machine} bytes");

    let (guest, mut reader) = much_output(&home);
    for _ in 0..MIB / piece.len() {
        reader.read_exact(&mut piece).unwrap();
    }
    drop(reader);
    let finished = guest.finish();
    assert_eq!((finished.code(), finished.errors()), (141, ""));
}

/// Most memory that a process has had, in bytes.
fn peak_memory(pid: Pid) -> usize {
    let status = fs::read_to_string(processes::proc_file(pid, "status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
fn a_guest_that_dies_leaves_the_terminal_as_it_was() {
    let home = Home::new();
    for (script, why) in [
        (
            "echo c >/proc/sysrq-trigger",
            "error: the guest's kernel panicked",
        ),
        ("reboot -f", "error: the guest reset itself"),
    ] {
        let terminal = home.busybox().terminal(&format!("{script}; sleep 1000"));
        // That it is as before is checked there.
        let closed = terminal.finish();
        assert_eq!(closed.code, 125, "{script}: {closed:?}");
        assert!(closed.screen.contains(why), "{script}: {closed:?}");
        assert!(closed.screen.contains("  hint: "), "{script}: {closed:?}");
    }
    // Nor do those that are ended, that never come up, and that are not even started.
    let guest = home.busybox().with(["--timeout=2s"]);
    let closed = guest.terminal("echo ready; sleep 1000").finish();
    assert_eq!(closed.code, 124, "{closed:?}");
    let why = "ready\r\nerror: \"sh\" did not end within 2s and was killed\r\n";
    assert!(closed.screen.starts_with(why), "{closed:?}");
    let guest = home.busybox().with(["--cmdline=rdinit=/no/such/program"]);
    let closed = Terminal::start(guest.command(["true"])).finish();
    assert_eq!(closed.code, 125, "{closed:?}");
    let why = "error: the guest ended before it was ready: its kernel panicked";
    assert!(closed.screen.starts_with(why), "{closed:?}");
    let closed = Terminal::start(home.guest("/no/such/root").command(["true"])).finish();
    assert_eq!(closed.code, 125, "{closed:?}");
}

#[test]
fn the_agents_death_is_a_panic_of_the_kernel() {
    let home = Home::new();
    // No signal ends the agent, not even one of root, but a debugger can let it go on at an address where nothing is.
    // Numbers: ptrace(2) is system call 101; PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_POKEUSER of RIP, PTRACE_DETACH.
    let script = "
        sub trace { syscall(101, @_) == 0 or die \"ptrace: $!\" }
        trace(0x4206, 1, 0, 0); trace(0x4207, 1, 0, 0);
        waitpid(1, 0x40000000) == 1 or die \"waitpid: $!\";
        trace(6, 1, 128, 1); trace(17, 1, 0, 0);
        sleep 1000;";
    let finished = home.debian().run(["perl", "-e", script]);
    finished.assert_error(125, "the guest's kernel panicked: Attempted to kill init!");
}

#[test]
fn who_takes_all_memory_is_killed_unless_nobody_can_be() {
    let home = Home::new();
    let guest = || home.busybox().with(["--memory=64M"]);
    // `tail` keeps what may be the last line.
    let finished = guest().run(["tail", "/dev/zero"]);
    assert_eq!((finished.code(), finished.errors()), (137, ""));
    // The agent is never the one; if there is nobody else, the kernel gives up.
    let script = "echo -1000 >/proc/self/oom_score_adj; exec tail /dev/zero";
    let finished = guest().shell(script);
    finished.assert_error(125, "the guest's kernel panicked: System is deadlocked");
}

/// Starts a guest and returns when its kernel has begun to boot.
fn booting(home: &Home) -> Running {
    let (log, console) = home.named_pipe("console");
    let guest = home
        .busybox()
        .with(["--console".as_ref(), log.as_os_str()])
        .start("echo ready; sleep 1000");
    console.wait_for("Linux version");
    guest
}

#[test]
fn when_msb_is_killed_while_its_guest_boots_the_machine_ends() {
    let home = Home::new();
    booting(&home).signal(Signal::SIGKILL);
    home.wait_until_alone();
}

#[test]
fn when_the_machine_is_killed_while_its_guest_boots_msb_says_so() {
    let home = Home::new();
    let guest = booting(&home);
    kill(home.machine(), Signal::SIGKILL).unwrap();
    let finished = guest.finish();
    finished.assert_error(125, "the machine's process ended without a word");
    finished.assert_error(125, "signal 9 ended it");
}

#[test]
fn what_both_of_them_leave_behind_is_removed_by_the_next() {
    let home = Home::new();
    let guest = home.busybox().with(["--rm", "--name=unlucky"]);
    let running = guest.start("echo ready; sleep 1000");
    running.stdout.wait_for("ready\n");
    let machine = home.machine();
    // Stopped, it cannot clean up after both.
    kill(machine, Signal::SIGSTOP).unwrap();
    running.signal(Signal::SIGKILL);
    kill(machine, Signal::SIGKILL).unwrap();
    home.wait_until_alone();
    drop(running);
    assert_eq!(home.left_over().len(), 1, "{:?}", home.left_over());
    assert_eq!(guest.run(["hostname"]).lines(), ["unlucky"]);
}

/// Runs `command` with a file system of the size that `limit` says, an option of tmpfs(5), at `$MSB_HOME`. What is
/// left there afterwards becomes part of the output.
fn with_small_home(command: &Command, limit: &str) -> Finished {
    let script = format!(
        "mount -t tmpfs -o {limit} none \"$MSB_HOME\"
        status=0; \"$@\" || status=$?
        find \"$MSB_HOME\" -mindepth 2 ! -name lock
        exit $status"
    );
    Running::start(&mut in_namespace(command, &script)).finish()
}

#[test]
fn a_full_disk_under_the_home_is_told_and_left_as_it_was() {
    let home = Home::new();
    let command = home.busybox().shell_command("echo came up");
    // The first is the home itself. Then there is no room for the run directories, their lock, the machine's directory,
    // its lock, its two sockets.
    for inodes in 1..=6 {
        let finished = with_small_home(&command, &format!("nr_inodes={inodes}"));
        finished.assert_error(125, "no space left on device");
        finished.assert_error(125, "make room there");
        assert_eq!(finished.text(), "", "{inodes}: {finished}");
    }
    // With nothing to spare everything goes well: the machine's state is in a file, which is replaced by another.
    assert_eq!(
        with_small_home(&command, "nr_inodes=9,size=8k").lines(),
        ["came up"]
    );
}

#[test]
fn a_full_disk_under_a_shared_folder_is_the_guests_business() {
    let home = Home::new();
    let share = home.folder("share");
    let script = "
        cd /data && cat /dev/zero >large; echo $?; stat -c %s large
        # There is no room for files either.
        for n in 1 2 3 4 5 6 7 8 9; do mkdir $n || break; done; echo $n
        rm -r large ?; echo small >small; cat small";
    let volume = format!("--volume={}:/data", share.display());
    let command = home.busybox().with([volume]).shell_command(script);
    let mount = format!(
        "mount -t tmpfs -o size=1m,nr_inodes=6 none '{}'; exec \"$@\"",
        share.display()
    );
    let finished = Running::start(&mut in_namespace(&command, &mount)).finish();
    let errors = finished.errors();
    assert_eq!(finished.code(), 0, "{finished}");
    assert_eq!(finished.text(), "1\n1048576\n5\nsmall\n", "{finished}");
    assert_eq!(
        errors.matches("No space left on device").count(),
        2,
        "{finished}"
    );
}

#[test]
fn a_full_disk_under_the_console_costs_the_log_only() {
    let home = Home::new();
    let guest = home.busybox().with(["--console=/dev/full"]);
    let finished = guest.shell("echo hello; exit 3");
    assert_eq!((finished.code(), finished.text()), (3, "hello\n"));
    let errors = finished.errors();
    assert_eq!(errors.lines().count(), 1, "{finished}");
    assert!(errors.contains("no longer written"), "{finished}");
    // The last words are kept all the same.
    let finished = guest.shell("echo c >/proc/sysrq-trigger; sleep 1000");
    finished.assert_error(125, "sysrq triggered crash");
}

#[test]
fn a_full_disk_under_the_output_is_an_error() {
    let home = Home::new();
    let mut command = home.busybox().shell_command("echo hello; sleep 1000");
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let finished = Running::start(&mut command).finish();
    finished.assert_error(125, "failed to write the output");
    finished.assert_error(125, "no space left on device");
}

#[test]
fn limits_of_the_host_are_told() {
    let home = Home::new();
    let log = home.path().join("log");
    let options = ["--console".as_ref(), log.as_os_str()];
    for (resource, limit, why) in [
        (Resource::RLIMIT_NOFILE, 9, "too many open files"),
        (Resource::RLIMIT_FSIZE, 0, "file too large"),
    ] {
        let mut command = home.busybox().with(options).command(["true"]);
        let lower = move || Ok(setrlimit(resource, limit, limit)?);
        // SAFETY: setrlimit(2) is a system call that neither allocates nor locks.
        unsafe { command.pre_exec(lower) };
        let finished = Running::start(&mut command).finish();
        finished.assert_error(125, "cannot start the machine");
        finished.assert_error(125, why);
        let left_over = home.left_over();
        assert!(left_over.is_empty(), "{left_over:?}");
    }
}

/// Runs `msb` where `script` has changed the mounts, once for each way to start a machine, and once to ask why.
fn without_kvm(home: &Home, script: &str, why: &str, diagnosis: &str) {
    let run = |command: &Command| Running::start(&mut in_namespace(command, script)).finish();
    let kernel = msb_tests::product::kernel();
    let vm = ["vm".as_ref(), "--kernel".as_ref(), kernel.as_os_str()];
    for command in [home.busybox().command(["true"]), home.command(vm)] {
        let finished = run(&command);
        finished.assert_error(125, "cannot open /dev/kvm");
        finished.assert_error(125, why);
        finished.assert_error(125, "`msb doctor` tells");
    }
    let finished = run(&home.command(["doctor"]));
    assert_eq!(finished.code(), 1, "{finished}");
    assert!(finished.text().contains(diagnosis), "{finished}");
    assert!(finished.text().contains("hint: "), "{finished}");
}

#[test]
fn a_host_without_kvm_is_named() {
    let home = Home::new();
    let devices = home.folder("dev");
    let script = format!(
        "for name in null zero full random urandom tty; do
            : >'{0}'/$name; mount --bind /dev/$name '{0}'/$name
        done
        mount --rbind '{0}' /dev
        exec \"$@\"",
        devices.display()
    );
    let missing = "FAIL device: there is no /dev/kvm";
    without_kvm(&home, &script, "no such file or directory", missing);
}

#[test]
fn kvm_that_one_may_not_use_is_named() {
    let home = Home::new();
    let nobodys = home.path().join("kvm");
    // Not even for root of a user namespace, when it has no capabilities.
    let script = format!(
        ": >'{0}'; chmod 0 '{0}'; mount --bind '{0}' /dev/kvm
        exec setpriv --bounding-set -all \"$@\"",
        nobodys.display()
    );
    let forbidden = "FAIL permission: /dev/kvm cannot be opened";
    without_kvm(&home, &script, "permission denied", forbidden);
}
