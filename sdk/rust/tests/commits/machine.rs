//! What stands for the machine of a commit: its disk is no file system, but the archive of the layer itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use microsandbox::launch::{Command, Handover, MountSource, send_report};
use microsandbox::protocol::{
    Exit, ExitStatus, FileReply, FileRequest, FrameReader, FrameWriter, GuestMessage, Hello,
    HostMessage, Started, encode,
};

use crate::ready::ready;

/// Bytes of the archive in one message.
const PART: usize = 32 << 10;

/// Comes up, serves the layer, and ends with its creator.
pub(super) fn run(launch: RawFd) {
    let handover = Handover::receive(launch).unwrap();
    // Its creator may be gone.
    let _ = send_report(&handover.reports, &ready());
    let MountSource::Disk(disk) = &handover.config.mounts[0].source else {
        panic!("no disk")
    };
    let archive = File::open(&disk.path.0).unwrap();
    let listener = handover.listener.try_clone().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // Whoever it is for may be gone.
        serve(&stream, archive).unwrap_or_default();
    });
    let _: Option<Command> = FrameReader::new(&handover.commands)
        .read()
        .unwrap_or_default();
    handover.directory.remove(handover.lock).unwrap();
}

/// One session, which asks for the layer.
fn serve(stream: &UnixStream, mut archive: File) -> Option<()> {
    let say = |message: GuestMessage<'_>| FrameWriter::new(stream).write(&message).ok();
    say(GuestMessage::Hello(Hello::current("fake")))?;
    let mut reader = FrameReader::new(stream);
    while let Some(message) = reader.read().ok()? {
        match message {
            HostMessage::Hello(hello) => hello.check().unwrap(),
            HostMessage::Files(_) => say(GuestMessage::Started(Started {
                pid: 2,
                session: 1,
                terminal: false,
            }))?,
            HostMessage::Stdin(request) => {
                let mut requests = FrameReader::new(request);
                let request: Option<FileRequest<'_>> = requests.read().unwrap();
                assert!(matches!(request, Some(FileRequest::ReadLayer(..))));
                let mut part = vec![0; PART];
                loop {
                    let count = archive.read(&mut part).unwrap();
                    let reply = match count {
                        0 => FileReply::Done,
                        count => FileReply::Data(&part[..count]),
                    };
                    let mut frames = Vec::new();
                    encode(&reply, &mut frames).unwrap();
                    say(GuestMessage::Stdout(&frames))?;
                    if count == 0 {
                        break;
                    }
                }
            }
            HostMessage::StdinEnd => {
                say(GuestMessage::Exited(Exit {
                    status: ExitStatus::Code(0),
                    timed_out: false,
                }))?;
            }
            other => panic!("{other:?}"),
        }
    }
    Some(())
}
