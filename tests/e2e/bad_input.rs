//! Input that is wrong: one error says what and what to do, the exit status is 125 unless the command is at fault, and nothing is left.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use msb_tests::client::{frame, shell};
use msb_tests::{Client, Home, Running, product};
use nix::sys::resource::{Resource, setrlimit};
use protocol::{Bytes, Exec, ExitStatus, Hello, HostMessage, MAX_MESSAGE, Stage, VERSION};

const MIB: usize = 1024 * 1024;

/// Copies the beginning of a file into `directory`.
fn beginning(file: &Path, length: usize, directory: &Path) -> PathBuf {
    let bytes = fs::read(file).unwrap();
    assert!(bytes.len() > length, "{} is too short", file.display());
    let name = format!("{}-{length}", file.file_name().unwrap().display());
    let path = directory.join(name);
    fs::write(&path, &bytes[..length]).unwrap();
    path
}

/// Makes a folder that nobody but root can read.
fn unreadable_folder(home: &Home) -> PathBuf {
    let folder = home.folder("unreadable");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
    folder
}

#[test]
fn a_root_that_is_none_is_named() {
    let home = Home::of_ordinary_user();
    let run = |root: &Path| home.guest(root).run(["true"]);
    run(Path::new("/no/such/root")).assert_error(125, "/no/such/root");
    run(Path::new("/etc/passwd")).assert_error(125, "does not tell the format of a disk image");
    run(Path::new("/dev/null")).assert_error(125, "neither a file nor a block device");
    run(&unreadable_folder(&home)).assert_error(125, "permission denied");
    let none = home.msb(["run"]);
    assert_eq!(none.code(), 125, "{none}");
    assert!(none.errors().contains("<ROOT>"), "{none}");
    // A folder is a root, whatever is in it; it is the command that is missing.
    let empty = home.folder("empty");
    run(&empty).assert_error(127, "true is in no directory of PATH");
    home.guest(&empty)
        .run([""; 0])
        .assert_error(127, "/bin/sh does not exist");
}

#[test]
fn a_kernel_that_is_none_is_named() {
    let home = Home::new();
    let place = home.folder("kernels");
    let write = |name: &str, contents: &[u8]| {
        let path = place.join(name);
        fs::write(&path, contents).unwrap();
        path
    };
    let vmlinux = fs::read(product::kernel()).unwrap();
    // e_machine and EI_CLASS of the ELF header, see elf(5).
    let (mut arm, mut narrow) = (vmlinux[..4096].to_vec(), vmlinux[..4096].to_vec());
    arm[18..20].copy_from_slice(&183u16.to_le_bytes());
    narrow[4] = 1;
    let bz_image = product::bz_image();
    for (kernel, why) in [
        (write("empty", b""), "neither an ELF vmlinux nor a bzImage"),
        (
            write("text", &b"not a kernel\n".repeat(10_000)),
            "neither an ELF vmlinux nor a bzImage",
        ),
        (product::busybox().join("bin/busybox"), "kernel"),
        (write("arm", &arm), "another architecture"),
        (write("narrow", &narrow), "not 64-bit"),
        (beginning(&product::kernel(), 60, &place), "cut short"),
        (beginning(&product::kernel(), 5 * MIB, &place), "cut short"),
        (beginning(&bz_image, 600, &place), "cut short"),
        (beginning(&bz_image, MIB / 2, &place), "cut short"),
        (place.clone(), "it is a directory"),
    ] {
        let options = ["--kernel".as_ref(), kernel.as_os_str()];
        let finished = home.busybox().with(options).run(["true"]);
        finished.assert_error(125, why);
    }
    let huge = place.join("huge");
    fs::File::create(&huge).unwrap().set_len(1 << 30).unwrap();
    for (initramfs, why) in [
        (place.join("empty"), "the initramfs is empty"),
        (huge, "an initramfs of 1073741824 bytes does not fit"),
    ] {
        let options = ["--initramfs".as_ref(), initramfs.as_os_str()];
        let finished = home.busybox().with(options).run(["true"]);
        finished.assert_error(125, why);
    }
    // Not even the kernel can tell what this is until it runs.
    let text = place.join("text");
    let options = ["--initramfs".as_ref(), text.as_os_str()];
    let finished = home.busybox().with(options).run(["true"]);
    finished.assert_error(
        125,
        "the guest ended before it was ready: its kernel panicked",
    );
    finished.assert_error(125, "Initramfs unpacking failed");
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    let home = Home::new();
    let refused = |option: &str, what: &str| {
        let finished = home.busybox().with([option]).run(["true"]);
        finished.assert_error(125, what);
    };
    refused("--memory=0", "a size of 0 holds nothing");
    refused("--memory=1", "a guest cannot have 1 MiB of memory");
    refused("--memory=63M", "give --memory 64M to 64G");
    refused("--memory=1T", "give --memory 64M to 64G");
    refused("--memory=99999999999999999999", "too large");
    // Memory is taken as it is used, but a guest believes that it has what it was given.
    let host = memory_of_this_machine() >> 20;
    if host < 64 << 10 {
        refused(
            &format!("--memory={}M", host + 1),
            "more than this machine has",
        );
        refused(
            &format!("--memory={}M", host + 1),
            &format!("give --memory at most {host}M"),
        );
    }
    refused("--cpus=0", "0 is not in 1..=32");
    refused("--cpus=1000", "1000 is not in 1..=32");
    assert!(!home.msb_home().join("run").exists(), "nothing was started");
}

#[test]
fn a_machine_without_an_agent_is_checked_as_well() {
    let home = Home::new();
    let kernel = product::kernel();
    let refused = |options: &[&str], what: &str| {
        let mut command = home.command(["vm".as_ref(), "--kernel".as_ref(), kernel.as_os_str()]);
        let finished = Running::start(command.args(options)).finish();
        finished.assert_error(125, what);
    };
    refused(&["--memory=0"], "a size of 0 holds nothing");
    refused(&["--memory=1T"], "give --memory 64M to 64G");
    refused(&["--cpus=1000"], "1000 is not in 1..=32");
    refused(&["--initramfs=/no/such/file"], "/no/such/file");
    refused(&["--share=/no/such/folder"], "/no/such/folder");
    refused(&["--console=/no/such/folder/log"], "/no/such/folder/log");
    let finished = home.msb(["vm", "--kernel=/etc/passwd"]);
    finished.assert_error(125, "neither an ELF vmlinux nor a bzImage");
    let finished = home.msb(["vm", "--kernel=/no/such/kernel"]);
    finished.assert_error(125, "/no/such/kernel");
}

/// MemTotal of /proc/meminfo in bytes.
fn memory_of_this_machine() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn volumes_that_make_no_sense_are_refused() {
    let home = Home::of_ordinary_user();
    let unreadable = unreadable_folder(&home);
    let unreadable = format!("--volume={}:/data", unreadable.display());
    let many: Vec<_> = (0..65).map(|n| format!("--volume=/tmp:/v{n}")).collect();
    let root = home.folder("root");
    let refused = |options: &[&str], what: &str| {
        let finished = home.guest(&root).with(options).run(["true"]);
        finished.assert_error(125, what);
    };
    refused(&["-v", "/tmp"], "a mount is SOURCE:TARGET[:OPTIONS]");
    refused(&["-v", ":/data"], "missing before the colon");
    refused(&["-v", "/no/such/folder:/data"], "/no/such/folder");
    refused(&["--mount-dir=/etc/passwd:/data"], "it is a file");
    refused(&["--mount-file=/etc:/data"], "it is a folder");
    refused(&["-v", "/dev/null:/data"], "neither a folder nor");
    refused(&["-v", "/tmp:/data,ro"], "did you mean \"/tmp:/data:ro\"?");
    refused(&["-v", "/tmp:/data:suid"], "is refused");
    refused(&["-v", "/tmp:/data:ro,ro"], "there twice");
    refused(&["-v", ".hidden:/data"], "begins with a dot");
    refused(
        &["--mount-disk=/etc/passwd:/data"],
        "does not tell the format",
    );
    refused(&[&unreadable], "permission denied");
    refused(&["-v", "/tmp:data"], "\"data\", does not begin with /");
    refused(&["-v", "/tmp:/a/../b"], "contains ..");
    refused(&["-v", "/tmp:/"], "nothing can be mounted at /");
    refused(&["-v", "/tmp:/./"], "nothing can be mounted at /");
    refused(
        &["-v", "/tmp:/data:rx"],
        "the option \"rx\" is unknown here",
    );
    let twice = ["-v", "/tmp:/data", "-v", "/etc:/data/"];
    refused(&twice, "two mounts have the target /data");
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    refused(&many, "a guest cannot have 65 mounts");
    assert!(!home.msb_home().join("run").exists(), "nothing was started");
}

#[test]
fn names_have_128_bytes_at_most_and_no_slash() {
    let home = Home::new();
    let run = |name: &str| home.busybox().with(["--name", name]).run(["hostname"]);
    for (name, why) in [
        ("x".repeat(129), "129 bytes is longer than 128"),
        ("\u{fc}".repeat(65), "130 bytes is longer than 128"),
        ("a/b".to_owned(), "contains '/'"),
        ("/".to_owned(), "contains '/'"),
        ("..".to_owned(), "cannot be a name"),
        (".".to_owned(), "cannot be a name"),
        ("a\nb".to_owned(), "contains '\\n'"),
    ] {
        run(&name).assert_error(125, why);
    }
    assert!(!home.msb_home().join("run").exists(), "nothing was started");
    // Of the longest name a host name has as much as fits. Names that differ in their case only are two.
    for name in ["x", "X"] {
        assert_eq!(run(&name.repeat(128)).lines(), [name.repeat(64)]);
    }
    let long = "\u{fc}".repeat(64);
    assert_eq!(run(&long).code(), 0);
    let listed = home.msb(["ps", "-aq"]);
    for name in ["x".repeat(128), "X".repeat(128), long] {
        assert!(listed.lines().contains(&&*name), "{listed}");
    }
}

#[test]
fn users_and_directories_that_are_not_there_are_named() {
    let home = Home::new();
    let refused = |options: &[&str], what: &str| {
        let finished = home.busybox().with(options).run(["true"]);
        finished.assert_error(125, what);
    };
    refused(&["--user=nobody:here:now"], "neither USER nor USER:GROUP");
    // Of a name that comes from elsewhere nothing gets to the terminal but text.
    refused(&["--user=a\nb\x1b[2J"], "no user `a b [2J`");
    refused(&["--workdir=/etc/passwd"], "/etc/passwd");
    refused(&["--user=user", "--workdir=/root"], "permission denied");
}

#[test]
fn newlines_and_large_environments_arrive() {
    let home = Home::new();
    let value = "x".repeat(100_000);
    let large = (0..10).map(|n| format!("--env=LARGE{n}={value}"));
    let guest = home.busybox().with(["--env=A=one\ntwo"]);
    let script = "printf %s \"$A\" | xxd -p; env | grep -c '^LARGE.=x*$'
        printf %s \"$1\" | xxd -p; echo $(($(env | wc -c) > 1000000))";
    let finished = guest
        .with(large)
        .run(["sh", "-c", script, "sh", "new\nline\n"]);
    assert_eq!(
        finished.lines(),
        ["6f6e650a74776f", "10", "6e65770a6c696e650a", "1"]
    );
}

#[test]
fn two_mebibytes_of_environment_are_refused_at_once() {
    let home = Home::new();
    let value = "x".repeat(MIB / 16);
    let mut command = home.busybox().shell_command("true");
    for number in 0..32 {
        command.env(format!("LARGE{number}"), &value);
    }
    // Linux takes a quarter of the stack's limit for arguments and environment, see execve(2).
    let raise = || Ok(setrlimit(Resource::RLIMIT_STACK, 64 << 20, 64 << 20)?);
    // SAFETY: setrlimit(2) is a system call that neither allocates nor locks.
    unsafe { command.pre_exec(raise) };
    // It is the guest's environment that is meant, not that of msb: the same with and without.
    assert_eq!(Running::start(&mut command).finish().code(), 0);

    let options = (0..32).map(|number| format!("--env=LARGE{number}={value}"));
    let mut command = home.busybox().with(options).shell_command("true");
    // SAFETY: as above.
    unsafe { command.pre_exec(raise) };
    let run = home.msb_home().join("run");
    fs::remove_dir_all(&run).unwrap();
    let finished = Running::start(&mut command).finish();
    finished.assert_error(125, "the command and its environment are too long");
    finished.assert_error(125, "1 MiB together");
    assert!(!run.exists(), "nothing was started");
}

/// A frame with a length of its own choice.
fn framed(length: u32, body: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), body].concat()
}

#[test]
fn frames_that_make_no_sense_end_their_own_session_only() {
    let home = Home::new();
    let mut guest = home
        .busybox()
        .start("echo ready; while read line; do echo got $line; done");
    guest.stdout.wait_for("ready\n");
    let hello = || Hello::current("test");
    let greeting = frame(&HostMessage::Hello(hello()));
    let request = frame(&HostMessage::Exec(Box::new(shell("sleep 1000"))));
    let versions = format!("version 77, this side {VERSION}");
    let future = HostMessage::Hello(Hello {
        version: 77,
        ..hello()
    });
    let stranger = HostMessage::Hello(Hello {
        magic: *b"HTTP",
        ..hello()
    });
    let noise: Vec<u8> = (0..4096u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let largest = u32::try_from(MAX_MESSAGE).unwrap();
    for (what, bytes, said) in [
        ("noise", noise.clone(), ""),
        ("noise in a frame", framed(4096, &noise), ""),
        (
            "4 GiB",
            framed(u32::MAX, &noise),
            "A frame exceeds 1048576 bytes",
        ),
        (
            "4 GiB behind a greeting",
            [&greeting[..], &framed(u32::MAX, b"")].concat(),
            "A frame exceeds 1048576 bytes",
        ),
        (
            "one too long",
            framed(largest + 1, &noise),
            "A frame exceeds 1048576 bytes",
        ),
        ("nothing", framed(0, b""), "A frame holds no known message"),
        (
            "more than a message",
            framed(2, &[4, 0]),
            "A frame holds 1 bytes after its message",
        ),
        ("the future", frame(&future), &*versions),
        (
            "a stranger",
            frame(&stranger),
            "does not speak the msb protocol",
        ),
        (
            "no greeting",
            request.clone(),
            "begins with Hello, and Exec or Files",
        ),
        (
            "two requests",
            [&greeting[..], &request, &request].concat(),
            "takes Stdin",
        ),
        (
            "a boot message",
            [&greeting[..], &framed(7, &[1, 0, 0, 0, 0, 0, 0])].concat(),
            "",
        ),
    ] {
        let mut client = Client::connect(&home);
        client.send(&bytes);
        let answers = client.answers();
        assert!(answers.greeted, "{what}: {answers:?}");
        let failure = answers
            .failed
            .unwrap_or_else(|| panic!("{what} is answered by nothing"));
        assert_eq!(failure.stage, Stage::Protocol, "{what}: {failure:?}");
        assert!(failure.message.contains(said), "{what}: {failure:?}");
    }
    // Those that are cut in half get no answer: their sender is gone.
    for length in [1, 3, 4, 5, greeting.len() - 1] {
        let mut client = Client::connect(&home);
        client.send(&greeting[..length]);
        client.end();
        let answers = client.answers();
        assert!(answers.failed.is_none(), "{length}: {answers:?}");
    }
    let mut client = Client::connect(&home);
    client.send(&greeting);
    client.send(&request[..request.len() / 2]);
    client.end();
    assert!(client.answers().exited.is_none());
    // Who was there before has noticed nothing, and there is room for others.
    guest.send("a word\n");
    guest.stdout.wait_for("got a word\n");
    let answers = Client::exec(&home, shell("ps | grep -c '[s]leep'; exit 9")).answers();
    assert_eq!(answers.exited, Some(ExitStatus::Code(9)), "{answers:?}");
    assert_eq!(answers.stdout, b"0\n", "processes of sessions that ended");
    assert_eq!(guest.finish().code(), 0);
}

#[test]
fn a_zero_byte_breaks_the_rules() {
    let home = Home::new();
    let guest = home.busybox().start("echo ready; read wait");
    guest.stdout.wait_for("ready\n");
    let bytes = |text: &[u8]| Bytes(text.to_vec());
    let exec = || shell("echo ran");
    for (what, exec) in [
        (
            "an argument",
            Exec {
                args: vec![bytes(b"echo"), bytes(b"a\0b")],
                ..exec()
            },
        ),
        (
            "a value",
            Exec {
                env: vec![(bytes(b"A"), bytes(b"a\0b"))],
                ..exec()
            },
        ),
        (
            "a name",
            Exec {
                env: vec![(bytes(b"A\0B"), bytes(b"b"))],
                ..exec()
            },
        ),
        (
            "a name with =",
            Exec {
                env: vec![(bytes(b"A=B"), bytes(b"b"))],
                ..exec()
            },
        ),
        (
            "a directory",
            Exec {
                cwd: Some(bytes(b"/\0/tmp")),
                ..exec()
            },
        ),
    ] {
        let answers = Client::exec(&home, exec).answers();
        let failure = answers
            .failed
            .unwrap_or_else(|| panic!("{what} was accepted"));
        assert_eq!(failure.stage, Stage::Protocol, "{what}: {failure:?}");
        assert!(answers.stdout.is_empty(), "{what}");
    }
    assert_eq!(guest.finish().code(), 1);
}

#[test]
fn an_ordinary_users_mistakes_are_told_as_such() -> io::Result<()> {
    let home = Home::of_ordinary_user();
    let root = home.folder("root");
    let (kernel, log) = (home.path().join("kernel"), home.path().join("log"));
    for file in [&kernel, &log] {
        fs::write(file, "secret")?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o000))?;
    }
    let run = |option: &str, file: &Path| {
        let options = [option.as_ref(), file.as_os_str()];
        let finished = home.guest(&root).with(options).run(["true"]);
        finished.assert_error(125, &file.display().to_string());
        finished.assert_error(125, "permission denied");
    };
    run("--kernel", &kernel);
    run("--initramfs", &kernel);
    run("--console", &log);
    // A home of somebody else.
    if nix::unistd::geteuid().is_root() {
        let run = home.msb_home().join("run");
        chown(&run, Some(0), Some(0))?;
        let finished = home.guest(&root).run(["true"]);
        finished.assert_error(125, "belongs to another user");
    }
    Ok(())
}
