//! Golden vectors: the bytes of every message, as `docs/protocol.md` prints them.
//!
//! A change of any of these bytes is a change of the protocol and needs a new `VERSION`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use protocol::{
    Boot, Bytes, ClockTime, Disk, Exec, Exit, ExitStatus, Failure, FileAttributes, FileFailure,
    FileKind, FileProblem, FileReply, FileRequest, FileStatus, FilesRequest, FrameReader,
    GuestMessage, Hello, HostMessage, Init, MAGIC, Measurement, Mount, MountOptions, MountSource,
    NodeKind, Patch, Ready, ResourceLimit, Root, RootAccess, RootSource, Script, Shutdown, Stage,
    Started, TerminalSize, TreeNode, VERSION, encode,
};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

#[derive(Debug, PartialEq)]
enum Message {
    Host(HostMessage<'static>),
    Guest(GuestMessage<'static>),
    Request(FileRequest<'static>),
    Reply(FileReply<'static>),
}
use Message::{Guest, Host, Reply, Request};

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn hello() -> Hello {
    Hello {
        magic: MAGIC,
        version: VERSION,
        build: "0.1.0".into(),
    }
}

fn exec() -> Exec {
    Exec {
        args: vec![],
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

fn disk(serial: &str, fstype: Option<&str>) -> Disk {
    Disk {
        serial: serial.into(),
        partition: None,
        fstype: fstype.map(Into::into),
    }
}

fn mounts() -> Vec<Mount> {
    let mount = |target: &str, source, options: [bool; 4]| {
        let [read_only, no_exec, no_suid, no_dev] = options;
        Mount {
            target: target.into(),
            source,
            options: MountOptions {
                read_only,
                no_exec,
                no_suid,
                no_dev,
            },
        }
    };
    let shared = |entry: Option<&str>| MountSource::Shared {
        tag: "share".into(),
        entry: entry.map(Into::into),
    };
    let tmpfs = |size, mode| MountSource::Tmpfs { size, mode };
    vec![
        mount("/data", shared(Some("0")), [true, false, false, false]),
        mount("/f", shared(None), [false, true, true, true]),
        mount(
            "/tmp",
            tmpfs(Some(1024 * 1024), 0o1777),
            [false, false, true, true],
        ),
        mount("/x", tmpfs(None, 0o755), [false; 4]),
        mount(
            "/d",
            MountSource::Disk(disk("disk-1", Some("xfs"))),
            [false; 4],
        ),
    ]
}

fn patches() -> Vec<Patch> {
    vec![
        Patch::Write {
            path: bytes("/a"),
            contents: bytes("hi"),
            mode: Some(0o644),
            replace: true,
        },
        Patch::Append {
            path: bytes("/a"),
            contents: bytes("\n"),
        },
        Patch::MakeDirectory {
            path: bytes("/b"),
            mode: None,
        },
        Patch::Remove { path: bytes("/c") },
        Patch::Symlink {
            path: bytes("/d"),
            target: bytes("a"),
            replace: false,
        },
        Patch::Copy {
            tag: "share".into(),
            entry: "patch-0".into(),
            path: bytes("/e"),
            mode: None,
            replace: true,
        },
    ]
}

fn exited(status: ExitStatus, timed_out: bool) -> Message {
    Guest(GuestMessage::Exited(Exit { status, timed_out }))
}

fn host_vectors() -> Vec<(&'static str, Message, &'static str)> {
    vec![
        (
            "host hello",
            Host(HostMessage::Hello(hello())),
            "0c000000 00 6d736200 05 05 302e312e30",
        ),
        (
            "host boot, layer",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Shared { tag: "root".into() },
                    access: RootAccess::Layer { size: None },
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: vec![],
            }))),
            "12000000 01 00 04 726f6f74 00 00 00 03 626f78 00 00 00 00",
        ),
        (
            "host boot, layer on a disk",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Disk(Disk {
                        serial: "root".into(),
                        partition: Some(2),
                        fstype: None,
                    }),
                    access: RootAccess::Layer {
                        size: Some(1024 * 1024),
                    },
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: vec![],
            }))),
            "18000000 01 01 04 726f6f74 01 02 00 00 01 808040 00 03 626f78 00 00 00 00",
        ),
        (
            "host boot, mounts",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Disk(disk("root", None)),
                    access: RootAccess::ReadOnly,
                },
                mounts: mounts(),
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: vec![],
            }))),
            "66000000 01 01 04 726f6f74 00 00 02 05 \
             05 2f64617461 00 05 7368617265 01 01 30 01 00 00 00 \
             02 2f66 00 05 7368617265 00 00 01 01 01 \
             04 2f746d70 01 01 808040 ff07 00 00 01 01 \
             02 2f78 01 00 ed03 00 00 00 00 \
             02 2f64 02 06 6469736b2d31 00 01 03 786673 00 00 00 00 \
             03 626f78 00 00 00 00",
        ),
        (
            "host boot, writable",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Shared { tag: "root".into() },
                    access: RootAccess::Writable,
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: vec![],
            }))),
            "11000000 01 00 04 726f6f74 01 00 03 626f78 00 00 00 00",
        ),
        (
            "host exec, smallest",
            Host(HostMessage::Exec(Box::new(exec()))),
            "0a000000 02 00 00 00 00 00 00 00 00 00",
        ),
        (
            "host exec, everything",
            Host(HostMessage::Exec(Box::new(Exec {
                args: vec![bytes("ls"), bytes("-l")],
                env: vec![(bytes("A"), bytes("1"))],
                cwd: Some(bytes("/srv")),
                user: Some("1000:100".into()),
                rlimits: vec![ResourceLimit {
                    resource: 7,
                    soft: 1024,
                    hard: u64::MAX,
                }],
                terminal: Some(TerminalSize {
                    rows: 24,
                    columns: 80,
                }),
                stdin: true,
                timeout_ms: Some(1500),
                stop_signal: Some(3),
            }))),
            "34000000 02 02 02 6c73 02 2d6c 01 01 41 01 31 01 04 2f737276 01 08 313030303a313030 \
             01 07 8008 ffffffffffffffffff01 01 18 50 01 01 dc0b 01 03",
        ),
        (
            "host stdin",
            Host(HostMessage::Stdin(b"hi\n")),
            "05000000 03 03 68690a",
        ),
        ("host stdin end", Host(HostMessage::StdinEnd), "01000000 04"),
        (
            "host resize",
            Host(HostMessage::Resize(TerminalSize {
                rows: 50,
                columns: 200,
            })),
            "04000000 05 32 c801",
        ),
        (
            "host signal",
            Host(HostMessage::Signal(15)),
            "02000000 06 1e",
        ),
        (
            "host shutdown",
            Host(HostMessage::Shutdown(Shutdown { grace_ms: 10_000 })),
            "03000000 07 904e",
        ),
        (
            "host boot, memory",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Memory,
                    access: RootAccess::Writable,
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: vec![],
            }))),
            "0c000000 01 02 01 00 03 626f78 00 00 00 00",
        ),
        (
            "host files",
            Host(HostMessage::Files(FilesRequest {
                directory: bytes("/srv"),
            })),
            "06000000 08 04 2f737276",
        ),
        (
            "host boot, scripts and init",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Shared { tag: "root".into() },
                    access: RootAccess::DiskLayer(disk("upper", None)),
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![Script {
                    name: "go".into(),
                    body: bytes("ls"),
                }],
                restricted: true,
                init: Some(Init::Program {
                    path: bytes("/init"),
                    args: vec![bytes("-v")],
                    env: vec![(bytes("A"), bytes("1"))],
                }),
                patches: vec![],
            }))),
            "2f000000 01 00 04 726f6f74 03 05 7570706572 00 00 00 03 626f78 \
             01 02 676f 02 6c73 01 01 01 05 2f696e6974 01 02 2d76 01 01 41 01 31 00",
        ),
        (
            "host boot, patches",
            Host(HostMessage::Boot(Box::new(Boot {
                root: Root {
                    source: RootSource::Disk(disk("root", None)),
                    access: RootAccess::DiskLayer(disk("upper", None)),
                },
                mounts: vec![],
                hostname: "box".into(),
                scripts: vec![],
                restricted: false,
                init: None,
                patches: patches(),
            }))),
            "50000000 01 01 04 726f6f74 00 00 03 05 7570706572 00 00 00 03 626f78 00 00 00 06 \
             00 02 2f61 02 6869 01 a403 01 \
             01 02 2f61 01 0a \
             02 02 2f62 00 \
             03 02 2f63 \
             04 02 2f64 01 61 00 \
             05 05 7368617265 07 70617463682d30 02 2f65 00 01",
        ),
        ("host drain", Host(HostMessage::Drain), "01000000 09"),
        ("host measure", Host(HostMessage::Measure), "01000000 0a"),
        (
            "host set clock",
            Host(HostMessage::SetClock(ClockTime {
                seconds: -1,
                nanoseconds: 300,
            })),
            "04000000 0b 01 ac02",
        ),
    ]
}

fn guest_vectors() -> Vec<(&'static str, Message, &'static str)> {
    vec![
        (
            "guest hello",
            Guest(GuestMessage::Hello(hello())),
            "0c000000 00 6d736200 05 05 302e312e30",
        ),
        (
            "guest ready",
            Guest(GuestMessage::Ready(Ready {
                kernel_ns: 60_000_000,
                agent_ns: 4_000_000,
            })),
            "09000000 01 808ece1c 8092f401",
        ),
        (
            "guest failed",
            Guest(GuestMessage::Failed(Failure {
                stage: Stage::ProgramNotFound,
                errno: 2,
                message: "ls is not in PATH".into(),
            })),
            "15000000 02 08 04 11 6c73206973206e6f7420696e2050415448",
        ),
        (
            "guest started",
            Guest(GuestMessage::Started(Started {
                pid: 300,
                session: 2,
                terminal: true,
            })),
            "05000000 03 ac02 02 01",
        ),
        (
            "guest stdout",
            Guest(GuestMessage::Stdout(b"hi\n")),
            "05000000 04 03 68690a",
        ),
        (
            "guest stderr",
            Guest(GuestMessage::Stderr(b"oh\n")),
            "05000000 05 03 6f680a",
        ),
        (
            "guest stdin credit",
            Guest(GuestMessage::StdinCredit(65_536)),
            "04000000 06 808004",
        ),
        (
            "guest stdin closed",
            Guest(GuestMessage::StdinClosed),
            "01000000 07",
        ),
        (
            "guest exited, code",
            exited(ExitStatus::Code(3), false),
            "04000000 08 00 03 00",
        ),
        (
            "guest exited, time-out",
            exited(ExitStatus::Signal(9), true),
            "04000000 08 01 09 01",
        ),
        ("guest goodbye", Guest(GuestMessage::Goodbye), "01000000 09"),
        (
            "guest stopping",
            Guest(GuestMessage::Stopping),
            "01000000 0a",
        ),
        ("guest drained", Guest(GuestMessage::Drained), "01000000 0b"),
        (
            "guest measured",
            Guest(GuestMessage::Measured(Measurement {
                memory_total: 300,
                memory_available: 200,
                upper: Some((1, 2)),
            })),
            "08000000 0c ac02 c801 01 01 02",
        ),
    ]
}

fn request_vectors() -> Vec<(&'static str, Message, &'static str)> {
    let (a, b) = (|| bytes("a"), || bytes("b"));
    vec![
        (
            "request read",
            Request(FileRequest::Read(a())),
            "03000000 00 01 61",
        ),
        (
            "request write",
            Request(FileRequest::Write(a())),
            "03000000 01 01 61",
        ),
        (
            "request data",
            Request(FileRequest::Data(b"hi\n")),
            "05000000 02 03 68690a",
        ),
        ("request end", Request(FileRequest::End), "01000000 03"),
        (
            "request list",
            Request(FileRequest::List(a())),
            "03000000 04 01 61",
        ),
        (
            "request stat",
            Request(FileRequest::Stat(a())),
            "03000000 05 01 61",
        ),
        (
            "request make directory",
            Request(FileRequest::MakeDirectory(a())),
            "03000000 06 01 61",
        ),
        (
            "request remove",
            Request(FileRequest::Remove(a())),
            "03000000 07 01 61",
        ),
        (
            "request remove file",
            Request(FileRequest::RemoveFile(a())),
            "03000000 08 01 61",
        ),
        (
            "request remove all",
            Request(FileRequest::RemoveAll(a())),
            "03000000 09 01 61",
        ),
        (
            "request copy",
            Request(FileRequest::Copy(a(), b())),
            "05000000 0a 01 61 01 62",
        ),
        (
            "request rename",
            Request(FileRequest::Rename(a(), b())),
            "05000000 0b 01 61 01 62",
        ),
        (
            "request examine",
            Request(FileRequest::Examine(a(), true)),
            "04000000 0c 01 61 01",
        ),
        (
            "request read link",
            Request(FileRequest::ReadLink(a())),
            "03000000 0d 01 61",
        ),
        (
            "request make symlink",
            Request(FileRequest::MakeSymlink(a(), b())),
            "05000000 0e 01 61 01 62",
        ),
        (
            "request set mode",
            Request(FileRequest::SetMode(a(), 0o755)),
            "05000000 0f 01 61 ed03",
        ),
        (
            "request set owner",
            Request(FileRequest::SetOwner(a(), Some(1000), None)),
            "07000000 10 01 61 01 e807 00",
        ),
        (
            "request set times",
            Request(FileRequest::SetTimes(a(), None, Some(before_1970()))),
            "07000000 11 01 61 00 01 01 05",
        ),
        (
            "request read from",
            Request(FileRequest::ReadFrom(a(), 300, 5)),
            "06000000 12 01 61 ac02 05",
        ),
        (
            "request write with mode",
            Request(FileRequest::WriteWithMode(a(), 0o600)),
            "05000000 13 01 61 8003",
        ),
        (
            "request read tree",
            Request(FileRequest::ReadTree(a())),
            "03000000 14 01 61",
        ),
        (
            "request write tree",
            Request(FileRequest::WriteTree(a())),
            "03000000 15 01 61",
        ),
        (
            "request node, file",
            Request(FileRequest::Node(node(NodeKind::File { size: 300 }))),
            "0d000000 16 01 61 ed03 e807 64 01 05 00 ac02",
        ),
        (
            "request hole",
            Request(FileRequest::Hole(300)),
            "03000000 17 ac02",
        ),
        (
            "request read layer",
            Request(FileRequest::ReadLayer(a(), b())),
            "05000000 18 01 61 01 62",
        ),
    ]
}

/// 5 ns after one second before 1970.
fn before_1970() -> ClockTime {
    ClockTime {
        seconds: -1,
        nanoseconds: 5,
    }
}

fn node(kind: NodeKind) -> TreeNode {
    TreeNode {
        path: bytes("a"),
        mode: 0o755,
        uid: 1000,
        gid: 100,
        modified: before_1970(),
        kind,
    }
}

fn node_vectors() -> Vec<(&'static str, Message, &'static str)> {
    let reply = |kind| Reply(FileReply::Node(node(kind)));
    let (major, minor) = (1, 3);
    vec![
        (
            "reply node, directory",
            reply(NodeKind::Directory),
            "0b000000 05 01 61 ed03 e807 64 01 05 01",
        ),
        (
            "reply node, symlink",
            reply(NodeKind::Symlink {
                target: bytes("/b"),
            }),
            "0e000000 05 01 61 ed03 e807 64 01 05 02 02 2f62",
        ),
        (
            "reply node, hard link",
            reply(NodeKind::HardLink { to: bytes("b") }),
            "0d000000 05 01 61 ed03 e807 64 01 05 03 01 62",
        ),
        (
            "reply node, fifo",
            reply(NodeKind::Fifo),
            "0b000000 05 01 61 ed03 e807 64 01 05 04",
        ),
        (
            "reply node, socket",
            reply(NodeKind::Socket),
            "0b000000 05 01 61 ed03 e807 64 01 05 05",
        ),
        (
            "reply node, character device",
            reply(NodeKind::CharacterDevice { major, minor }),
            "0d000000 05 01 61 ed03 e807 64 01 05 06 01 03",
        ),
        (
            "reply node, block device",
            reply(NodeKind::BlockDevice { major, minor }),
            "0d000000 05 01 61 ed03 e807 64 01 05 07 01 03",
        ),
        (
            "reply hole",
            Reply(FileReply::Hole(300)),
            "03000000 06 ac02",
        ),
    ]
}

fn reply_vectors() -> Vec<(&'static str, Message, &'static str)> {
    let failed = |problem| {
        Reply(FileReply::Failed(FileFailure {
            path: bytes("a"),
            problem,
        }))
    };
    vec![
        (
            "reply data",
            Reply(FileReply::Data(b"hi\n")),
            "05000000 00 03 68690a",
        ),
        (
            "reply entry",
            Reply(FileReply::Entry(FileStatus {
                name: bytes("a"),
                kind: FileKind::Directory,
                size: 4096,
                mode: 0o755,
                modified_s: -1,
                modified_ns: 5,
            })),
            "0a000000 01 01 61 01 8020 ed03 01 05",
        ),
        ("reply done", Reply(FileReply::Done), "01000000 02"),
        (
            "reply failed, too many bytes",
            failed(FileProblem::TooManyBytes(300)),
            "06000000 03 01 61 05 ac02",
        ),
        (
            "reply failed, errno",
            failed(FileProblem::Errno(28)),
            "05000000 03 01 61 00 38",
        ),
        (
            "reply attributes",
            Reply(FileReply::Attributes(FileAttributes {
                mode: 0o100_644,
                uid: 1000,
                gid: 100,
                links: 2,
                size: 300,
                allocated: 4096,
                accessed: ClockTime {
                    seconds: 1,
                    nanoseconds: 0,
                },
                modified: before_1970(),
                changed: ClockTime {
                    seconds: 2,
                    nanoseconds: 0,
                },
            })),
            "12000000 04 a48302 e807 64 02 ac02 8020 02 00 01 05 04 00",
        ),
    ]
}

fn vectors() -> Vec<(&'static str, Message, &'static str)> {
    let all = [
        host_vectors(),
        guest_vectors(),
        request_vectors(),
        reply_vectors(),
        node_vectors(),
    ];
    all.into_iter().flatten().collect()
}

/// The digits of `text`, without the spaces that group them.
fn digits(text: &str) -> String {
    text.split_whitespace().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn messages_encode_to_their_vectors() {
    for (name, message, vector) in vectors() {
        let mut frame = Vec::new();
        match &message {
            Host(message) => encode(message, &mut frame).unwrap(),
            Guest(message) => encode(message, &mut frame).unwrap(),
            Request(message) => encode(message, &mut frame).unwrap(),
            Reply(message) => encode(message, &mut frame).unwrap(),
        }
        assert_eq!(hex(&frame), digits(vector), "{name}");
    }
}

#[test]
fn vectors_decode_to_their_messages() {
    for (name, message, vector) in vectors() {
        let frame = unhex(&digits(vector));
        let mut reader = FrameReader::new(&frame[..]);
        match message {
            Host(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Guest(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Request(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
            Reply(message) => assert_eq!(reader.read().unwrap(), Some(message), "{name}"),
        }
        assert_eq!(reader.read::<GuestMessage>().unwrap(), None, "{name}");
    }
}

/// A new variant stops this from compiling until it is counted here and has a vector.
fn variant(message: &Message) -> (&'static str, u8) {
    match message {
        Host(message) => (
            "host",
            match message {
                HostMessage::Hello(_) => 0,
                HostMessage::Boot(_) => 1,
                HostMessage::Exec(_) => 2,
                HostMessage::Stdin(_) => 3,
                HostMessage::StdinEnd => 4,
                HostMessage::Resize(_) => 5,
                HostMessage::Signal(_) => 6,
                HostMessage::Shutdown(_) => 7,
                HostMessage::Files(_) => 8,
                HostMessage::Drain => 9,
                HostMessage::Measure => 10,
                HostMessage::SetClock(_) => 11,
            },
        ),
        Guest(message) => (
            "guest",
            match message {
                GuestMessage::Hello(_) => 0,
                GuestMessage::Ready(_) => 1,
                GuestMessage::Failed(_) => 2,
                GuestMessage::Started(_) => 3,
                GuestMessage::Stdout(_) => 4,
                GuestMessage::Stderr(_) => 5,
                GuestMessage::StdinCredit(_) => 6,
                GuestMessage::StdinClosed => 7,
                GuestMessage::Exited(_) => 8,
                GuestMessage::Goodbye => 9,
                GuestMessage::Stopping => 10,
                GuestMessage::Drained => 11,
                GuestMessage::Measured(_) => 12,
            },
        ),
        Request(message) => (
            "request",
            match message {
                FileRequest::Read(_) => 0,
                FileRequest::Write(_) => 1,
                FileRequest::Data(_) => 2,
                FileRequest::End => 3,
                FileRequest::List(_) => 4,
                FileRequest::Stat(_) => 5,
                FileRequest::MakeDirectory(_) => 6,
                FileRequest::Remove(_) => 7,
                FileRequest::RemoveFile(_) => 8,
                FileRequest::RemoveAll(_) => 9,
                FileRequest::Copy(..) => 10,
                FileRequest::Rename(..) => 11,
                FileRequest::Examine(..) => 12,
                FileRequest::ReadLink(_) => 13,
                FileRequest::MakeSymlink(..) => 14,
                FileRequest::SetMode(..) => 15,
                FileRequest::SetOwner(..) => 16,
                FileRequest::SetTimes(..) => 17,
                FileRequest::ReadFrom(..) => 18,
                FileRequest::WriteWithMode(..) => 19,
                FileRequest::ReadTree(_) => 20,
                FileRequest::WriteTree(_) => 21,
                FileRequest::Node(_) => 22,
                FileRequest::Hole(_) => 23,
                FileRequest::ReadLayer(..) => 24,
            },
        ),
        Reply(message) => (
            "reply",
            match message {
                FileReply::Data(_) => 0,
                FileReply::Entry(_) => 1,
                FileReply::Done => 2,
                FileReply::Failed(_) => 3,
                FileReply::Attributes(_) => 4,
                FileReply::Node(_) => 5,
                FileReply::Hole(_) => 6,
            },
        ),
    }
}

#[test]
fn every_message_has_a_vector_and_keeps_its_number() {
    let mut seen = BTreeSet::new();
    for (name, message, vector) in vectors() {
        let (direction, number) = variant(&message);
        assert!(name.starts_with(direction), "{name}");
        assert_eq!(unhex(&digits(vector))[4], number, "{name}");
        seen.insert((direction, number));
    }
    let counts = [("host", 12), ("guest", 13), ("request", 25), ("reply", 7)];
    let expected = counts
        .into_iter()
        .flat_map(|(direction, count)| (0..count).map(move |n| (direction, n)))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn the_document_prints_the_same_vectors() {
    // Inside the fences called `vectors`: a line `name:`, then indented lines of hex.
    let mut printed: BTreeMap<&str, String> = BTreeMap::new();
    let mut inside = false;
    let mut name = "";
    for line in DOCUMENT.lines() {
        if line.starts_with("```") {
            inside = line == "```vectors";
        } else if inside && line.starts_with(' ') {
            printed.entry(name).or_default().push_str(&digits(line));
        } else if inside && let Some(title) = line.strip_suffix(':') {
            name = title;
            assert!(!printed.contains_key(name), "{name} is printed twice");
        }
    }
    let expected: BTreeMap<&str, String> = vectors()
        .into_iter()
        .map(|(name, _, vector)| (name, digits(vector)))
        .collect();
    assert_eq!(printed, expected);
}

#[test]
fn the_document_numbers_the_stages_as_the_code_does() {
    use Stage::*;
    let stages = [
        Protocol,
        Root,
        Mount,
        Hostname,
        User,
        WorkingDirectory,
        ResourceLimit,
        Stdio,
        ProgramNotFound,
        ProgramNotExecutable,
        Spawn,
        Network,
        Draining,
        Scripts,
        Init,
        Patch,
    ];
    for (number, stage) in stages.iter().enumerate() {
        assert_eq!(number, *stage as usize);
        let row = format!("| {number} | `{stage:?}` |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
    assert!(
        !DOCUMENT.contains(&format!("| {} | `", stages.len())),
        "a stage too many"
    );
}
