//! Requests for files and the replies to them.

use protocol::{
    ClockTime, ExtendedAttribute, FileAttributes, FileFailure, FileKind, FileProblem, FileReply,
    FileRequest, FileStatus, NodeKind, TreeNode,
};

use crate::Message::{Reply, Request};
use crate::{Vector, bytes};

pub(crate) fn requests() -> Vec<Vector> {
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
            "0e000000 16 01 61 ed03 e807 64 01 05 00 ac02 00",
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
        xattrs: Vec::new(),
    }
}

pub(crate) fn nodes() -> Vec<Vector> {
    let reply = |kind| Reply(FileReply::Node(node(kind)));
    let (major, minor) = (1, 3);
    vec![
        (
            "reply node, directory",
            reply(NodeKind::Directory),
            "0c000000 05 01 61 ed03 e807 64 01 05 01 00",
        ),
        (
            "reply node, symlink",
            reply(NodeKind::Symlink {
                target: bytes("/b"),
            }),
            "0f000000 05 01 61 ed03 e807 64 01 05 02 02 2f62 00",
        ),
        (
            "reply node, hard link",
            reply(NodeKind::HardLink { to: bytes("b") }),
            "0e000000 05 01 61 ed03 e807 64 01 05 03 01 62 00",
        ),
        (
            "reply node, fifo",
            reply(NodeKind::Fifo),
            "0c000000 05 01 61 ed03 e807 64 01 05 04 00",
        ),
        (
            "reply node, socket",
            reply(NodeKind::Socket),
            "0c000000 05 01 61 ed03 e807 64 01 05 05 00",
        ),
        (
            "reply node, character device",
            reply(NodeKind::CharacterDevice { major, minor }),
            "0e000000 05 01 61 ed03 e807 64 01 05 06 01 03 00",
        ),
        (
            "reply node, block device",
            reply(NodeKind::BlockDevice { major, minor }),
            "0e000000 05 01 61 ed03 e807 64 01 05 07 01 03 00",
        ),
        (
            "reply node, with extended attributes",
            Reply(FileReply::Node(TreeNode {
                xattrs: vec![ExtendedAttribute {
                    name: bytes("user.a"),
                    value: bytes("b"),
                }],
                ..node(NodeKind::Directory)
            })),
            "15000000 05 01 61 ed03 e807 64 01 05 01 01 06 757365722e61 01 62",
        ),
        (
            "reply hole",
            Reply(FileReply::Hole(300)),
            "03000000 06 ac02",
        ),
    ]
}

pub(crate) fn replies() -> Vec<Vector> {
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
