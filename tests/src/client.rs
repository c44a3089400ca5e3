//! A client of a machine's agent that speaks for itself, frame by frame, and as badly as a test likes.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use protocol::{
    Exec, ExitStatus, Failure, FrameError, FrameReader, GuestMessage, Hello, HostMessage,
};

use crate::{Home, LIMIT};

/// A connection to the agent of the one machine of a home. Dropping it ends its session.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: FrameReader<UnixStream>,
}

/// Everything that came over a connection, to its end.
#[derive(Debug, Default)]
pub struct Answers {
    /// Whether the agent greeted.
    pub greeted: bool,
    /// Standard output of the process.
    pub stdout: Vec<u8>,
    /// How the process ended.
    pub exited: Option<ExitStatus>,
    /// Why the agent did not go on.
    pub failed: Option<Failure>,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When there is no machine in `home`, or more than one.
    #[track_caller]
    pub fn connect(home: &Home) -> Client {
        let directories = fs::read_dir(home.msb_home().join("run")).unwrap();
        let sockets: Vec<_> = directories
            .map(|entry| entry.unwrap().path().join("agent.sock"))
            .filter(|path| path.exists())
            .collect();
        let [socket] = sockets.as_slice() else {
            panic!("the sockets are {sockets:?}")
        };
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let frames = FrameReader::new(stream.try_clone().unwrap());
        Client { stream, frames }
    }

    /// Connects, greets, and asks for a process.
    #[track_caller]
    pub fn exec(home: &Home, exec: Exec) -> Client {
        let mut client = Client::connect(home);
        client.say(&HostMessage::Hello(Hello::current("test")));
        client.say(&HostMessage::Exec(Box::new(exec)));
        client
    }

    /// Sends a message.
    pub fn say(&mut self, message: &HostMessage<'_>) {
        self.send(&frame(message));
    }

    /// Sends bytes, whatever they mean. What an agent that has closed the connection misses is no error.
    pub fn send(&mut self, bytes: &[u8]) {
        let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        match self.stream.write_all(bytes) {
            Err(error) if !gone.contains(&error.kind()) => panic!("{error}"),
            _ => {}
        }
    }

    /// Ends this side's direction.
    pub fn end(&self) {
        // The agent may have closed both.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Waits until the process has been started.
    ///
    /// # Panics
    /// When something else comes.
    #[track_caller]
    pub fn wait_for_start(&mut self) {
        loop {
            match self.frames.read().unwrap() {
                Some(GuestMessage::Hello(_)) => {}
                Some(GuestMessage::Started(_)) => return,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads to the end of the connection.
    ///
    /// # Panics
    /// When the agent says something that is no answer to a session, or [`LIMIT`] passes without a word from it.
    #[track_caller]
    pub fn answers(mut self) -> Answers {
        let mut answers = Answers::default();
        loop {
            match self.frames.read() {
                Ok(Some(GuestMessage::Hello(_))) => answers.greeted = true,
                Ok(Some(GuestMessage::Stdout(data))) => answers.stdout.extend_from_slice(data),
                Ok(Some(GuestMessage::Exited(exit))) => answers.exited = Some(exit.status),
                Ok(Some(GuestMessage::Failed(failure))) => answers.failed = Some(failure),
                Ok(Some(GuestMessage::Started(_) | GuestMessage::StdinCredit(_))) => {}
                Ok(Some(GuestMessage::Stderr(_) | GuestMessage::StdinClosed)) => {}
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => return answers,
                // The agent closed the connection while there was more for it to read.
                Err(FrameError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => {
                    return answers;
                }
                Err(error) => panic!("{error:?} after {answers:?}"),
            }
        }
    }
}

/// A message as it is sent.
pub fn frame(message: &HostMessage<'_>) -> Vec<u8> {
    let mut frame = Vec::new();
    protocol::encode(message, &mut frame).unwrap();
    frame
}

/// What asks for a shell script as root, without standard input.
pub fn shell(script: &str) -> Exec {
    let argument = |text: &str| protocol::Bytes(text.as_bytes().to_vec());
    Exec {
        args: ["/bin/sh", "-c", script].map(argument).to_vec(),
        env: Vec::new(),
        cwd: None,
        user: None,
        rlimits: Vec::new(),
        terminal: None,
        stdin: false,
        timeout_ms: None,
        stop_signal: None,
    }
}
