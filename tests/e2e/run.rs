//! The options of `msb run` that decide what the command finds in its guest.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use msb_tests::{Home, Running, processes, product};

#[test]
fn the_command_starts_in_the_usual_surroundings() {
    let home = Home::new();
    let script = "
        id -u; id -g; pwd; umask
        echo $HOME $USER $LOGNAME $SHELL
        echo $PATH
        echo ${TERM-none}
        ulimit -Sn
        [ -t 0 ] || [ -t 1 ] || [ -t 2 ] || echo no terminal
        ls /proc/self/fd | wc -l
        [ -c /dev/null ] && [ -d /dev/pts ] && [ -d /dev/shm ] && [ -L /dev/fd ] && echo devices
        ip addr show lo | grep -o 127.0.0.1
        env | cut -d= -f1 | sort | tr '\\n' ' '";
    let finished = home.busybox().shell(script);
    let expected = [
        "0",
        "0",
        "/",
        "0022",
        "/root root root /bin/sh",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "none",
        "1024",
        "no terminal",
        // The three standard streams, and what ls opens.
        "4",
        "devices",
        "127.0.0.1",
        "HOME LOGNAME PATH PWD SHELL SHLVL USER ",
    ];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn user_directory_environment_limits_and_host_name_are_given() {
    let home = Home::new();
    let guest = home.busybox().with([
        "--user=user",
        "--workdir=/home/user",
        "--hostname=box.example",
        "--env=A=1",
        "--env=B=x=y z",
        "--env=EMPTY=",
        "--env=PASSED",
        "--env=NOT_SET_HERE",
        "--env=A=2",
        "--rlimit=nofile=100:200",
        "--rlimit=core=0",
    ]);
    let script = "
        id -un; id -u; id -g; id -G; pwd; hostname
        echo \"$A|$B|${EMPTY-unset}|$PASSED|${NOT_SET_HERE-unset}|$HOME|$USER\"
        ulimit -Sn; ulimit -Hn; ulimit -c
        touch made && stat -c %u:%g made
        touch /made 2>/dev/null || echo not root";
    let finished =
        Running::start(guest.shell_command(script).env("PASSED", "from outside")).finish();
    let expected = [
        "user",
        "1000",
        "1000",
        "1000 50",
        "/home/user",
        "box.example",
        "2|x=y z||from outside|unset|/home/user|user",
        "100",
        "200",
        "0",
        "1000:1000",
        "not root",
    ];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn short_options_mean_the_same() {
    let home = Home::new();
    let share = home.folder("share");
    fs::write(share.join("file"), "shared").unwrap();
    let volume = format!("{}:/data:ro", share.display());
    let guest = home.busybox().with([
        "-c", "2", "-m", "200M", "-e", "A=1", "-w", "/tmp", "-u", "1000:50", "-H", "box", "-i",
        "--rm", "-n", "short", "-q", "-v", &volume,
    ]);
    let finished =
        guest.shell("nproc; echo $A; pwd; id -u; id -g; id -G; hostname; cat /data/file");
    assert_eq!(
        finished.lines(),
        ["2", "1", "/tmp", "1000", "50", "50", "box", "shared"]
    );
}

#[test]
fn arguments_arrive_as_they_are() {
    let home = Home::new();
    let arguments: [&[u8]; 9] = [
        b"printf",
        b"<%s>",
        b"a b",
        b"",
        b"*",
        b"$HOME",
        b"--help",
        b"-v",
        b"\xff\xfe\n'\"\\",
    ];
    let arguments = arguments.map(OsStr::from_bytes);
    let expected = b"<a b><><*><$HOME><--help><-v><\xff\xfe\n'\"\\>";
    assert_eq!(home.busybox().run(arguments).stdout, expected);
    // Also without `--`: options behind DIR are the command's.
    let mut command = home.command(["run".as_ref(), product::busybox().as_os_str()]);
    let finished = Running::start(command.args(arguments)).finish();
    assert_eq!(finished.stdout, expected, "{finished}");
}

#[test]
fn an_entry_point_gets_the_command_as_its_arguments() {
    let home = Home::new();
    let guest = home.busybox().with(["--entrypoint=printf"]);
    assert_eq!(guest.run(["<%s>", "a b", "--", "c"]).text(), "<a b><--><c>");
}

#[test]
fn without_a_command_the_users_shell_runs() {
    let home = Home::new();
    let mut shell = Running::start(&mut home.busybox().command([""; 0]));
    shell.send("echo \"I am $0\"\nexit 3\n");
    let finished = shell.finish();
    assert_eq!(
        (finished.code(), finished.text()),
        (3, "I am /bin/sh\n"),
        "{finished}"
    );
}

#[test]
fn a_name_is_the_host_name_and_is_taken_once() {
    let home = Home::new();
    let guest = || home.busybox().with(["--name", "web"]);
    let mut first = guest().start("hostname; read wait; echo over");
    first.stdout.wait_for("web\n");
    guest().run(["true"]).assert_error(125, "\"web\" exists");
    // Others are not in the way.
    let unnamed = home.busybox().run(["hostname"]);
    let name = unnamed.lines()[0].strip_prefix("msb-").unwrap();
    assert!(
        name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{name}"
    );
    first.send("\n");
    assert_eq!(first.finish().lines(), ["web", "over"]);
    // It stays, until another takes its place; with --rm the name is free again.
    guest().run(["true"]).assert_error(125, "\"web\" exists");
    let replaced = guest().with(["--replace", "--rm"]).run(["hostname"]);
    assert_eq!(replaced.lines(), ["web"]);
    assert_eq!(guest().run(["hostname"]).lines(), ["web"]);
}

#[test]
fn a_tmpfs_has_its_size() {
    let home = Home::new();
    let guest = home
        .busybox()
        .with(["--tmpfs=/scratch:8M", "--tmpfs=/tmp", "--tmpfs=/a/b:1M"]);
    let script = "
        for path in /scratch /tmp /a/b; do awk -v p=$path '$2 == p { print $3 }' /proc/mounts; done
        stat -c %a /tmp /scratch
        df -k /scratch | awk 'END { print $2 }'
        head -c 9437184 /dev/zero >/scratch/file 2>/dev/null || echo full
        stat -c %s /scratch/file
        echo inside >/a/b/file && cat /a/b/file";
    let finished = guest.shell(script);
    let expected = [
        "tmpfs", "tmpfs", "tmpfs", "1777", "755", "8192", "full", "8388608", "inside",
    ];
    assert_eq!(finished.lines(), expected);
}

#[test]
fn the_kernels_command_line_and_log() {
    let home = Home::new();
    let log = home.path().join("console.log");
    let guest = home
        .busybox()
        .with(["--cmdline", "msb_test=1 quiet_test", "--console"])
        .with([&log]);
    let finished = guest.shell("grep -o 'msb_test=1 quiet_test' /proc/cmdline; uname -r");
    let lines = finished.lines();
    assert_eq!(lines[0], "msb_test=1 quiet_test");
    let log = fs::read_to_string(log).unwrap();
    // From the first line to the last: all of it.
    assert!(
        log.contains(&format!("Linux version {}", lines[1])),
        "{log}"
    );
    assert!(log.contains("msb_test=1"), "{log}");
}

#[test]
fn kernel_and_initramfs_can_be_named() {
    let home = Home::new();
    let (kernel, initramfs) = (home.path().join("k"), home.path().join("i"));
    fs::copy(product::kernel(), &kernel).unwrap();
    fs::copy(product::initramfs(), &initramfs).unwrap();
    let named = home
        .busybox()
        .with(["--kernel".as_ref(), kernel.as_os_str()]);
    let named = named.with(["--initramfs".as_ref(), initramfs.as_os_str()]);
    assert_eq!(named.shell("echo up").lines(), ["up"]);
    // So can they in the environment, and a wrong name shows that it counts.
    let run = |kernel: &OsStr| {
        let mut command = home.busybox().shell_command("echo up");
        Running::start(
            command
                .env("MSB_KERNEL", kernel)
                .env("MSB_INITRAMFS", &initramfs),
        )
        .finish()
    };
    assert_eq!(run(kernel.as_os_str()).lines(), ["up"]);
    run("/no/such/kernel".as_ref()).assert_error(125, "/no/such/kernel");
}

#[test]
fn the_log_has_levels() {
    let home = Home::new();
    let run = |options: &[&str]| home.busybox().with(options).run(["true"]);
    let chatty = run(&["--log-level", "debug", "-n", "chatty"]);
    assert!(chatty.errors().contains("chatty"), "{chatty}");
    assert_eq!(run(&["--log-level", "info"]).code(), 0);
    assert_eq!(run(&["--quiet"]).errors(), "");
}

#[test]
fn secrets_are_in_no_command_line() {
    let home = Home::new();
    let mut guest = home
        .busybox()
        .with(["-e", "TOKEN"])
        .shell_command("echo ready; read wait");
    let guest = Running::start(guest.env("TOKEN", "s3cr3t"));
    guest.stdout.wait_for("ready");
    for file in ["cmdline", "environ"] {
        let contents = fs::read(processes::proc_file(home.machine(), file)).unwrap();
        let text = String::from_utf8_lossy(&contents);
        assert!(!text.contains("s3cr3t"), "{file}: {text:?}");
    }
    assert_eq!(guest.finish().code(), 1);
}

#[test]
fn what_the_command_leaves_in_the_background_ends_with_it() {
    let home = Home::new();
    // One holds the output open, one does not heed SIGTERM.
    let script = "sleep 1000 & (trap '' TERM; while :; do sleep 1; done) & echo over; exit 4";
    let finished = home.busybox().shell(script);
    assert_eq!(
        (finished.code(), finished.text()),
        (4, "over\n"),
        "{finished}"
    );
    assert!(finished.stderr.is_empty(), "{finished}");
}

#[test]
fn orphans_are_reaped() {
    let home = Home::new();
    // The inner shell ends at once; its child becomes one of PID 1.
    let script = "
        for i in 1 2 3 4 5; do sh -c 'sleep 0.1 & echo $! >>/tmp/orphans'; done
        sleep 2
        for pid in $(cat /tmp/orphans); do [ -e /proc/$pid ] && cat /proc/$pid/stat; done
        echo done";
    assert_eq!(home.busybox().shell(script).lines(), ["done"]);
}

#[test]
fn guests_know_nothing_of_each_other() {
    let home = Home::new();
    let script =
        |word| format!("echo {word} >/mine; echo ready; read wait; cat /mine; ls / | wc -l");
    let mut guests = ["one", "two"].map(|word| home.busybox().start(&script(word)));
    for guest in &guests {
        guest.stdout.wait_for("ready");
    }
    assert_eq!(home.machines().len(), 2);
    for guest in &mut guests {
        guest.send("\n");
    }
    let [one, two] = guests.map(Running::finish);
    assert_eq!(one.lines()[..2], ["ready", "one"]);
    assert_eq!(two.lines()[..2], ["ready", "two"]);
    assert_eq!(one.lines()[2], two.lines()[2]);
}

#[test]
fn the_phases_of_a_run_are_timed() {
    let home = Home::new();
    let finished = home.busybox().with(["--timings"]).run(["echo", "hi"]);
    assert_eq!(finished.text(), "hi\n", "{}", finished.errors());
    let phases: Vec<_> = finished
        .errors()
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.get(..12)?.trim()))
        .collect();
    assert_eq!(
        phases.join(", "),
        "spawn, build, kernel, agentd, ready, first byte, exit, stop"
    );
}

#[test]
fn nobody_at_standard_error_costs_no_exit_status() {
    let home = Home::new();
    for options in [&["--timings"][..], &["--timings", "--name=box", "--rm"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = home.busybox().with(options).shell_command("exit 3");
        command.stderr(writer);
        let finished = Running::start(&mut command).finish();
        assert_eq!(finished.code(), 3, "{options:?}: {finished}");
    }
}
