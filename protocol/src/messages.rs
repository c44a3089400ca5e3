//! Every message, one enum per direction.
//!
//! postcard numbers the variants by their position, so both enums only ever grow at the end.

use serde::{Deserialize, Serialize};

/// Version of this protocol. A peer with another version is refused, never guessed at.
pub const VERSION: u16 = 6;

/// First four bytes of every `Hello`, so that a stranger on the port is recognised at once.
pub const MAGIC: [u8; 4] = *b"msb\0";

/// vsock port on which the host awaits the control connection of `agentd`.
pub const CONTROL_PORT: u32 = 1;

/// vsock port on which `agentd` accepts sessions.
pub const SESSION_PORT: u32 = 1;

/// Bytes of standard input that a client may send before the first [`GuestMessage::StdinCredit`].
pub const INITIAL_STDIN_CREDIT: u32 = 256 * 1024;

/// Largest data in one `Stdin`, `Stdout` or `Stderr` frame, in bytes.
pub const MAX_DATA: usize = 64 * 1024;

/// What the host, or a client of the sandbox, says to `agentd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage<'a> {
    /// First frame of every connection.
    Hello(Hello),
    /// Control connection, once: what to mount and how to name the guest.
    Boot(Box<Boot>),
    /// Session, once: the process to run.
    Exec(Box<Exec>),
    /// Session: bytes for the process's standard input, at most [`MAX_DATA`] and within the credit.
    Stdin(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// Session: the end of standard input.
    StdinEnd,
    /// Session: the terminal has a new size.
    Resize(TerminalSize),
    /// Session: send this signal to the process group.
    Signal(i32),
    /// Control connection: stop every process, unmount, answer `Goodbye`.
    Shutdown(Shutdown),
    /// Session, once, in the place of `Exec`: serve the files beneath a directory, see [`FileRequest`](crate::FileRequest).
    Files(FilesRequest),
    /// Control connection: refuse new sessions, answer `Drained` when those that there are have ended.
    Drain,
    /// Control connection: answer `Measured`.
    Measure,
    /// Control connection: set the wall clock (CLOCK_REALTIME) to this.
    SetClock(ClockTime),
}

/// What `agentd` says to the host or to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage<'a> {
    /// First frame of every connection.
    Hello(Hello),
    /// Control connection: the boot message is carried out, sessions are accepted.
    Ready(Ready),
    /// The boot message or the session's request could not be carried out.
    Failed(Failure),
    /// Session: the process runs.
    Started(Started),
    /// Session: bytes of standard output, or of the terminal. At most [`MAX_DATA`].
    Stdout(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// Session: bytes of standard error. At most [`MAX_DATA`].
    Stderr(#[serde(borrow, with = "serde_bytes")] &'a [u8]),
    /// Session: so many more bytes of standard input may be sent.
    StdinCredit(u32),
    /// Session: the process closed its standard input; what is sent from here on is dropped.
    StdinClosed,
    /// Session, last frame: the process ended and all of its output has been sent.
    Exited(Exit),
    /// Control connection, last frame: everything is stopped, synced and unmounted.
    Goodbye,
    /// Control connection: `Shutdown` was heard and is being carried out. A guest that does not say so hangs.
    Stopping,
    /// Control connection: after `Drain`, the last session has ended.
    Drained,
    /// Control connection: the answer to `Measure`.
    Measured(Measurement),
}

/// Opening of a connection, the same in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// Release of the sender, for messages to people only.
    pub build: String,
}

/// What `agentd` does before the first session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The root file system.
    pub root: Root,
    /// Mounts beneath the root, in any order; `agentd` mounts parents first.
    pub mounts: Vec<Mount>,
    /// Host name of the guest.
    pub hostname: String,
    /// Programs to be made in `/.msb/scripts`, which is then first in the default `PATH`.
    pub scripts: Vec<Script>,
    /// Whether sessions' processes can neither gain privileges nor mount, and user mounts are `nosuid` and `nodev`.
    pub restricted: bool,
    /// The program that becomes PID 1 in the place of `agentd`, which goes on as another process.
    pub init: Option<Init>,
    /// Changes to the root file system, in the order in which they are made. There are none if it is written through.
    pub patches: Vec<Patch>,
}

/// A change to the root file system, before anything is mounted beneath it. Parents that are missing are made, with mode 0755.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// Makes a file with these contents.
    Write {
        /// Absolute path in the guest.
        path: Bytes,
        /// What the file holds.
        contents: Bytes,
        /// Permission bits; `None` is 0644.
        mode: Option<u32>,
        /// Whether what is there is replaced; otherwise it is an error.
        replace: bool,
    },
    /// Appends to a file that is there.
    Append {
        /// Absolute path in the guest.
        path: Bytes,
        /// What is appended.
        contents: Bytes,
    },
    /// Makes a directory, or finds it there.
    MakeDirectory {
        /// Absolute path in the guest.
        path: Bytes,
        /// Permission bits; `None` is 0755 for a new one, and what they are for one that is there.
        mode: Option<u32>,
    },
    /// Removes what is there, with everything in it.
    Remove {
        /// Absolute path in the guest.
        path: Bytes,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Absolute path in the guest.
        path: Bytes,
        /// Where it leads.
        target: Bytes,
        /// Whether what is there is replaced; otherwise it is an error.
        replace: bool,
    },
    /// Copies a file or a tree of files that the host shares.
    Copy {
        /// Tag of the virtio-fs file system.
        tag: String,
        /// Entry of its root directory.
        entry: String,
        /// Absolute path in the guest.
        path: Bytes,
        /// Permission bits of a file; `None` is those of the original.
        mode: Option<u32>,
        /// Whether what is there is replaced; of a directory that a directory is copied into, file by file. Otherwise it is an
        /// error if there is anything at the path.
        replace: bool,
    },
    /// Appends a file that the host shares to one that is there.
    AppendShared {
        /// Tag of the virtio-fs file system.
        tag: String,
        /// Entry of its root directory.
        entry: String,
        /// Absolute path in the guest.
        path: Bytes,
    },
}

/// A program made from text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Its file name.
    pub name: String,
    /// Its contents.
    pub body: Bytes,
}

/// The program that becomes PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Init {
    /// The first of the usual ones that the root file system has: `/sbin/init`, `/lib/systemd/systemd` and others.
    Auto,
    /// This one.
    Program {
        /// Absolute path in the guest.
        path: Bytes,
        /// Arguments after the name of the program itself.
        args: Vec<Bytes>,
        /// Environment besides `PATH` and `HOME`.
        env: Vec<(Bytes, Bytes)>,
    },
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Where it comes from.
    pub source: RootSource,
    /// What becomes of changes.
    pub access: RootAccess,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSource {
    /// A virtio-fs file system.
    Shared {
        /// Its tag.
        tag: String,
    },
    /// A file system on a disk.
    Disk(Disk),
    /// Guest memory, empty at first.
    Memory,
}

/// What becomes of changes to the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAccess {
    /// They are kept in a layer in guest memory.
    Layer {
        /// Limit of the layer in bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
    },
    /// They are written through.
    Writable,
    /// There are none.
    ReadOnly,
    /// They are kept in a layer on a disk, which the next guest with the same disk finds again.
    DiskLayer(Disk),
}

/// A file system on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Serial number of the virtio block device.
    pub serial: String,
    /// Number of the partition; `None` is the only one with a Linux file system, or a disk without partitions.
    pub partition: Option<u32>,
    /// Type of the file system as mount(8) takes it; `None` is what its superblock says.
    pub fstype: Option<String>,
}

/// One mount beneath the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the guest.
    #[serde(with = "serde_bytes")]
    pub target: Vec<u8>,
    /// What is mounted there.
    pub source: MountSource,
    /// What is forbidden there.
    pub options: MountOptions,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A folder or a file of a virtio-fs file system.
    Shared {
        /// Tag of the file system.
        tag: String,
        /// Name in its root directory; `None` is that directory itself.
        entry: Option<String>,
    },
    /// Guest memory.
    Tmpfs {
        /// Limit in bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
        /// Permission bits of its root directory.
        mode: u32,
    },
    /// A file system on a disk.
    Disk(Disk),
}

/// What is forbidden in a mount, see mount(8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountOptions {
    /// Changing anything.
    pub read_only: bool,
    /// Executing programs.
    pub no_exec: bool,
    /// Taking on identities by set-user-ID and set-group-ID bits and file capabilities.
    pub no_suid: bool,
    /// Using device nodes.
    pub no_dev: bool,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; empty for the user's login shell. The program is looked up in `PATH` of `env`.
    pub args: Vec<Bytes>,
    /// Environment, later entries win; `PATH`, `HOME`, `USER` and `TERM` get defaults when absent.
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory; `None` is `/`.
    pub cwd: Option<Bytes>,
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; `None` is root.
    pub user: Option<String>,
    /// Resource limits, see setrlimit(2).
    pub rlimits: Vec<ResourceLimit>,
    /// A terminal of this size instead of three pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether standard input is a pipe from the client; otherwise `/dev/null`. Ignored with a terminal.
    pub stdin: bool,
    /// The process group is killed after so many milliseconds.
    pub timeout_ms: Option<u64>,
    /// The signal that the process, and it alone, gets in the place of SIGTERM when the guest is stopped, 1 to 64. The others
    /// then get theirs when it has ended.
    pub stop_signal: Option<u8>,
}

/// A directory whose files are to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesRequest {
    /// Its absolute path.
    pub directory: Bytes,
}

/// Bytes that need not be UTF-8, without NUL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "serde_bytes")] pub Vec<u8>);

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// `RLIMIT_*` number of Linux on x86_64.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// How to stop the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Milliseconds between SIGTERM and SIGKILL; 0 skips SIGTERM.
    pub grace_ms: u32,
}

/// A moment of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockTime {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds to be added, less than a second.
    pub nanoseconds: u32,
}

/// What the guest says of its resources: hints, since a guest can say anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    /// Bytes of memory that the guest's kernel has: `MemTotal` of proc_meminfo(5).
    pub memory_total: u64,
    /// Bytes that could be used without swapping: `MemAvailable`.
    pub memory_available: u64,
    /// Bytes in use and free in the file system of the root's private layer, if it is on a disk.
    pub upper: Option<(u64, u64)>,
}

/// The guest is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Nanoseconds from the kernel's start (CLOCK_BOOTTIME) to the first line of `agentd`.
    pub kernel_ns: u64,
    /// Nanoseconds from there until the boot message was carried out.
    pub agent_ns: u64,
}

/// The session's process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id in the guest.
    pub pid: u32,
    /// Number of the session in this guest, from 1; none is given twice. 0 in a session that serves files: nobody comes back to
    /// it, and what it sends is nobody's output.
    pub session: u64,
    /// Whether the process has a terminal, so that `Stdout` carries all that it shows.
    pub terminal: bool,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that failed.
    pub stage: Stage,
    /// Linux error number, 0 where none applies.
    pub errno: i32,
    /// One sentence without the error number's text.
    pub message: String,
}

/// Steps of the boot and of a session that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The frame or its order was wrong.
    Protocol,
    /// Mounting the root file system.
    Root,
    /// Mounting beneath the root.
    Mount,
    /// Setting the host name.
    Hostname,
    /// Finding the user or taking on its identity.
    User,
    /// Entering the working directory.
    WorkingDirectory,
    /// Setting a resource limit.
    ResourceLimit,
    /// Opening the terminal or the pipes.
    Stdio,
    /// The program does not exist.
    ProgramNotFound,
    /// The program exists and cannot be executed.
    ProgramNotExecutable,
    /// Making the process.
    Spawn,
    /// Bringing up the loopback interface.
    Network,
    /// No new session is accepted, because the guest drains or shuts down.
    Draining,
    /// Making the scripts.
    Scripts,
    /// Handing PID 1 over.
    Init,
    /// Changing the root file system.
    Patch,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// `agentd` killed it because its time was over.
    pub timed_out: bool,
}

/// Exit code and signal, apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit(3) with this code, 0 to 255.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}
