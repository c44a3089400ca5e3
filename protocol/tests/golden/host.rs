//! What the host says.

use protocol::{
    Boot, ClockTime, Disk, Exec, FilesRequest, HostMessage, Init, Mount, MountOptions, MountSource,
    Patch, ResourceLimit, Root, RootAccess, RootSource, Script, Shutdown, TerminalSize,
};

use crate::Message::Host;
use crate::{Vector, bytes, hello};

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
        Patch::AppendShared {
            tag: "share".into(),
            entry: "patch-1".into(),
            path: bytes("/f"),
        },
    ]
}

pub(crate) fn vectors() -> Vec<Vector> {
    vec![
        (
            "host hello",
            Host(HostMessage::Hello(hello())),
            "0c000000 00 6d736200 06 05 302e312e30",
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
            "62000000 01 01 04 726f6f74 00 00 03 05 7570706572 00 00 00 03 626f78 00 00 00 07 \
             00 02 2f61 02 6869 01 a403 01 \
             01 02 2f61 01 0a \
             02 02 2f62 00 \
             03 02 2f63 \
             04 02 2f64 01 61 00 \
             05 05 7368617265 07 70617463682d30 02 2f65 00 01 \
             06 05 7368617265 07 70617463682d31 02 2f66",
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
