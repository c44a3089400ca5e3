//! Sessions with real processes: the server runs in a process and a pid namespace of its own, as
//! in a guest, and the tests are its clients over Unix sockets. All of this needs root; others
//! skip it, and hear so.

mod control;
mod files;
mod handing_over;
mod hostile;
mod launching;
mod mounting;
mod patching;
mod restricted;
mod stopping;
mod streams;
mod terminals;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use protocol::{
    Bytes, Exec, Exit, ExitStatus, Failure, FrameReader, FrameWriter, GuestMessage, Hello,
    HostMessage, INITIAL_STDIN_CREDIT, Init, MAX_DATA, TerminalSize,
};
use tempfile::TempDir;

use crate::boot;
use crate::connection::Connection;
use crate::devices::Devices;
use crate::gauges::Gauges;
use crate::poller::set_nonblocking;
use crate::profile::Profile;
use crate::server::Server;
use crate::{init, shutdown};

/// A client that hears nothing for so long has failed its test.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether these tests can be run; says so, past the capture of the test harness, if not.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(std::io::stderr(), "{test} needs root and is skipped");
    }
    is_root
}

/// A running server.
struct Guest {
    pid: Pid,
    control: Option<UnixStream>,
    folder: TempDir,
}

impl Guest {
    /// `None` if there are not the privileges for it.
    fn start() -> Option<Self> {
        Self::start_with(Profile::default(), None)
    }

    /// One whose sessions have this profile, and whose PID 1 becomes `init`.
    fn start_with(profile: Profile, init: Option<Init>) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("sock")).unwrap();
        let (control, guest_control) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let serve = |control, listener| serve(control, listener, profile, init);
        let pid = in_new_pid_namespace(guest_control.into(), listener.into(), serve);
        Some(Self {
            pid,
            control: Some(control),
            folder,
        })
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that has not said anything yet.
    fn stranger(&self) -> Client {
        let stream = self.connect();
        Client {
            stream: stream.try_clone().unwrap(),
            reader: FrameReader::new(stream.try_clone().unwrap()),
            writer: FrameWriter::new(stream),
            credit: INITIAL_STDIN_CREDIT as usize,
        }
    }

    fn exec(&self, exec: Exec) -> Client {
        let mut client = self.stranger();
        client.say(HostMessage::Hello(Hello::current("test")));
        client.say(HostMessage::Exec(Box::new(exec)));
        client
    }

    /// Runs a line of shell to its end.
    fn shell(&self, line: &str) -> Outcome {
        self.exec(shell(line)).outcome()
    }

    /// Whether the server still does its work.
    fn assert_alive(&self) {
        let outcome = self.shell("echo alive");
        assert_eq!((outcome.text(), outcome.code()), ("alive\n", 0));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Runs `body` in a child that is PID 1 of a new namespace, and not a thread of the test. It gets
/// the two descriptors and no others: those of other tests have to close when they say so.
fn in_new_pid_namespace(a: OwnedFd, b: OwnedFd, body: impl FnOnce(OwnedFd, OwnedFd)) -> Pid {
    let own = File::open("/proc/self/ns/pid").unwrap();
    unshare(CloneFlags::CLONE_NEWPID).unwrap();
    // SAFETY: the C library lets a child of a threaded program allocate, and `body` needs no other
    // lock that another test could hold.
    let fork = unsafe { fork() }.unwrap();
    if let ForkResult::Parent { child } = fork {
        setns(own, CloneFlags::CLONE_NEWPID).unwrap();
        return child;
    }
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let (low, high) = (
        a.as_raw_fd().min(b.as_raw_fd()),
        a.as_raw_fd().max(b.as_raw_fd()),
    );
    for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
        // SAFETY: the child uses none of these, and _exit(2) drops nothing.
        unsafe { libc::close_range(first.cast_unsigned(), last.cast_unsigned(), 0) };
    }
    body(a, b);
    // SAFETY: _exit(2) ends the child at once, without the test harness's farewell.
    unsafe { libc::_exit(0) }
}

fn serve(control: OwnedFd, listener: OwnedFd, profile: Profile, init: Option<Init>) {
    set_nonblocking(&control).unwrap();
    set_nonblocking(&listener).unwrap();
    for fd in [&control, &listener] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    if let Some(init) = &init
        && let Err(failure) = init::hand_over(init, profile)
    {
        let mut control = Connection::new(control);
        return shutdown::say_last(&mut control, &GuestMessage::Failed(failure));
    }
    let guest = boot::Guest {
        devices: Devices::open().unwrap(),
        gauges: Gauges::open(None).unwrap(),
        profile,
        has_init: init.is_some(),
    };
    let server = Server::new(Connection::new(control), listener, guest).unwrap();
    if let Some(mut control) = server.run().unwrap().0 {
        shutdown::say_last(&mut control, &GuestMessage::Goodbye);
    }
}

/// A client of the server.
struct Client {
    stream: UnixStream,
    reader: FrameReader<UnixStream>,
    writer: FrameWriter<UnixStream>,
    credit: usize,
}

/// A message that does not borrow.
#[derive(Debug, PartialEq)]
enum Heard {
    Started(u32),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    StdinClosed,
    Exited(Exit),
    Failed(Failure),
    End,
}

/// All that a client heard.
#[derive(Debug, Default)]
struct Outcome {
    started: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    stdin_closed: bool,
    exit: Option<Exit>,
    failure: Option<Failure>,
}

impl Client {
    fn say(&mut self, message: HostMessage) {
        self.writer.write(&message).unwrap();
    }

    /// The next message, without greetings and credit.
    fn hear(&mut self) -> Heard {
        loop {
            return match self.reader.read().unwrap() {
                None => Heard::End,
                Some(GuestMessage::Hello(hello)) => {
                    hello.check().unwrap();
                    continue;
                }
                Some(GuestMessage::StdinCredit(more)) => {
                    self.credit += more as usize;
                    continue;
                }
                Some(GuestMessage::Started(started)) => Heard::Started(started.pid),
                Some(GuestMessage::Stdout(data)) => Heard::Stdout(data.to_vec()),
                Some(GuestMessage::Stderr(data)) => Heard::Stderr(data.to_vec()),
                Some(GuestMessage::StdinClosed) => Heard::StdinClosed,
                Some(GuestMessage::Exited(exit)) => Heard::Exited(exit),
                Some(GuestMessage::Failed(failure)) => Heard::Failed(failure),
                Some(other) => panic!("{other:?}"),
            };
        }
    }

    fn started(&mut self) -> u32 {
        match self.hear() {
            Heard::Started(pid) => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Hears output until it ends with `text`; returns all of it.
    fn hear_until(&mut self, text: &str) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(text.as_bytes()) {
            match self.hear() {
                Heard::Stdout(data) => heard.extend(data),
                Heard::Started(_) => {}
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&heard)),
            }
        }
        String::from_utf8(heard).unwrap()
    }

    fn fail(&mut self) -> Failure {
        loop {
            match self.hear() {
                Heard::Failed(failure) => return failure,
                Heard::Exited(exit) => panic!("{exit:?}"),
                Heard::End => panic!("the connection ended"),
                _ => {}
            }
        }
    }

    fn outcome(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            assert!(
                outcome.exit.is_none() && outcome.failure.is_none() || {
                    assert_eq!(self.hear(), Heard::End, "something after the last frame");
                    return outcome;
                }
            );
            match self.hear() {
                Heard::Started(_) => outcome.started = true,
                Heard::Stdout(data) => outcome.stdout.extend(data),
                Heard::Stderr(data) => outcome.stderr.extend(data),
                Heard::StdinClosed => outcome.stdin_closed = true,
                Heard::Exited(exit) => outcome.exit = Some(exit),
                Heard::Failed(failure) => outcome.failure = Some(failure),
                Heard::End => panic!("no last frame: {outcome:?}"),
            }
        }
    }
}

impl Outcome {
    fn text(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }

    fn code(&self) -> u8 {
        match self
            .exit
            .unwrap_or_else(|| panic!("{:?}", self.failure))
            .status
        {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => panic!("signal {signal}"),
        }
    }

    fn signal(&self) -> u8 {
        match self
            .exit
            .unwrap_or_else(|| panic!("{:?}", self.failure))
            .status
        {
            ExitStatus::Signal(signal) => signal,
            ExitStatus::Code(code) => panic!("code {code}"),
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn exec(args: &[&str]) -> Exec {
    Exec {
        args: args.iter().copied().map(bytes).collect(),
        env: vec![],
        cwd: None,
        user: None,
        rlimits: vec![],
        terminal: None,
        stdin: false,
        timeout_ms: None,
        stop_signal: None,
    }
}

fn shell(line: &str) -> Exec {
    exec(&["sh", "-c", line])
}

/// Writes an executable script and returns its path.
fn script(folder: &TempDir, name: &str, mode: u32, content: &str) -> String {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.path().join(name);
    let options = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path);
    options.unwrap().write_all(content.as_bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}
