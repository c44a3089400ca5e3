//! One session: a client's connection and the process that it runs.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags as Flags;
use nix::unistd::Pid;
use protocol::{ExitStatus, Failure, FrameError, GuestMessage, Hello, HostMessage, Stage};

use crate::BUILD;
use crate::boot::Guest;
use crate::connection::Connection;
use crate::failure::failure;
use crate::poller::{Event, Poller, Source, Token, Watched};
use crate::running::Running;
use crate::task::Task;

/// How long a client may take for its `Hello` and its `Exec` or `Files`.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How long a process lives on after SIGHUP when its client is gone.
const HANGUP_TIME: Duration = Duration::from_secs(2);

/// How long a connection stays open for the client to close it first, after the last frame. What
/// the client has sent until then meets a reader instead of a reset.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Frames that a session may send before it is another one's turn.
const FRAMES_PER_TURN: usize = 4;

/// What a session needs from the event loop.
pub(crate) struct Surroundings<'a> {
    pub(crate) poller: &'a Poller,
    pub(crate) guest: &'a Guest,
    /// For data in passing.
    pub(crate) scratch: &'a mut [u8],
}

/// A connection and what it stands for.
///
/// ```text
/// Handshake --Exec--> Running --Exited/Failed--> Closing --> Over
///     |                  |                          ^
///     |                  `--client gone--> Abandoned --process ended--> Over
///     `--bad frame----------------------------------'
/// ```
#[derive(Debug)]
pub(crate) struct Session {
    id: u64,
    /// `None` when the client is gone.
    connection: Option<Watched<Connection>>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The client has not said yet what it wants.
    Handshake { greeted: bool, deadline: Instant },
    /// The process runs, or its output is not sent yet.
    Running(Box<Running>),
    /// The client is gone, the process has been told so.
    Abandoned {
        running: Box<Running>,
        kill_at: Instant,
    },
    /// The last frame is being sent; from `deadline` on it has been.
    Closing { deadline: Option<Instant> },
    /// Nothing is left to do.
    Over,
}

impl Session {
    /// A session with a new client.
    pub(crate) fn new(id: u64, connection: Connection, poller: &Poller) -> Self {
        let token = Token {
            session: id,
            source: Source::Connection,
        };
        let deadline = Instant::now() + HANDSHAKE_TIME;
        let mut session = Self {
            id,
            connection: Some(Watched::new(connection, poller, token)),
            phase: Phase::Handshake {
                greeted: false,
                deadline,
            },
        };
        session.send(&GuestMessage::Hello(Hello::current(BUILD)));
        session.settle_watches();
        session
    }

    /// Tells the client that it cannot have a session.
    pub(crate) fn refuse(&mut self, failure: Failure) {
        self.fail(failure);
        self.farewell();
        self.settle_watches();
    }

    /// Number of the session; none is used twice.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the client has not asked for anything yet.
    pub(crate) fn is_in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Handshake { .. })
    }

    /// When [`on_deadline`](Self::on_deadline) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Handshake { deadline, .. } => Some(*deadline),
            Phase::Running(running) => running.deadline(),
            Phase::Abandoned { kill_at, .. } => Some(*kill_at),
            Phase::Closing { deadline } => *deadline,
            Phase::Over => None,
        }
    }

    /// Whether the client has asked for something, and the end of it is not reached.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(_) | Phase::Abandoned { .. })
    }

    /// Whether the session can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Whether the stop of the guest has to wait for this session: there is a process, or there
    /// are frames that the client should still get.
    pub(crate) fn is_busy(&self) -> bool {
        match &self.phase {
            Phase::Running(_) | Phase::Abandoned { .. } => true,
            Phase::Closing { deadline } => deadline.is_none(),
            Phase::Handshake { .. } | Phase::Over => false,
        }
    }

    /// Whether `pid` is this session's process, not yet reaped.
    pub(crate) fn owns(&self, pid: Pid) -> bool {
        match &self.phase {
            Phase::Running(running) | Phase::Abandoned { running, .. } => {
                running.pid() == Some(pid)
            }
            _ => false,
        }
    }

    /// Something happened to one of the session's descriptors.
    pub(crate) fn on_event(&mut self, event: Event, around: &mut Surroundings) {
        match (event.token.source, &mut self.phase) {
            (Source::Connection, _) => self.on_connection(around),
            (source, Phase::Running(running)) => running.on_event(source, event.flags),
            _ => {}
        }
        self.settle(around);
    }

    /// A point in time has come.
    pub(crate) fn on_deadline(&mut self, around: &mut Surroundings) {
        match &mut self.phase {
            Phase::Handshake { .. } | Phase::Closing { .. } => self.end(),
            Phase::Running(running) => running.kill_for_time(),
            Phase::Abandoned { running, kill_at } => {
                running.signal(libc::SIGKILL);
                *kill_at += HANGUP_TIME;
            }
            Phase::Over => {}
        }
        self.settle(around);
    }

    /// Sends `signal` to the group of the session's process, if there is one.
    pub(crate) fn signal(&self, signal: i32) {
        if let Phase::Running(running) | Phase::Abandoned { running, .. } = &self.phase {
            running.signal(signal);
        }
    }

    /// Asks the session's process to end in its own way, and tells whether it has one.
    pub(crate) fn ask_to_end(&self) -> bool {
        match &self.phase {
            Phase::Running(running) | Phase::Abandoned { running, .. } if running.has_own_end() => {
                running.ask_to_end();
                true
            }
            _ => false,
        }
    }

    /// Whether the session's process lives and has a way of its own to be asked to end.
    pub(crate) fn has_own_end(&self) -> bool {
        match &self.phase {
            Phase::Running(running) | Phase::Abandoned { running, .. } => running.has_own_end(),
            _ => false,
        }
    }

    /// The session's process has ended and is about to be reaped.
    pub(crate) fn before_reaping(&self) {
        if let Phase::Abandoned { running, .. } = &self.phase {
            running.signal(libc::SIGKILL);
        }
    }

    /// The session's process has ended and has been reaped.
    pub(crate) fn on_exit(&mut self, status: ExitStatus, around: &mut Surroundings) {
        match &mut self.phase {
            Phase::Running(running) => running.on_exit(status),
            Phase::Abandoned { .. } => self.end(),
            _ => {}
        }
        self.settle(around);
    }

    fn on_connection(&mut self, around: &mut Surroundings) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let received = match self.phase {
            Phase::Closing { .. } => connection.discard(around.scratch),
            _ => connection.receive(),
        };
        match received {
            Ok(0) => return self.lose_client(),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return self.lose_client(),
            Ok(_) => {}
        }
        if connection.flush().is_err() {
            return self.lose_client();
        }
        if let Err(failure) = self.handle_messages(around) {
            self.fail(failure);
        }
    }

    fn handle_messages(&mut self, around: &mut Surroundings) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        while !matches!(self.phase, Phase::Closing { .. }) {
            match connection.next_message().map_err(bad_frame)? {
                Some(message) => self.phase.handle(self.id, message, around)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Does all that can be done now, and waits for the rest.
    fn settle(&mut self, around: &mut Surroundings) {
        self.serve(around);
        self.farewell();
        self.settle_watches();
    }

    /// Ends agentd's direction once the last frame is sent.
    fn farewell(&mut self) {
        if let (Some(connection), Phase::Closing { deadline }) = (&self.connection, &mut self.phase)
            && deadline.is_none()
            && connection.is_flushed()
        {
            connection.end_sending();
            *deadline = Some(Instant::now() + LINGER_TIME);
        }
    }

    /// Sends what the process has to say, as long as the client takes it and it is this session's
    /// turn.
    fn serve(&mut self, around: &mut Surroundings) {
        for _ in 0..FRAMES_PER_TURN {
            let (Some(connection), Phase::Running(running)) =
                (&mut self.connection, &mut self.phase)
            else {
                return;
            };
            if !connection.is_flushed() {
                return;
            }
            let Some(message) = running.next_message(around.scratch) else {
                return;
            };
            let last = matches!(message, GuestMessage::Exited(_) | GuestMessage::Failed(_));
            if connection.send(&message).is_err() {
                self.lose_client();
            } else if last {
                self.phase = Phase::Closing { deadline: None };
            }
        }
    }

    /// Waits for what the session can handle now, and for nothing else.
    fn settle_watches(&mut self) {
        let mut result = Ok(());
        let mut can_send = false;
        if let Some(connection) = &mut self.connection {
            can_send = connection.is_flushed();
            // What an ended process has left announces itself to nobody: if there is more than a
            // turn's worth, the next turn is when the connection can take it, which is now.
            let draining = matches!(&self.phase, Phase::Running(running) if running.is_draining());
            let mut flags = Flags::EPOLLIN;
            flags.set(Flags::EPOLLOUT, !can_send || draining);
            result = connection.watch(Some(flags));
        }
        if let Phase::Running(running) = &mut self.phase {
            result = result.and_then(|()| running.watch(can_send));
        }
        if let Err(error) = result {
            crate::kernel_log::debug(format_args!("session {}: epoll: {error}", self.id));
            self.lose_client();
        }
    }

    /// Queues a frame that is the answer to nothing in particular.
    fn send(&mut self, message: &GuestMessage) {
        if let Some(connection) = &mut self.connection
            && connection.send(message).is_err()
        {
            self.lose_client();
        }
    }

    /// Tells the client what went wrong, as the last frame, and ends the process.
    fn fail(&mut self, failure: Failure) {
        if let Phase::Running(running) = &self.phase {
            running.signal(libc::SIGKILL);
        }
        self.phase = Phase::Closing { deadline: None };
        self.send(&GuestMessage::Failed(failure));
    }

    /// The client is gone: its process gets some time to notice.
    fn lose_client(&mut self) {
        self.connection = None;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Running(mut running) if running.pid().is_some() => {
                running.hang_up();
                Phase::Abandoned {
                    running,
                    kill_at: Instant::now() + HANGUP_TIME,
                }
            }
            abandoned @ Phase::Abandoned { .. } => abandoned,
            _ => Phase::Over,
        };
    }

    fn end(&mut self) {
        self.connection = None;
        self.phase = Phase::Over;
    }
}

impl Phase {
    fn handle(
        &mut self,
        id: u64,
        message: HostMessage,
        around: &mut Surroundings,
    ) -> Result<(), Failure> {
        match (self, message) {
            (
                Self::Handshake {
                    greeted: greeted @ false,
                    ..
                },
                HostMessage::Hello(hello),
            ) => {
                hello
                    .check()
                    .map_err(|error| violation(error.to_string()))?;
                *greeted = true;
                Ok(())
            }
            (phase @ Self::Handshake { greeted: true, .. }, HostMessage::Exec(exec)) => {
                phase.start(id, &Task::program(*exec)?, around)
            }
            (phase @ Self::Handshake { greeted: true, .. }, HostMessage::Files(request)) => {
                phase.start(id, &Task::files(request)?, around)
            }
            (Self::Running(running), message) => running.handle(message),
            _ => Err(violation("A session begins with Hello, and Exec or Files")),
        }
    }

    fn start(&mut self, id: u64, task: &Task, around: &Surroundings) -> Result<(), Failure> {
        let running = Running::start(id, task, around.guest, around.poller)?;
        *self = Self::Running(Box::new(running));
        Ok(())
    }
}

fn bad_frame(error: FrameError) -> Failure {
    violation(error.to_string())
}

/// A breach of the protocol by the client.
pub(crate) fn violation(message: impl Into<String>) -> Failure {
    failure(Stage::Protocol, Errno::EPROTO, message)
}
