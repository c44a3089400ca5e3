//! The machine's process as its creator sees it, with this program itself in the place of `msb vm`.
//!
//! Without libtest, because that would not understand the command line of `msb vm`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "roles/ready.rs"]
mod ready;
#[path = "roles/run_tests.rs"]
mod run_tests;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use microsandbox::home::Home;
use microsandbox::launch::{
    Command, Ending, Handover, HostPath, LaunchConfig, Lifetime, MachineProcess, Program, Report,
    Root, RootAccess, RootSource, send_report,
};
use microsandbox::names::Name;
use microsandbox::protocol::FrameReader;
use microsandbox::run_directory::{RunDirectory, RunDirectoryError};
use nix::poll::{PollFd, PollFlags, poll};
use ready::ready;
use run_tests::run_tests;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, vm, option, number] = &arguments[..]
        && vm == "vm"
        && option == "--launch-fd"
    {
        return machine(number.parse().unwrap());
    }
    if let [_, role, home] = &arguments[..]
        && role == "creator"
    {
        return creator(home);
    }
    let tests: [(&str, fn()); 6] = [
        ("an_orderly_life", an_orderly_life),
        ("the_process_inherits_nothing_but_its_own", inherits_its_own),
        ("a_dropped_process_leaves_nothing", dropped),
        ("a_machine_ends_with_its_creator", creator_gone),
        ("a_killed_process_is_told_apart", killed),
        ("the_name_is_free_when_the_process_is_gone", name_is_free),
    ];
    run_tests(&tests);
}

/// What stands for the machine. Says that it is ready; answers every connection with what it knows about itself;
/// ends when it is told to, or when its creator is gone.
fn machine(launch: RawFd) {
    let handover = Handover::receive(launch).unwrap();
    send_report(&handover.reports, &ready()).unwrap();
    let listener = handover.listener.try_clone().unwrap();
    let descriptors = descriptors();
    let name = &handover.config.name;
    let about = format!("{name}\n{descriptors}\n{}", status());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(about.as_bytes()).unwrap();
        }
    });
    let command: Option<Command> = FrameReader::new(&handover.commands).read().unwrap();
    handover.directory.remove(handover.lock).unwrap();
    if let Some(Command::Shutdown { grace_ms }) = command {
        let how = Ending::Clean;
        let console = grace_ms.to_string().into_bytes();
        send_report(&handover.reports, &Report::Ended { how, console }).unwrap();
    }
}

/// The open descriptors of this process beyond the standard streams.
fn descriptors() -> usize {
    // One of them is the directory that is being read.
    fs::read_dir("/proc/self/fd").unwrap().count() - 4
}

fn status() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let command_line = fs::read_to_string("/proc/self/cmdline").unwrap();
    let environment = fs::read_to_string("/proc/self/environ").unwrap();
    let directory = std::env::current_dir().unwrap();
    format!("{command_line:?} {environment:?} {directory:?}\n{status}")
}

struct Fixture {
    _root: tempfile::TempDir,
    home: Home,
}

impl Fixture {
    fn new() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        Fixture { _root: root, home }
    }

    fn start(&self, name: &str) -> MachineProcess {
        start(&self.home, name)
    }

    fn run_directories(&self) -> usize {
        let entries = fs::read_dir(self.home.run()).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    }
}

fn start(home: &Home, name: &str) -> MachineProcess {
    let name: Name = name.parse().unwrap();
    let claim = RunDirectory::claim(home, &name).unwrap();
    let config = LaunchConfig {
        name: name.to_string(),
        vcpus: 1,
        memory: 64 << 20,
        kernel: "/a secret/vmlinux".into(),
        initramfs: "/initramfs".into(),
        extra_command_line: String::new(),
        root: Root {
            source: RootSource::Folder(HostPath("/".into())),
            access: RootAccess::Layer { size: None },
        },
        mounts: Vec::new(),
        allowed: Vec::new(),
        hostname: "box".to_owned(),
        boot_timeout_ms: 1000,
        log_level: "warn".to_owned(),
        scripts: Vec::new(),
        patches: Vec::new(),
        restricted: false,
        init: None,
        lifetime: Lifetime::default(),
        main: None,
        state: None,
        log: None,
    };
    MachineProcess::spawn(&Program::running(), name, claim, config, Vec::new(), None).unwrap()
}

fn next(process: &mut MachineProcess) -> Option<Report> {
    loop {
        if let Some(report) = process.next_report().unwrap() {
            return Some(report);
        }
        if process.has_ended() {
            return None;
        }
        let mut descriptors = [PollFd::new(process.reports(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut descriptors, 10_000_u16).unwrap(), 1, "no report");
    }
}

fn read(mut stream: UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn an_orderly_life() {
    let fixture = Fixture::new();
    let mut process = fixture.start("web");
    // Whoever connects early waits.
    let about = read(process.connect().unwrap());
    assert!(about.starts_with("web\n"), "{about}");
    assert!(matches!(next(&mut process), Some(Report::Ready(_))));
    // Rounded up: a little time must not become none, which would mean SIGKILL at once.
    process.shutdown(Duration::from_micros(122_001));
    let console = b"123".to_vec();
    let how = Ending::Clean;
    assert_eq!(next(&mut process), Some(Report::Ended { how, console }));
    assert_eq!(next(&mut process), None);
    assert!(process.wait().unwrap().success());
    assert_eq!(fixture.run_directories(), 0);
}

fn inherits_its_own() {
    let fixture = Fixture::new();
    // A descriptor without FD_CLOEXEC, as a careless parent leaves it.
    let careless = File::open("/dev/null").unwrap();
    let flags = nix::fcntl::FdFlag::empty();
    nix::fcntl::fcntl(&careless, nix::fcntl::FcntlArg::F_SETFD(flags)).unwrap();
    assert!(careless.as_raw_fd() > 2);

    let process = fixture.start("web");
    let about = read(process.connect().unwrap());
    let mut lines = about.lines().skip(1);
    // Lock, both listeners, reports, commands, and the copy of a listener.
    assert_eq!(lines.next(), Some("6"), "{about}");
    let own = lines.next().unwrap();
    assert!(own.starts_with("\"msb\\0vm\\0--launch-fd\\0"), "{own}");
    assert!(!own.contains("secret"), "{own}");
    assert!(own.ends_with(" \"\" \"/\""), "{own}");
    let status = |key: &str| {
        let line = about.lines().find(|line| line.starts_with(key));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(status("SigBlk:"), "0000000000000000");
    // It leads a session of its own.
    assert_eq!(status("NSsid:"), status("Pid:"));
}

fn dropped() {
    let fixture = Fixture::new();
    let mut process = fixture.start("web");
    assert!(matches!(next(&mut process), Some(Report::Ready(_))));
    drop(process);
    assert_eq!(fixture.run_directories(), 0);
    let error = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    assert_eq!(
        error,
        Err(nix::errno::Errno::ECHILD),
        "nothing is left to reap"
    );
}

fn creator_gone() {
    let fixture = Fixture::new();
    let mut creator = std::process::Command::new("/proc/self/exe")
        .args([OsStr::new("creator"), fixture.home.path().as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    let mut output = creator.stdout.take().unwrap();
    output.read_exact(&mut ready).unwrap();
    let directory = RunDirectory::of(&fixture.home, &"web".parse().unwrap());
    let lock = File::open(directory.path().join("lock")).unwrap();
    assert!(lock.try_lock().is_err());
    creator.kill().unwrap();
    creator.wait().unwrap();
    // Waits for the machine, which holds it as long as it lives.
    lock.lock().unwrap();
    assert_eq!(fixture.run_directories(), 0);
}

/// A creator that waits to be killed.
fn creator(home: &str) {
    let home = Home::at(home);
    let mut process = start(&home, "web");
    assert!(matches!(next(&mut process), Some(Report::Ready(_))));
    // Standard output is line-buffered.
    println!("ready");
    assert_eq!(next(&mut process), None);
}

fn killed() {
    let fixture = Fixture::new();
    let mut process = fixture.start("web");
    assert!(matches!(next(&mut process), Some(Report::Ready(_))));
    process.kill();
    assert_eq!(next(&mut process), None);
    assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL));
    drop(process);
    assert_eq!(fixture.run_directories(), 0);
}

fn name_is_free() {
    let fixture = Fixture::new();
    let name: Name = "web".parse().unwrap();
    let process = fixture.start("web");
    let error = RunDirectory::claim(&fixture.home, &name).unwrap_err();
    assert!(
        matches!(error, RunDirectoryError::NameInUse { .. }),
        "{error:?}"
    );
    drop(process);
    drop(fixture.start("web"));
}
