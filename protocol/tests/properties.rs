//! What holds for every message and for every sequence of bytes.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use protocol::{
    Boot, Bytes, ClockTime, Disk, Exec, Exit, ExitStatus, ExtendedAttribute, Failure,
    FileAttributes, FileFailure, FileKind, FileProblem, FileReply, FileRequest, FileStatus,
    FilesRequest, FrameDecoder, FrameError, FrameReader, GuestMessage, Hello, HostMessage, Init,
    Measurement, Mount, MountOptions, MountSource, NodeKind, Patch, Ready, ResourceLimit, Root,
    RootAccess, RootSource, Script, Shutdown, Stage, Started, TerminalSize, TreeNode, encode,
};

fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    data().prop_map(Bytes)
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<[u8; 4]>(), any::<u16>(), ".*").prop_map(|(magic, version, build)| Hello {
        magic,
        version,
        build,
    })
}

fn size() -> impl Strategy<Value = TerminalSize> {
    any::<(u16, u16)>().prop_map(|(rows, columns)| TerminalSize { rows, columns })
}

fn disk() -> impl Strategy<Value = Disk> {
    (".*", any::<Option<u32>>(), of(".*")).prop_map(|(serial, partition, fstype)| Disk {
        serial,
        partition,
        fstype,
    })
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        (".*", of(".*")).prop_map(|(tag, entry)| MountSource::Shared { tag, entry }),
        any::<(Option<u64>, u32)>().prop_map(|(size, mode)| MountSource::Tmpfs { size, mode }),
        disk().prop_map(MountSource::Disk),
    ];
    let options =
        any::<(bool, bool, bool, bool)>().prop_map(|(read_only, no_exec, no_suid, no_dev)| {
            MountOptions {
                read_only,
                no_exec,
                no_suid,
                no_dev,
            }
        });
    (data(), source, options).prop_map(|(target, source, options)| Mount {
        target,
        source,
        options,
    })
}

fn patch() -> impl Strategy<Value = Patch> {
    let mode = any::<Option<u32>>;
    prop_oneof![
        (bytes(), bytes(), mode(), any::<bool>()).prop_map(|(path, contents, mode, replace)| {
            Patch::Write {
                path,
                contents,
                mode,
                replace,
            }
        }),
        (bytes(), bytes()).prop_map(|(path, contents)| Patch::Append { path, contents }),
        (bytes(), mode()).prop_map(|(path, mode)| Patch::MakeDirectory { path, mode }),
        bytes().prop_map(|path| Patch::Remove { path }),
        (bytes(), bytes(), any::<bool>()).prop_map(|(path, target, replace)| Patch::Symlink {
            path,
            target,
            replace,
        }),
        (".*", ".*", bytes(), mode(), any::<bool>()).prop_map(
            |(tag, entry, path, mode, replace)| Patch::Copy {
                tag,
                entry,
                path,
                mode,
                replace,
            }
        ),
        (".*", ".*", bytes()).prop_map(|(tag, entry, path)| Patch::AppendShared {
            tag,
            entry,
            path,
        }),
    ]
}

fn boot() -> impl Strategy<Value = Boot> {
    let source = prop_oneof![
        ".*".prop_map(|tag| RootSource::Shared { tag }),
        disk().prop_map(RootSource::Disk),
        Just(RootSource::Memory),
    ];
    let access = prop_oneof![
        any::<Option<u64>>().prop_map(|size| RootAccess::Layer { size }),
        Just(RootAccess::Writable),
        Just(RootAccess::ReadOnly),
        disk().prop_map(RootAccess::DiskLayer),
    ];
    let script = (".*", bytes()).prop_map(|(name, body)| Script { name, body });
    let init = prop_oneof![
        Just(Init::Auto),
        (bytes(), vec(bytes(), 0..3), vec((bytes(), bytes()), 0..3))
            .prop_map(|(path, args, env)| Init::Program { path, args, env }),
    ];
    (
        (source, access),
        vec(mount(), 0..5),
        ".*",
        vec(script, 0..3),
        any::<bool>(),
        of(init),
        vec(patch(), 0..3),
    )
        .prop_map(
            |((source, access), mounts, hostname, scripts, restricted, init, patches)| Boot {
                root: Root { source, access },
                mounts,
                hostname,
                scripts,
                restricted,
                init,
                patches,
            },
        )
}

fn exec() -> impl Strategy<Value = Exec> {
    let limit = any::<(u32, u64, u64)>().prop_map(|(resource, soft, hard)| ResourceLimit {
        resource,
        soft,
        hard,
    });
    (
        vec(bytes(), 0..5),
        vec((bytes(), bytes()), 0..5),
        of(bytes()),
        of(".*"),
        vec(limit, 0..3),
        of(size()),
        any::<bool>(),
        any::<Option<u64>>(),
        any::<Option<u8>>(),
    )
        .prop_map(
            |(args, env, cwd, user, rlimits, terminal, stdin, timeout_ms, stop_signal)| Exec {
                args,
                env,
                cwd,
                user,
                rlimits,
                terminal,
                stdin,
                timeout_ms,
                stop_signal,
            },
        )
}

/// A message from the host and the data it carries.
fn host_message() -> impl Strategy<Value = HostMessage<'static>> {
    prop_oneof![
        hello().prop_map(HostMessage::Hello),
        boot().prop_map(|boot| HostMessage::Boot(Box::new(boot))),
        exec().prop_map(|exec| HostMessage::Exec(Box::new(exec))),
        data().prop_map(|data| HostMessage::Stdin(data.leak())),
        Just(HostMessage::StdinEnd),
        size().prop_map(HostMessage::Resize),
        any::<i32>().prop_map(HostMessage::Signal),
        any::<u32>().prop_map(|grace_ms| HostMessage::Shutdown(Shutdown { grace_ms })),
        bytes().prop_map(|directory| HostMessage::Files(FilesRequest { directory })),
    ]
}

fn file_request() -> impl Strategy<Value = FileRequest<'static>> {
    prop_oneof![
        bytes().prop_map(FileRequest::Read),
        bytes().prop_map(FileRequest::Write),
        data().prop_map(|data| FileRequest::Data(data.leak())),
        Just(FileRequest::End),
        bytes().prop_map(FileRequest::List),
        (bytes(), bytes()).prop_map(|(from, to)| FileRequest::Copy(from, to)),
        (bytes(), bytes()).prop_map(|(from, to)| FileRequest::Rename(from, to)),
        (bytes(), any::<bool>()).prop_map(|(path, follow)| FileRequest::Examine(path, follow)),
        (bytes(), any::<(Option<u32>, Option<u32>)>())
            .prop_map(|(path, (user, group))| FileRequest::SetOwner(path, user, group)),
        (bytes(), of(time()), of(time()))
            .prop_map(|(path, accessed, modified)| FileRequest::SetTimes(path, accessed, modified)),
        (bytes(), any::<(u64, u64)>())
            .prop_map(|(path, (offset, length))| FileRequest::ReadFrom(path, offset, length)),
        node().prop_map(FileRequest::Node),
        any::<u64>().prop_map(FileRequest::Hole),
    ]
}

fn time() -> impl Strategy<Value = ClockTime> {
    any::<(i64, u32)>().prop_map(|(seconds, nanoseconds)| ClockTime {
        seconds,
        nanoseconds,
    })
}

fn node() -> impl Strategy<Value = TreeNode> {
    let kind = prop_oneof![
        any::<u64>().prop_map(|size| NodeKind::File { size }),
        Just(NodeKind::Directory),
        bytes().prop_map(|target| NodeKind::Symlink { target }),
        bytes().prop_map(|to| NodeKind::HardLink { to }),
        any::<(u32, u32)>().prop_map(|(major, minor)| NodeKind::BlockDevice { major, minor }),
    ];
    let xattr = (bytes(), bytes()).prop_map(|(name, value)| ExtendedAttribute { name, value });
    (
        bytes(),
        any::<(u32, u32, u32)>(),
        time(),
        kind,
        vec(xattr, 0..4),
    )
        .prop_map(
            |(path, (mode, uid, gid), modified, kind, xattrs)| TreeNode {
                path,
                mode,
                uid,
                gid,
                modified,
                kind,
                xattrs,
            },
        )
}

fn attributes() -> impl Strategy<Value = FileAttributes> {
    let numbers = any::<(u32, u32, u32, u64, u64, u64)>();
    (numbers, time(), time(), time()).prop_map(
        |((mode, uid, gid, links, size, allocated), accessed, modified, changed)| FileAttributes {
            mode,
            uid,
            gid,
            links,
            size,
            allocated,
            accessed,
            modified,
            changed,
        },
    )
}

fn file_reply() -> impl Strategy<Value = FileReply<'static>> {
    let entry = (bytes(), any::<(u64, u32, i64, u32)>()).prop_map(
        |(name, (size, mode, modified_s, modified_ns))| FileStatus {
            name,
            kind: FileKind::Other,
            size,
            mode,
            modified_s,
            modified_ns,
        },
    );
    let problem = prop_oneof![
        any::<i32>().prop_map(FileProblem::Errno),
        Just(FileProblem::Escape),
        any::<u64>().prop_map(FileProblem::TooManyEntries),
        any::<u64>().prop_map(FileProblem::TooDeep),
    ];
    prop_oneof![
        data().prop_map(|data| FileReply::Data(data.leak())),
        entry.prop_map(FileReply::Entry),
        Just(FileReply::Done),
        (bytes(), problem)
            .prop_map(|(path, problem)| FileReply::Failed(FileFailure { path, problem })),
        attributes().prop_map(FileReply::Attributes),
        node().prop_map(FileReply::Node),
        any::<u64>().prop_map(FileReply::Hole),
    ]
}

fn guest_message() -> impl Strategy<Value = GuestMessage<'static>> {
    let failure = (any::<i32>(), ".*").prop_map(|(errno, message)| Failure {
        stage: Stage::Network,
        errno,
        message,
    });
    let exit = (any::<bool>(), any::<u8>(), any::<bool>()).prop_map(|(code, n, timed_out)| Exit {
        status: if code {
            ExitStatus::Code(n)
        } else {
            ExitStatus::Signal(n)
        },
        timed_out,
    });
    prop_oneof![
        hello().prop_map(GuestMessage::Hello),
        any::<(u64, u64)>().prop_map(|(kernel_ns, agent_ns)| GuestMessage::Ready(Ready {
            kernel_ns,
            agent_ns
        })),
        failure.prop_map(GuestMessage::Failed),
        any::<(u32, u64, bool)>().prop_map(|(pid, session, terminal)| GuestMessage::Started(
            Started {
                pid,
                session,
                terminal
            }
        )),
        Just(GuestMessage::Stopping),
        Just(GuestMessage::Drained),
        any::<(u64, u64, Option<(u64, u64)>)>().prop_map(
            |(memory_total, memory_available, upper)| GuestMessage::Measured(Measurement {
                memory_total,
                memory_available,
                upper,
            })
        ),
        data().prop_map(|data| GuestMessage::Stdout(data.leak())),
        data().prop_map(|data| GuestMessage::Stderr(data.leak())),
        any::<u32>().prop_map(GuestMessage::StdinCredit),
        Just(GuestMessage::StdinClosed),
        exit.prop_map(GuestMessage::Exited),
        Just(GuestMessage::Goodbye),
    ]
}

/// Decodes all of `stream`, given to the decoder in pieces of at most `piece` bytes.
fn decode_in_pieces(stream: &[u8], piece: usize) -> Result<Vec<String>, FrameError> {
    let mut decoder = FrameDecoder::new();
    let mut messages = Vec::new();
    for chunk in stream.chunks(piece) {
        let mut chunk = chunk;
        while !chunk.is_empty() {
            decoder.read_from(&mut chunk)?;
            while let Some(message) = decoder.next_frame::<HostMessage>()? {
                messages.push(format!("{message:?}"));
            }
        }
    }
    decoder.finish()?;
    Ok(messages)
}

proptest! {
    #[test]
    fn host_messages_survive_the_wire(message in host_message()) {
        let mut frame = Vec::new();
        encode(&message, &mut frame).unwrap();
        let mut reader = FrameReader::new(&frame[..]);
        prop_assert_eq!(reader.read().unwrap(), Some(message));
    }

    #[test]
    fn guest_messages_survive_the_wire(message in guest_message()) {
        let mut frame = Vec::new();
        encode(&message, &mut frame).unwrap();
        let mut reader = FrameReader::new(&frame[..]);
        prop_assert_eq!(reader.read().unwrap(), Some(message));
    }

    #[test]
    fn requests_for_files_and_their_replies_survive_the_wire(
        request in file_request(),
        reply in file_reply(),
    ) {
        let mut frames = Vec::new();
        encode(&request, &mut frames).unwrap();
        encode(&reply, &mut frames).unwrap();
        let mut reader = FrameReader::new(&frames[..]);
        prop_assert_eq!(reader.read().unwrap(), Some(request));
        prop_assert_eq!(reader.read().unwrap(), Some(reply));
    }

    #[test]
    fn the_pieces_in_which_a_stream_arrives_make_no_difference(
        messages in vec(host_message(), 1..8),
        piece in 1usize..700,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            encode(message, &mut stream).unwrap();
        }
        let expected: Vec<_> = messages.iter().map(|message| format!("{message:?}")).collect();
        prop_assert_eq!(decode_in_pieces(&stream, piece).unwrap(), expected);
    }

    #[test]
    fn random_bytes_are_refused_or_decoded_but_never_crash(
        stream in vec(any::<u8>(), 0..2000),
        piece in 1usize..100,
    ) {
        let _ = decode_in_pieces(&stream, piece);
    }

    #[test]
    fn random_bodies_are_refused_or_decoded_but_never_crash(body in vec(any::<u8>(), 0..400)) {
        let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(body);
        let _ = FrameReader::new(&frame[..]).read::<HostMessage>();
        let _ = FrameReader::new(&frame[..]).read::<GuestMessage>();
        let _ = FrameReader::new(&frame[..]).read::<FileRequest>();
        let _ = FrameReader::new(&frame[..]).read::<FileReply>();
    }

    #[test]
    fn a_damaged_frame_is_refused_or_decoded_but_never_crashes(
        message in host_message(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut frame = Vec::new();
        encode(&message, &mut frame).unwrap();
        let at = at.index(frame.len());
        frame[at] = value;
        let _ = decode_in_pieces(&frame, 64);
    }
}
