//! Files of an agent that lives in the test: what it sends, and what it is asked.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use protocol::{
    Bytes, Exit, ExitStatus, ExtendedAttribute, FileFailure, FileProblem, FileStatus, FrameDecoder,
    FrameReader, FrameWriter, GuestMessage, Hello, HostMessage, MAX_DATA, NodeKind, Started,
    TreeNode,
};

use super::*;
use crate::home::Home;
use crate::run_directory::RunDirectory;

/// A sandbox whose agent gives `replies` to the first request of each session, when `enough` of what the client sends has
/// come.
struct Box {
    home: tempfile::TempDir,
    machine: Machine,
}

fn sandbox(
    sessions: usize,
    replies: impl Fn(usize) -> Vec<FileReply<'static>> + Send + 'static,
) -> (Box, thread::JoinHandle<Vec<Vec<String>>>) {
    let home = tempfile::tempdir().unwrap();
    let name = "box".parse().unwrap();
    let machine = Machine::new(&Home::at(home.path()), &name);
    let directory = RunDirectory::of(&Home::at(home.path()), &name);
    fs::create_dir_all(directory.path()).unwrap();
    let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
    let agent = thread::spawn(move || {
        (0..sessions)
            .map(|number| serve(&listener, &replies(number)))
            .collect()
    });
    (Box { home, machine }, agent)
}

impl Box {
    fn fs(&self) -> SandboxFs {
        SandboxFs {
            machine: self.machine.clone(),
        }
    }

    fn host(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// Serves one session. Returns what it was asked.
fn serve(listener: &UnixListener, replies: &[FileReply]) -> Vec<String> {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = FrameReader::new(stream.try_clone().unwrap());
    let mut writer = FrameWriter::new(stream);
    let mut say = |message: GuestMessage| writer.write(&message).is_ok();
    say(GuestMessage::Hello(Hello::current("test")));
    say(GuestMessage::Started(Started {
        pid: 9,
        session: 1,
        terminal: false,
    }));
    let mut asked = Vec::new();
    let mut decoder = FrameDecoder::new();
    let mut is_answered = false;
    while let Ok(Some(message)) = reader.read() {
        let HostMessage::Stdin(mut data) = message else {
            continue;
        };
        let length = u32::try_from(data.len()).unwrap();
        while !data.is_empty() {
            decoder.read_from(&mut data).unwrap();
            while let Some(request) = decoder.next_frame::<FileRequest>().unwrap() {
                let takes_more = matches!(
                    request,
                    FileRequest::Write(_)
                        | FileRequest::WriteWithMode(..)
                        | FileRequest::WriteTree(_)
                        | FileRequest::Node(_)
                        | FileRequest::Data(_)
                        | FileRequest::Hole(_)
                );
                let refuses = matches!(replies, [FileReply::Failed(_)]);
                asked.push(format!("{request:?}"));
                if !is_answered && (!takes_more || refuses) {
                    is_answered = true;
                    let mut frames = Vec::new();
                    for reply in replies {
                        protocol::encode(reply, &mut frames).unwrap();
                    }
                    // In pieces that are no frames.
                    for piece in frames.chunks(50_001) {
                        say(GuestMessage::Stdout(piece));
                    }
                }
            }
        }
        say(GuestMessage::StdinCredit(length));
    }
    say(GuestMessage::Exited(Exit {
        status: ExitStatus::Code(0),
        timed_out: false,
    }));
    asked
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let limit = std::time::Duration::from_secs(60);
        tokio::time::timeout(limit, test).await.expect("it hangs")
    })
}

fn bytes_of(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn node(path: &str, kind: NodeKind) -> FileReply<'static> {
    FileReply::Node(TreeNode {
        path: bytes_of(path),
        mode: 0o6755,
        uid: 12,
        gid: 34,
        modified: ClockTime {
            seconds: 1000,
            nanoseconds: 5,
        },
        kind,
        xattrs: Vec::new(),
    })
}

#[test]
fn contents_come_and_go_in_parts() {
    let contents: &'static [u8] = vec![7; 3 * MAX_DATA].leak();
    let (sandbox, agent) = sandbox(2, move |number| match number {
        0 => {
            let parts = contents.chunks(MAX_DATA).map(FileReply::Data);
            parts.chain([FileReply::Done]).collect()
        }
        _ => vec![FileReply::Done],
    });
    run(async {
        let fs = sandbox.fs();
        assert!(fs.read("/srv/file").await.unwrap() == contents);
        fs.write("srv/file", contents).await.unwrap();
    });
    let asked = agent.join().unwrap();
    let path = format!("{:?}", bytes_of("srv/file"));
    assert_eq!(asked[0], [format!("ReadFrom({path}, 0, {})", u64::MAX)]);
    assert_eq!(asked[1].first().unwrap(), &format!("Write({path})"));
    assert_eq!(asked[1].last().unwrap(), "End");
}

#[test]
fn an_agent_that_fails_or_lies_is_an_error() {
    let failed = |problem| {
        FileReply::Failed(FileFailure {
            path: bytes_of("x"),
            problem,
        })
    };
    let entry = |name: &str| {
        FileReply::Entry(FileStatus {
            name: bytes_of(name),
            kind: protocol::FileKind::File,
            size: 0,
            mode: 0,
            modified_s: 0,
            modified_ns: 0,
        })
    };
    let (sandbox, agent) = sandbox(7, move |number| match number {
        0 => vec![failed(FileProblem::NotFound)],
        1 => vec![failed(FileProblem::Errno(libc::ENOSPC))],
        2 => vec![FileReply::Done],
        3 => vec![FileReply::Data(b"x"), FileReply::Done],
        4 => vec![entry("../x"), FileReply::Done],
        5 => vec![entry(&"x".repeat(1025)), FileReply::Done],
        // More than was asked for.
        _ => vec![
            FileReply::Data(b"one"),
            FileReply::Data(b"two"),
            FileReply::Done,
        ],
    });
    run(async {
        let fs = sandbox.fs();
        let error = fs.read("/x").await.unwrap_err();
        assert!(matches!(
            error,
            MicrosandboxError::PathNotFound { path } if path == Path::new("/x")
        ));
        let error = fs.mkdir("/x").await.unwrap_err();
        assert!(matches!(
            error,
            MicrosandboxError::Fs {
                errno: libc::ENOSPC,
                ..
            }
        ));
        for outcome in [
            fs.stat("/x").await.map(drop),
            fs.remove("/x").await,
            fs.list("/x").await.map(drop),
            fs.list("/x").await.map(drop),
        ] {
            assert!(matches!(outcome, Err(MicrosandboxError::Runtime { .. })));
        }
        let mut part = fs.read_range("/x", 0, 5).await.unwrap();
        assert_eq!(part.recv().await.unwrap().as_deref(), Some(&b"one"[..]));
        let outcome = part.recv().await;
        assert!(matches!(outcome, Err(MicrosandboxError::Runtime { .. })));
    });
    agent.join().unwrap();
}

#[test]
fn a_tree_of_a_hostile_guest_stays_where_it_is_put() {
    let (sandbox, agent) = sandbox(3, |number| {
        let link = |target| NodeKind::Symlink {
            target: bytes_of(target),
        };
        match number {
            0 => vec![
                node("", NodeKind::Directory),
                node("device", NodeKind::CharacterDevice { major: 1, minor: 3 }),
                node(
                    "file",
                    NodeKind::File {
                        size: 5 + (1 << 20),
                    },
                ),
                FileReply::Data(b"hello"),
                FileReply::Hole(1 << 20),
                node("link", link("/etc/passwd")),
                FileReply::Done,
            ],
            1 => vec![
                node("", NodeKind::Directory),
                node("out", link("../outside")),
                node("out/file", NodeKind::File { size: 1 }),
                FileReply::Data(b"x"),
                FileReply::Done,
            ],
            _ => vec![
                node("../outside/file", NodeKind::File { size: 1 }),
                FileReply::Data(b"x"),
                FileReply::Done,
            ],
        }
    });
    fs::create_dir(sandbox.host("outside")).unwrap();
    run(async {
        let fs = sandbox.fs();
        let to = sandbox.host("to");
        let report = fs.copy_to_host("/srv", &to).await.unwrap();
        assert_eq!((report.left_out, report.bytes), (1, 5));
        assert_eq!(report.skipped[0].path, Path::new("device"));
        let file = fs::metadata(to.join("file")).unwrap();
        // Neither runs as its owner, nor takes up its zeros.
        assert_eq!((file.mode() & 0o7777, file.mtime()), (0o755, 1000));
        assert!(file.len() == 5 + (1 << 20) && file.blocks() * 512 < 1 << 19);
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("/etc/passwd")
        );
        let outcome = fs.copy_to_host("/srv", sandbox.host("two")).await;
        assert!(
            matches!(outcome, Err(MicrosandboxError::Fs { .. })),
            "{outcome:?}"
        );
        let outcome = fs.copy_to_host("/srv", sandbox.host("two")).await;
        assert!(
            matches!(outcome, Err(MicrosandboxError::Fs { .. })),
            "{outcome:?}"
        );
    });
    assert_eq!(fs::read_dir(sandbox.host("outside")).unwrap().count(), 0);
    agent.join().unwrap();
}

#[test]
fn a_tree_goes_to_the_guest_and_is_given_up_when_it_is_refused() {
    let (sandbox, agent) = sandbox(2, |number| match number {
        0 => vec![FileReply::Done],
        _ => vec![FileReply::Failed(FileFailure {
            path: bytes_of("srv"),
            problem: FileProblem::Errno(libc::ENOSPC),
        })],
    });
    let from = sandbox.host("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("file"), "hello").unwrap();
    symlink("file", from.join("link")).unwrap();
    // Far more than what fits between the two.
    let large = fs::File::create(sandbox.host("large")).unwrap();
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(7), 32 << 20),
        &mut &large,
    )
    .unwrap();
    run(async {
        let fs = sandbox.fs();
        fs.copy_from_host(&from, "/srv").await.unwrap();
        let outcome = fs.copy_from_host(sandbox.host("large"), "/srv").await;
        assert!(matches!(
            outcome,
            Err(MicrosandboxError::Fs {
                errno: libc::ENOSPC,
                ..
            })
        ));
        let outcome = fs.copy_from_host(sandbox.host("none"), "/srv").await;
        assert!(outcome.is_err());
    });
    drop(sandbox);
    let asked = agent.join().unwrap();
    let mut nodes: Vec<_> = asked[0]
        .iter()
        .filter(|text| text.contains("Node"))
        .collect();
    nodes.sort();
    assert_eq!(nodes.len(), 3);
    assert!(asked[0].first().unwrap().starts_with("WriteTree"));
    assert_eq!(asked[0].last().unwrap(), "End");
    assert!(asked[1].len() < 200, "{} requests", asked[1].len());
}

/// What `tar` says of an archive.
fn tar_lists(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let link = entry.link_name().unwrap().unwrap_or_default();
        let path = entry.path().unwrap();
        format!("{} {:?} {}", path.display(), link, entry.size())
    });
    entries.collect()
}

/// Where an archive goes.
#[derive(Clone, Default)]
struct Sink(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn note() -> ExtendedAttribute {
    ExtendedAttribute {
        name: bytes_of("user.note"),
        value: protocol::Bytes(b"a=b\0\xff".to_vec()),
    }
}

fn with_note(reply: FileReply<'static>) -> FileReply<'static> {
    match reply {
        FileReply::Node(node) => FileReply::Node(TreeNode {
            xattrs: vec![note()],
            ..node
        }),
        reply => reply,
    }
}

#[test]
fn trees_are_archives_and_archives_trees() {
    let long = "d".repeat(150);
    let name = long.clone();
    let (sandbox, agent) = sandbox(2, move |number| match number {
        0 => vec![
            node("", NodeKind::Directory),
            node(&name, NodeKind::Directory),
            with_note(node(&format!("{name}/{name}"), NodeKind::File { size: 7 })),
            FileReply::Data(b"ab"),
            FileReply::Hole(5),
            node(
                "again",
                NodeKind::HardLink {
                    to: bytes_of(&format!("{name}/{name}")),
                },
            ),
            node("socket", NodeKind::Socket),
            FileReply::Done,
        ],
        _ => vec![FileReply::Done],
    });
    let sink = Sink::default();
    run(async {
        let fs = sandbox.fs();
        let report = fs.read_archive("/srv/tree", sink.clone()).await.unwrap();
        assert_eq!((report.nodes, report.left_out), (4, 1));
        let archive = sink.0.lock().unwrap().clone();
        fs.write_archive(Cursor::new(archive), "/to").await.unwrap();
    });
    let file = format!("tree/{long}/{long}");
    let listed = tar_lists(&sink.0.lock().unwrap());
    assert_eq!(
        listed,
        [
            "tree \"\" 0".to_owned(),
            format!("tree/{long} \"\" 0"),
            format!("{file} \"\" 7"),
            format!("tree/again {file:?} 0"),
        ]
    );
    let asked = agent.join().unwrap();
    assert!(asked[1][3].contains(&format!("{:?}", bytes_of(&file))));
    assert!(asked[1][3].contains(&format!("{:?}", [note()])));
    assert_eq!(asked[1][4], format!("Data({:?})", b"ab\0\0\0\0\0"));
    assert_eq!(asked[1].len(), 7, "{:?}", asked[1]);
}

#[test]
fn no_archive_is_made_that_leads_out() {
    // Longer than what is looked at by who only puts a name into a header.
    let deep = format!("{}{}etc/passwd", "d/".repeat(100), "../".repeat(120));
    let link = |to: &str| NodeKind::HardLink { to: bytes_of(to) };
    let out = |path: &str| {
        let target = bytes_of("/etc");
        node(path, NodeKind::Symlink { target })
    };
    let nodes = [
        vec![node(&deep, NodeKind::File { size: 0 })],
        vec![node("/etc/passwd", NodeKind::File { size: 0 })],
        vec![node("link", link("../../etc/passwd"))],
        vec![node("link", link("/etc/passwd"))],
        // What is beneath a link is where that leads.
        vec![out("out"), node("out/passwd", NodeKind::File { size: 0 })],
        // Not everybody who unpacks an archive replaces a link.
        vec![
            out("out"),
            node("out", NodeKind::Directory),
            node("out/passwd", NodeKind::File { size: 0 }),
        ],
        vec![
            node("d", NodeKind::Directory),
            out("d/x"),
            node("d", NodeKind::Directory),
            node("d/x", NodeKind::File { size: 0 }),
            node("d/passwd", NodeKind::File { size: 0 }),
        ],
        vec![
            out("first"),
            node("again", link("first")),
            node("other", NodeKind::File { size: 0 }),
            node("again", NodeKind::File { size: 0 }),
            node("passwd", NodeKind::File { size: 0 }),
        ],
    ];
    let count = nodes.len();
    let (sandbox, agent) = sandbox(count, move |number| {
        let top = [node("", NodeKind::Directory)];
        let nodes = top.into_iter().chain(nodes[number].clone());
        nodes.chain([FileReply::Done]).collect()
    });
    run(async {
        for number in 0..count {
            let sink = Sink::default();
            let outcome = sandbox.fs().read_archive("/srv/tree", sink.clone()).await;
            assert!(
                matches!(outcome, Err(MicrosandboxError::Fs { .. })),
                "{number}: {outcome:?}"
            );
            let listed = tar_lists(&sink.0.lock().unwrap());
            let escapes = |entry: &String| entry.contains("..") || entry.contains("passwd");
            assert!(!listed.iter().any(escapes), "{listed:?}");
        }
    });
    agent.join().unwrap();
}

/// A file that is replaced while its directory is read may come again.
#[test]
fn of_a_file_that_comes_twice_the_later_one_counts() {
    let replies = || {
        let file = |data| {
            [
                node("file", NodeKind::File { size: 3 }),
                FileReply::Data(data),
            ]
        };
        let top = [node("", NodeKind::Directory)];
        let files = [file(b"old"), file(b"new")].concat();
        let nodes = top.into_iter().chain(files);
        nodes.chain([FileReply::Done]).collect()
    };
    let (sandbox, agent) = sandbox(2, move |_| replies());
    let sink = Sink::default();
    run(async {
        let fs = sandbox.fs();
        fs.read_archive("/srv/tree", sink.clone()).await.unwrap();
        let to = sandbox.host("to");
        fs.copy_to_host("/srv/tree", &to).await.unwrap();
        assert_eq!(std::fs::read(to.join("file")).unwrap(), b"new");
    });
    let listed = tar_lists(&sink.0.lock().unwrap());
    assert_eq!(
        listed,
        ["tree \"\" 0", "tree/file \"\" 3", "tree/file \"\" 3"]
    );
    agent.join().unwrap();
}

#[test]
fn an_archive_that_leads_out_is_refused() {
    let (sandbox, agent) = sandbox(1, |_| vec![]);
    let mut header = tar::Header::new_gnu();
    // Not by `set_path`, which refuses it.
    header.as_old_mut().name[..4].copy_from_slice(b"../x");
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let mut archive = header.as_bytes().to_vec();
    archive.extend_from_slice(&[0; 1024]);
    run(async {
        let outcome = sandbox.fs().write_archive(Cursor::new(archive), "/").await;
        let Err(MicrosandboxError::Fs { path, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(path, Path::new("../x"));
    });
    agent.join().unwrap();
}
