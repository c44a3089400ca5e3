//! Files that a session serves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use protocol::{
    FileFailure, FileKind, FileProblem, FileReply, FileRequest, FilesRequest, Stage, encode,
};

use super::*;

/// A reply that does not borrow.
#[derive(Debug, PartialEq)]
enum Reply {
    Data(Vec<u8>),
    Entry(String, FileKind, u64),
    Done,
    Failed(String, FileProblem),
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
    let cases: [&[FileRequest]; 4] = [
        &[FileRequest::End],
        &[FileRequest::Data(b"x")],
        &[
            FileRequest::Write(bytes("a")),
            FileRequest::Read(bytes("a")),
        ],
        // The contents have no end.
        &[FileRequest::Write(bytes("a")), FileRequest::Data(b"x")],
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
