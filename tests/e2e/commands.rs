//! The commands that start no guest, and the mistakes that are found before one is started.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use msb_tests::running::piped;
use msb_tests::{Home, Running, product};

#[test]
fn doctor_finds_nothing_wrong() {
    let home = Home::new();
    let finished = home.msb(["doctor"]);
    let lines = finished.lines();
    for what in [
        "device",
        "permission",
        "virtualisation",
        "kernel",
        "initramfs",
        "memory",
    ] {
        let line = format!("ok   {what}: ");
        assert!(
            lines.iter().any(|found| found.starts_with(&line)),
            "{what}: {finished}"
        );
    }
    let json = home.msb(["doctor", "--format", "json"]);
    assert!(
        json.lines().join(" ").starts_with("{   \"fine\": true,"),
        "{json}"
    );
}

#[test]
fn doctor_says_what_is_wrong() {
    let home = Home::new();
    let mut command = home.command(["doctor"]);
    let finished = Running::start(command.env("MSB_KERNEL", "/no/such/kernel")).finish();
    assert_eq!(finished.code(), 1, "{finished}");
    let text = finished.text();
    let line = text
        .lines()
        .find(|line| line.starts_with("FAIL kernel: "))
        .unwrap();
    assert!(line.contains("/no/such/kernel"), "{finished}");
    assert!(text.contains("hint: "), "{finished}");
}

#[test]
fn version_names_the_protocol_too() {
    let home = Home::new();
    let finished = home.msb(["version"]);
    let [line] = *finished.lines() else {
        panic!("{finished}")
    };
    assert!(
        line.starts_with("msb 0.") && line.contains("protocol"),
        "{line}"
    );
    let finished = home.msb(["version", "--format", "json"]);
    assert!(finished.text().contains("\"protocol\": "), "{finished}");
    assert!(home.msb(["--version"]).lines()[0].starts_with("msb "));
}

#[test]
fn completion_is_a_script_of_the_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let finished = home.msb(["completion", shell]);
        assert!(finished.lines().len() > 50, "{shell}: {finished}");
        assert!(finished.text().contains("root-rw"), "{shell}: {finished}");
    }
    // One of them can be tried anywhere.
    let script = home.path().join("msb.bash");
    fs::write(&script, home.msb(["completion", "bash"]).stdout).unwrap();
    let check = "source \"$0\" && COMP_WORDS=(msb run --root-u) COMP_CWORD=2 && _msb msb --root-u run && echo ${COMPREPLY[@]}";
    let mut bash = Command::new("bash");
    bash.args(["-c", check]).arg(script);
    assert_eq!(
        Running::start(piped(&mut bash)).finish().lines(),
        ["--root-upper"]
    );
    // Names come from `msb ls`, and are never carried out.
    let programs = home.folder("fake");
    fs::write(
        programs.join("msb"),
        "#!/bin/sh
        case $* in
        'ls -q') echo web; echo 'w$(touch x)'; echo db ;;
        'image ls -q') echo debian:latest ;;
        'snapshot ls -q') echo base ;;
        'volume ls -q') echo data ;;
        esac\n",
    )
    .unwrap();
    fs::set_permissions(programs.join("msb"), fs::Permissions::from_mode(0o755)).unwrap();
    let check = "source \"$0\" && COMP_WORDS=(msb stop w) COMP_CWORD=2 && _msb_with_names msb w stop && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", check]).arg(home.path().join("msb.bash"));
    bash.current_dir(&programs)
        .env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
    let finished = Running::start(piped(&mut bash)).finish();
    assert_eq!(finished.lines(), ["web", "w\\$\\(touch\\ x\\)"]);
    assert!(!programs.join("x").exists());
    for (words, expected) in [
        ("run de", "debian:latest"),
        ("run -v da", "data"),
        ("create --from-snapshot b", "base"),
        ("image rm d", "debian:latest"),
        ("volume rm d", "data"),
        ("snapshot save b", "base"),
        ("snapshot create new --from d", "db"),
        ("commit w", "web w\\$\\(touch\\ x\\)"),
        ("run debian -- de", ""),
        ("image d", ""),
    ] {
        let count = words.split(' ').count();
        let check = format!(
            "source \"$0\" && _msb() {{ COMPREPLY=(); }} && COMP_WORDS=(msb {words}) COMP_CWORD={count} \
             && _msb_with_names && echo \"${{COMPREPLY[*]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &check]).arg(home.path().join("msb.bash"));
        bash.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        let finished = Running::start(piped(&mut bash)).finish();
        assert_eq!(finished.text().trim_end(), expected, "{words}: {finished}");
    }
}

#[test]
fn help_describes_every_command_with_examples() {
    let home = Home::new();
    let help = home.msb(["--help"]);
    for command in [
        "run",
        "create",
        "start",
        "stop",
        "kill",
        "restart",
        "pause",
        "unpause",
        "drain",
        "wait",
        "rm",
        "prune",
        "ls",
        "ps",
        "inspect",
        "exec",
        "attach",
        "shell",
        "logs",
        "stats",
        "metrics",
        "events",
        "cp",
        "commit",
        "pull",
        "login",
        "registry",
        "image",
        "vm",
        "volume",
        "snapshot",
        "disk",
        "doctor",
        "version",
        "completion",
    ] {
        assert!(help.text().contains(command), "{help}");
        let finished = home.msb([command, "--help"]);
        assert!(finished.lines().len() > 5, "{finished}");
        assert!(finished.text().contains("Examples:"), "{finished}");
    }
    // No arguments at all are a question, too.
    assert_eq!(home.msb([""; 0]).text(), help.text());
    assert_eq!(home.msb(["no-such-command"]).code(), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let finished = Running::start(home.command(["run", "--help"]).stdout(writer)).finish();
    assert_eq!((finished.code(), finished.errors()), (0, ""));
}

#[test]
fn wrong_values_are_named_before_anything_starts() {
    let home = Home::new();
    let root = product::busybox();
    for (option, value, named) in [
        ("--cpus", "0", "cpus"),
        ("--cpus", "33", "cpus"),
        ("--memory", "63M", "63 MiB"),
        ("--memory", "65G", "65 GiB"),
        ("--memory", "much", "much"),
        ("--timeout", "soon", "soon"),
        ("--env", "=value", "env"),
        ("--workdir", "relative", "relative"),
        ("--name", "a/b", "a/b"),
        ("--hostname", "under_score", "under_score"),
        ("--rlimit", "files=1", "files"),
        ("--volume", "/tmp", "volume"),
        ("--volume", "/tmp:data", "data"),
        ("--volume", "/tmp:/data:rx", "rx"),
        ("--volume", "/no/such/folder:/data", "/no/such/folder"),
        ("--mount-dir", "/etc/passwd:/data", "/etc/passwd"),
        ("--mount-file", "/etc:/data", "/etc"),
        (
            "--mount-disk",
            "/no/such/disk.img:/data",
            "/no/such/disk.img",
        ),
        ("--mount-named", "x:/data:kind=tape", "tape"),
        ("--root-format", "iso", "iso"),
        ("--fstype", "../ext4", "ext4"),
        ("--root-partition", "0", "0"),
        ("--root-upper", "0", "0"),
        ("--tmpfs", "/data:0", "tmpfs"),
        ("--tmpfs", "/", "tmpfs"),
        ("--kernel", "/no/such/kernel", "/no/such/kernel"),
        ("--initramfs", "/no/such/initramfs", "/no/such/initramfs"),
        ("--console", "/no/such/folder/log", "/no/such/folder/log"),
        ("--log-level", "loud", "loud"),
        ("--init", "sbin/init", "sbin/init"),
        ("--init-arg", "x", "--init"),
        ("--script", "no-body", "NAME=BODY"),
        ("--script", "a/b=true", "a/b"),
        ("--script-path", "x:/no/such/script", "/no/such/script"),
        ("--shell", "bash", "bash"),
        ("--security", "loose", "loose"),
        ("--max-duration", "0", "duration"),
        ("--idle-timeout", "soon", "soon"),
        ("--no-such-option", "", "no-such-option"),
    ] {
        let finished = home
            .guest(&root)
            .with([format!("{option}={value}")])
            .run(["true"]);
        assert_eq!(finished.code(), 125, "{option} {value}: {finished}");
        assert!(
            finished.errors().starts_with("error: "),
            "{option} {value}: {finished}"
        );
        assert!(
            finished.errors().contains(named),
            "{option} {value}: {finished}"
        );
    }
    assert!(!home.msb_home().join("run").exists(), "nothing was started");
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let home = Home::new();
    let run = |options: &[&str]| home.busybox().with(options).run(["true"]);
    for options in [
        ["--tty", "--no-tty"],
        ["--quiet", "--log-level=info"],
        ["--root-ro", "--root-rw"],
        ["--root-ro", "--root-upper=tmpfs"],
    ] {
        let finished = run(&options);
        assert_eq!(finished.code(), 125, "{finished}");
        assert!(
            finished.errors().contains("cannot be used with"),
            "{finished}"
        );
    }
    run(&["--tmpfs=/data", "--volume=/tmp:/data/."]).assert_error(125, "/data");
}

#[test]
fn a_home_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let run = home.msb_home().join("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
    home.busybox()
        .run(["true"])
        .assert_error(125, "others may write");
    fs::remove_dir(&run).unwrap();
    fs::write(&run, "a file").unwrap();
    home.busybox().run(["true"]).assert_error(125, "run");
    fs::remove_file(&run).unwrap();
    // And none at all.
    let mut command = home.busybox().shell_command("true");
    command
        .env_remove("MSB_HOME")
        .env_remove("HOME")
        .stdin(Stdio::null());
    Running::start(&mut command)
        .finish()
        .assert_error(125, "MSB_HOME");
}
