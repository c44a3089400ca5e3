//! Files that a session serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use protocol::{
    ClockTime, FileFailure, FileKind, FileProblem, FileReply, FileRequest, FilesRequest, NodeKind,
    Stage, TreeNode, encode,
};

use super::*;

/// A reply that does not borrow.
#[derive(Debug, PartialEq)]
enum Reply {
    Data(Vec<u8>),
    Entry(String, FileKind, u64),
    Done,
    Failed(String, FileProblem),
    /// Mode and size.
    Attributes(u32, u64),
    Node(String, NodeKind),
    Hole(u64),
}

fn ask(guest: &Guest, directory: &Path) -> Client {
    let mut client = guest.stranger();
    client.say(HostMessage::Hello(Hello::current("test")));
    let directory = bytes(directory.to_str().unwrap());
    client.say(HostMessage::Files(FilesRequest { directory }));
    client
}

/// Sends requests, within the credit, and hears all replies.
fn replies(guest: &Guest, directory: &Path, requests: &[FileRequest]) -> (Vec<Reply>, Outcome) {
    let mut frames = Vec::new();
    for request in requests {
        encode(request, &mut frames).unwrap();
    }
    let mut client = ask(guest, directory);
    for part in frames.chunks(1000) {
        client.say(HostMessage::Stdin(part));
    }
    client.say(HostMessage::StdinEnd);
    let outcome = client.outcome();
    let mut reader = FrameReader::new(&outcome.stdout[..]);
    let text = |bytes: Bytes| String::from_utf8(bytes.0).unwrap();
    let mut replies = Vec::new();
    while let Some(reply) = reader.read::<FileReply>().unwrap() {
        replies.push(match reply {
            FileReply::Data(data) => Reply::Data(data.to_vec()),
            FileReply::Entry(status) => Reply::Entry(text(status.name), status.kind, status.size),
            FileReply::Done => Reply::Done,
            FileReply::Failed(FileFailure { path, problem }) => Reply::Failed(text(path), problem),
            FileReply::Attributes(found) => Reply::Attributes(found.mode, found.size),
            FileReply::Node(node) => Reply::Node(text(node.path), node.kind),
            FileReply::Hole(length) => Reply::Hole(length),
        });
    }
    (replies, outcome)
}

#[test]
fn requests_are_carried_out_one_after_the_other() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (replies, outcome) = replies(
        &guest,
        folder.path(),
        &[
            FileRequest::MakeDirectory(bytes("a/b")),
            FileRequest::Write(bytes("a/b/file")),
            FileRequest::Data(b"one "),
            FileRequest::Data(b"two"),
            FileRequest::End,
            FileRequest::Copy(bytes("a"), bytes("c")),
            FileRequest::Rename(bytes("c/b/file"), bytes("c/moved")),
            FileRequest::Remove(bytes("c/b")),
            FileRequest::List(bytes("c")),
            FileRequest::Read(bytes("c/moved")),
            FileRequest::RemoveAll(bytes("a")),
            FileRequest::Stat(bytes("a")),
            FileRequest::RemoveFile(bytes("c")),
        ],
    );
    let mut expected: Vec<_> = std::iter::repeat_with(|| Reply::Done).take(5).collect();
    expected.extend([
        Reply::Entry("moved".into(), FileKind::File, 7),
        Reply::Done,
        Reply::Data(b"one two".to_vec()),
        Reply::Done,
        Reply::Done,
        Reply::Failed("a".into(), FileProblem::NotFound),
        Reply::Failed("c".into(), FileProblem::Errno(libc::EISDIR)),
    ]);
    assert_eq!(replies, expected);
    assert!(outcome.started && outcome.code() == 0);
    assert_eq!(fs::read(folder.path().join("c/moved")).unwrap(), b"one two");
}

fn node(path: &str, kind: NodeKind) -> FileRequest<'static> {
    FileRequest::Node(TreeNode {
        path: bytes(path),
        mode: 0o750,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
        modified: ClockTime {
            seconds: 5,
            nanoseconds: 7,
        },
        kind,
        xattrs: Vec::new(),
    })
}

#[test]
fn a_tree_that_is_written_is_read_again() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let link = NodeKind::Symlink {
        target: bytes("/nowhere"),
    };
    let again = NodeKind::HardLink { to: bytes("file") };
    let (replies, outcome) = replies(
        &guest,
        folder.path(),
        &[
            FileRequest::WriteTree(bytes("tree")),
            node("", NodeKind::Directory),
            node("link", link.clone()),
            node("file", NodeKind::File { size: 1 << 20 }),
            FileRequest::Hole((1 << 20) - 3),
            FileRequest::Data(b"end"),
            node("again", again),
            FileRequest::End,
            FileRequest::SetMode(bytes("tree/file"), 0o4711),
            FileRequest::SetTimes(bytes("tree/file"), None, None),
            FileRequest::Examine(bytes("tree/again"), false),
            FileRequest::ReadLink(bytes("tree/link")),
            FileRequest::MakeSymlink(bytes("file"), bytes("tree/other")),
            FileRequest::ReadFrom(bytes("tree/other"), (1 << 20) - 2, 1),
            FileRequest::WriteWithMode(bytes("secret"), 0o600),
            FileRequest::End,
            FileRequest::ReadTree(bytes("tree/link")),
            FileRequest::ReadTree(bytes("secret")),
        ],
    );
    assert_eq!(
        replies,
        [
            Reply::Done,
            Reply::Done,
            Reply::Done,
            Reply::Attributes(0o104_711, 1 << 20),
            Reply::Done,
            Reply::Data(b"/nowhere".to_vec()),
            Reply::Done,
            Reply::Done,
            Reply::Data(b"n".to_vec()),
            Reply::Done,
            Reply::Done,
            Reply::Node(String::new(), link),
            Reply::Done,
            Reply::Node(String::new(), NodeKind::File { size: 0 }),
            Reply::Done,
        ]
    );
    assert_eq!(outcome.code(), 0);
    let tree = fs::metadata(folder.path().join("tree")).unwrap();
    assert_eq!((tree.mode() & 0o7777, tree.nlink()), (0o750, 2));
    let file = fs::metadata(folder.path().join("tree/file")).unwrap();
    assert!(file.blocks() * 512 < 1 << 19 && file.nlink() == 2);
    let secret = fs::metadata(folder.path().join("secret")).unwrap();
    assert_eq!(secret.mode() & 0o7777, 0o600);
}

#[test]
fn a_tree_that_cannot_be_written_is_refused_and_the_session_goes_on() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    symlink("/tmp", folder.path().join("out")).unwrap();
    let (replies, outcome) = replies(
        &guest,
        folder.path(),
        &[
            FileRequest::WriteTree(bytes("")),
            node("out/x", NodeKind::File { size: 1 }),
            FileRequest::Data(b"x"),
            node("../x", NodeKind::Directory),
            FileRequest::End,
            FileRequest::WriteTree(bytes("none")),
            node("x", NodeKind::Directory),
            FileRequest::End,
            FileRequest::List(bytes("")),
        ],
    );
    assert_eq!(
        replies,
        [
            Reply::Failed("out".into(), FileProblem::Errno(libc::ENOTDIR)),
            Reply::Failed("none".into(), FileProblem::NotFound),
            Reply::Entry("out".into(), FileKind::Symlink, 4),
            Reply::Done,
        ]
    );
    assert_eq!(outcome.code(), 0);
}

#[test]
fn no_path_leads_out_of_the_directory() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    fs::create_dir(folder.path().join("served")).unwrap();
    symlink("../secret", folder.path().join("served/link")).unwrap();
    let paths = ["../secret", "/etc/passwd", "link"];
    let mut requests = Vec::new();
    for path in paths {
        requests.extend([
            FileRequest::Read(bytes(path)),
            FileRequest::Write(bytes(path)),
            FileRequest::Data(b"changed"),
            FileRequest::End,
        ]);
    }
    let (replies, outcome) = replies(&guest, &folder.path().join("served"), &requests);
    let escape = |path: &str| Reply::Failed(path.into(), FileProblem::Escape);
    let expected: Vec<_> = paths
        .iter()
        .flat_map(|path| [escape(path), escape(path)])
        .collect();
    assert_eq!((replies, outcome.code()), (expected, 0));
    let secret = fs::read(folder.path().join("secret")).unwrap();
    assert_eq!(secret, b"secret");
}

#[test]
fn what_is_out_of_order_ends_this_session_only() {
    let Some(guest) = Guest::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cases: [&[FileRequest]; 6] = [
        &[FileRequest::End],
        &[FileRequest::Data(b"x")],
        &[
            FileRequest::Write(bytes("a")),
            FileRequest::Read(bytes("a")),
        ],
        // The contents have no end.
        &[FileRequest::Write(bytes("a")), FileRequest::Data(b"x")],
        &[FileRequest::Hole(1)],
        &[
            FileRequest::WriteTree(bytes("")),
            FileRequest::List(bytes("")),
        ],
    ];
    for case in cases {
        let (replies, outcome) = replies(&guest, folder.path(), case);
        assert_eq!((replies, outcome.code()), (vec![], 1), "{case:?}");
        assert!(!outcome.stderr.is_empty());
    }
    let mut client = ask(&guest, folder.path());
    client.say(HostMessage::Stdin(&[0xff; 8]));
    assert_eq!(client.outcome().code(), 1);
    guest.assert_alive();
}

#[test]
fn a_directory_that_cannot_be_opened_is_refused() {
    let Some(guest) = Guest::start() else { return };
    let failure = ask(&guest, Path::new("/nowhere")).fail();
    assert_eq!(
        (failure.stage, failure.errno),
        (Stage::WorkingDirectory, libc::ENOENT)
    );
    let failure = ask(&guest, Path::new("etc")).fail();
    assert_eq!(failure.stage, Stage::Protocol);
}
