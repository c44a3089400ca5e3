//! Files of an agent that lives in the test.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use files::{EntryKind, FilesError};
use protocol::{
    Bytes, Exit, ExitStatus, FileFailure, FileKind, FileProblem, FileReply, FileRequest,
    FileStatus, FrameReader, FrameWriter, GuestMessage, Hello, HostMessage, MAX_DATA,
};

use super::remote::{Remote, RemoteError};

/// Connects to an agent that gives `replies` and hears all requests.
fn agent(replies: Vec<FileReply<'static>>) -> (Remote, JoinHandle<Vec<u8>>) {
    let (host, guest) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || serve(guest, &replies));
    (Remote::attach(host, "/volume").unwrap(), agent)
}

fn serve(stream: UnixStream, replies: &[FileReply]) -> Vec<u8> {
    let mut reader = FrameReader::new(stream.try_clone().unwrap());
    let mut writer = FrameWriter::new(stream);
    let mut say = |message: GuestMessage| writer.write(&message).unwrap();
    say(GuestMessage::Hello(Hello::current("test")));
    let mut frames = Vec::new();
    for reply in replies {
        protocol::encode(reply, &mut frames).unwrap();
    }
    let mut heard = Vec::new();
    loop {
        match reader.read().unwrap() {
            Some(HostMessage::Hello(hello)) => hello.check().unwrap(),
            Some(HostMessage::Files(request)) => {
                assert_eq!(request.directory.0, b"/volume");
                // In pieces that are no frames.
                for piece in frames.chunks(7) {
                    say(GuestMessage::Stdout(piece));
                }
            }
            Some(HostMessage::Stdin(data)) => {
                heard.extend_from_slice(data);
                say(GuestMessage::StdinCredit(
                    u32::try_from(data.len()).unwrap(),
                ));
            }
            Some(HostMessage::StdinEnd) => {
                say(GuestMessage::Exited(Exit {
                    status: ExitStatus::Code(0),
                    timed_out: false,
                }));
                return heard;
            }
            None => return heard,
            Some(other) => panic!("{other:?}"),
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn status(name: &str) -> FileReply<'static> {
    FileReply::Entry(FileStatus {
        name: bytes(name),
        kind: FileKind::File,
        size: 5,
        mode: 0o100_644,
        modified_s: -1,
        modified_ns: 500_000_000,
    })
}

#[test]
fn what_is_asked_arrives_and_what_is_answered_too() {
    let contents = vec![7; 10 * MAX_DATA + 1];
    let (mut remote, agent) = agent(vec![
        FileReply::Done,
        FileReply::Data(b"one "),
        FileReply::Data(b"two"),
        FileReply::Done,
        status("b"),
        status("a"),
        FileReply::Done,
        status("else"),
        FileReply::Done,
        FileReply::Done,
    ]);
    remote.write(Path::new("large"), &contents).unwrap();
    assert_eq!(remote.read(Path::new("file")).unwrap(), b"one two");
    let listed = remote.list(Path::new("")).unwrap();
    let names: Vec<_> = listed.iter().map(|entry| entry.name.to_str()).collect();
    assert_eq!(names, [Some("a"), Some("b")]);
    let entry = remote.stat(Path::new("x/file")).unwrap();
    assert_eq!(entry.name, "file");
    assert_eq!(
        (entry.kind, entry.size, entry.mode),
        (EntryKind::File, 5, 0o644)
    );
    let before = std::time::UNIX_EPOCH.duration_since(entry.modified);
    assert_eq!(before.unwrap().as_millis(), 500);
    remote.rename(Path::new("a"), Path::new("b")).unwrap();
    remote.finish().unwrap();

    let heard = agent.join().unwrap();
    let mut reader = FrameReader::new(&heard[..]);
    let first: Option<FileRequest> = reader.read().unwrap();
    assert_eq!(first, Some(FileRequest::Write(bytes("large"))));
    let mut written = Vec::new();
    loop {
        match reader.read().unwrap() {
            Some(FileRequest::Data(data)) => written.extend_from_slice(data),
            Some(FileRequest::End) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(written == contents);
    for request in [
        FileRequest::Read(bytes("file")),
        FileRequest::List(bytes("")),
        FileRequest::Stat(bytes("x/file")),
        FileRequest::Rename(bytes("a"), bytes("b")),
    ] {
        assert_eq!(reader.read().unwrap(), Some(request));
    }
}

#[test]
fn failures_are_what_they_are_here() {
    let failed = |problem| {
        FileReply::Failed(FileFailure {
            path: bytes("x"),
            problem,
        })
    };
    let (mut remote, _agent) = agent(vec![
        failed(FileProblem::Escape),
        failed(FileProblem::NotFound),
        failed(FileProblem::Errno(libc::ENOSPC)),
    ]);
    let path = Path::new("x");
    let error = remote.read(path).unwrap_err();
    assert!(matches!(
        error,
        RemoteError::Files(FilesError::PathEscape { path }) if path == Path::new("x")
    ));
    let error = remote.remove(path).unwrap_err();
    assert!(matches!(
        error,
        RemoteError::Files(FilesError::NotFound { .. })
    ));
    let error = remote.write(path, b"contents").unwrap_err();
    let RemoteError::Files(FilesError::Io { action, source, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (action, source.raw_os_error()),
        ("write", Some(libc::ENOSPC))
    );
    remote.finish().unwrap();
}

#[test]
fn an_agent_that_lies_is_not_believed() {
    for name in ["", ".", "..", "../x", "/etc", "a\0b"] {
        let (mut remote, _agent) = agent(vec![status(name), FileReply::Done]);
        let error = remote.list(Path::new("")).unwrap_err();
        assert!(matches!(error, RemoteError::Agent(_)), "{name:?}");
    }
    let (mut remote, _agent) = agent(vec![FileReply::Done]);
    let error = remote.stat(Path::new("x")).unwrap_err();
    assert!(matches!(error, RemoteError::Agent(_)));
    let (mut remote, _agent) = agent(vec![FileReply::Data(b"x"), FileReply::Done]);
    let error = remote.remove(Path::new("x")).unwrap_err();
    assert!(matches!(error, RemoteError::Agent(_)));
}

#[test]
fn an_agent_that_goes_away_is_an_error() {
    let (host, guest) = UnixStream::pair().unwrap();
    let mut remote = Remote::attach(host, "/volume").unwrap();
    let agent = thread::spawn(move || {
        FrameWriter::new(guest)
            .write(&GuestMessage::Hello(Hello::current("test")))
            .unwrap();
    });
    let error = remote.write(Path::new("x"), &vec![0; 1 << 20]).unwrap_err();
    assert!(matches!(error, RemoteError::Agent(_)), "{error:?}");
    agent.join().unwrap();
}

#[test]
fn the_parts_of_a_layer_are_handed_on_until_nobody_takes_them() {
    let parts = || {
        vec![
            FileReply::Data(b"one"),
            FileReply::Data(b"two"),
            FileReply::Done,
        ]
    };
    let (layer, below) = (Path::new("layer"), Path::new("below"));
    let (mut remote, agent_thread) = agent(parts());
    let mut taken = Vec::new();
    let read = remote.read_layer(layer, below, |part| {
        taken.extend_from_slice(part);
        Ok(())
    });
    read.unwrap();
    remote.finish().unwrap();
    assert_eq!(taken, b"onetwo");
    let heard = agent_thread.join().unwrap();
    let mut heard = FrameReader::new(&heard[..]);
    let request: FileRequest<'_> = heard.read().unwrap().unwrap();
    let path = |text: &str| Bytes(text.as_bytes().to_vec());
    assert_eq!(
        request,
        FileRequest::ReadLayer(path("layer"), path("below"))
    );

    let (mut remote, _agent) = agent(parts());
    let refuse = |_: &[u8]| Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
    let error = remote.read_layer(layer, below, refuse).unwrap_err();
    assert!(matches!(error, RemoteError::Agent(_)), "{error:?}");

    let (mut remote, _agent) = agent(vec![FileReply::Hole(1)]);
    let error = remote.read_layer(layer, below, |_| Ok(())).unwrap_err();
    assert!(matches!(error, RemoteError::Agent(_)), "{error:?}");
}
