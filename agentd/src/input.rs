//! Standard input of a process: from the client's frames into a pipe or a terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags as Flags;
use protocol::{Failure, INITIAL_STDIN_CREDIT, MAX_DATA, Stage};

use crate::failure::failure;
use crate::poller::Watched;
use crate::terminal::{end_of_file_character, makes_lines};

/// Credit is granted in steps of at least this, so that grants stay rare.
const GRANT: u32 = INITIAL_STDIN_CREDIT / 4;

/// The credit bounds what waits here: a client that sends more breaks the protocol.
#[derive(Debug)]
pub(crate) struct Input {
    /// agentd's end; `None` once it is closed, by whichever side.
    sink: Option<Watched<File>>,
    is_terminal: bool,
    /// Bytes that the process has not taken yet.
    waiting: VecDeque<u8>,
    /// The client has sent the end.
    ended: bool,
    /// The end was typed to a terminal that makes lines of its input.
    ended_lines: bool,
    /// What the client sent last ended a line; only then one end-of-file character is the end.
    at_line_start: bool,
    /// Bytes that the client may still send.
    credit: u32,
    /// Bytes that the process has taken and the client has not been told of.
    consumed: u32,
    /// The process has closed its end, and the client has not been told.
    closing_to_tell: bool,
}

/// What the client should hear.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It may send so much more.
    Credit(u32),
    /// The process will not read any more.
    Closed,
}

impl Input {
    pub(crate) fn new(sink: Watched<File>, is_terminal: bool) -> Self {
        Self {
            sink: Some(sink),
            is_terminal,
            waiting: VecDeque::new(),
            ended: false,
            ended_lines: false,
            at_line_start: true,
            credit: INITIAL_STDIN_CREDIT,
            consumed: 0,
            closing_to_tell: false,
        }
    }

    /// Takes the data of a `Stdin` frame.
    pub(crate) fn accept(&mut self, data: &[u8]) -> Result<(), Failure> {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if data.len() > MAX_DATA {
            return Err(violation("A Stdin frame is too long"));
        }
        if self.ended {
            return Err(violation("There is more standard input after its end"));
        }
        let Some(credit) = self.credit.checked_sub(size) else {
            return Err(violation(
                "There is more standard input than the credit allows",
            ));
        };
        self.credit = credit;
        if let Some(last) = data.last() {
            self.at_line_start = matches!(last, b'\n' | b'\r');
        }
        if self.sink.is_some() {
            self.take(data);
        }
        Ok(())
    }

    /// The client has sent everything.
    pub(crate) fn end(&mut self) -> Result<(), Failure> {
        if self.ended {
            return Err(violation("Standard input ends twice"));
        }
        self.ended = true;
        if self.is_terminal {
            self.ended_lines = self.sink.as_ref().is_some_and(|sink| makes_lines(&**sink));
            self.type_end();
        } else {
            self.pump();
        }
        Ok(())
    }

    /// The process has written to its terminal. If it has taken over the making of lines since the end was typed, as a shell does
    /// before it shows its prompt, the end was none for it: Linux hands it on as a byte 0. It is typed again, once.
    pub(crate) fn repeat_end(&mut self) {
        let is_due =
            self.ended_lines && self.sink.as_ref().is_some_and(|sink| !makes_lines(&**sink));
        if is_due {
            self.ended_lines = false;
            self.at_line_start = true;
            self.type_end();
        }
    }

    fn type_end(&mut self) {
        let character = self
            .sink
            .as_ref()
            .and_then(|sink| end_of_file_character(&**sink));
        if let Some(character) = character {
            // In the middle of a line the first one only delivers what is there, termios(3).
            let typed: &[u8] = match self.at_line_start {
                true => &[character],
                false => &[character, character],
            };
            self.take(typed);
        }
    }

    /// Passes `data` on, and keeps what the process does not take at once.
    fn take(&mut self, data: &[u8]) {
        // Data that finds nothing before it needs no buffer.
        let count = if self.waiting.is_empty() {
            self.write(data)
        } else {
            0
        };
        if self.sink.is_some() {
            self.waiting.extend(data.get(count..).unwrap_or_default());
        }
    }

    /// Passes on what waits, as far as the process takes it, and the end behind it.
    pub(crate) fn pump(&mut self) {
        while !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let count = self.write(waiting.as_slices().0);
            if self.sink.is_some() {
                self.waiting = waiting;
                self.waiting.drain(..count);
            }
            if count == 0 {
                return;
            }
        }
        // Give the memory back: most processes never let input wait again.
        self.waiting = VecDeque::new();
        if self.ended && !self.is_terminal {
            self.sink = None;
        }
    }

    /// Writes once; returns how many bytes the process took. An error closes the input.
    fn write(&mut self, data: &[u8]) -> usize {
        let Some(sink) = &mut self.sink else {
            return 0;
        };
        match sink.write(data) {
            Ok(count) => {
                let consumed = u32::try_from(count).unwrap_or(u32::MAX);
                self.consumed = self.consumed.saturating_add(consumed);
                count
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(_) => {
                self.close_by_process();
                0
            }
        }
    }

    /// The process does not read any more; what waits or comes is dropped.
    pub(crate) fn close_by_process(&mut self) {
        if self.sink.take().is_some() {
            self.waiting = VecDeque::new();
            self.closing_to_tell = true;
        }
    }

    /// What the client should hear next. Whoever takes a notice sends it.
    pub(crate) fn take_notice(&mut self) -> Option<Notice> {
        if std::mem::take(&mut self.closing_to_tell) && !self.ended {
            return Some(Notice::Closed);
        }
        if self.consumed < GRANT || self.ended || self.sink.is_none() {
            return None;
        }
        let grant = std::mem::take(&mut self.consumed);
        self.credit = self.credit.saturating_add(grant);
        Some(Notice::Credit(grant))
    }

    /// Waits for room if there is something to write, else only for the process to close its end.
    pub(crate) fn watch(&mut self) -> std::io::Result<()> {
        let flags = if self.waiting.is_empty() {
            Flags::empty()
        } else {
            Flags::EPOLLOUT
        };
        match &mut self.sink {
            Some(sink) => sink.watch(Some(flags)),
            None => Ok(()),
        }
    }
}

fn violation(message: &str) -> Failure {
    failure(Stage::Protocol, Errno::EPROTO, message)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;
    use crate::poller::{Poller, Source, Token};

    fn input() -> (Input, File) {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK).unwrap();
        let token = Token {
            session: 1,
            source: Source::Input,
        };
        let sink = Watched::new(File::from(writer), &Poller::new().unwrap(), token);
        (Input::new(sink, false), File::from(reader))
    }

    fn read_all(reader: &mut File, buffer: &mut Vec<u8>) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            buffer.extend_from_slice(&chunk[..count]);
        }
    }

    #[test]
    fn the_credit_bounds_what_waits() {
        let (mut input, _reader) = input();
        let frame = vec![1; MAX_DATA];
        for _ in 0..INITIAL_STDIN_CREDIT as usize / MAX_DATA {
            input.accept(&frame).unwrap();
        }
        assert!(input.waiting.len() <= INITIAL_STDIN_CREDIT as usize);
        assert_eq!(input.accept(b"x").unwrap_err().stage, Stage::Protocol);
    }

    #[test]
    fn everything_arrives_in_order_and_is_granted_again() {
        let (mut input, mut reader) = input();
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let mut credit = INITIAL_STDIN_CREDIT as usize;
        let (mut rest, mut arrived) = (&sent[..], Vec::new());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(credit).min(MAX_DATA));
            input.accept(now).unwrap();
            rest = later;
            credit -= now.len();
            read_all(&mut reader, &mut arrived);
            input.pump();
            if let Some(Notice::Credit(more)) = input.take_notice() {
                credit += more as usize;
            }
            assert!(credit > 0, "a client would wait for ever");
        }
        input.end().unwrap();
        while input.sink.is_some() {
            read_all(&mut reader, &mut arrived);
            input.pump();
        }
        read_all(&mut reader, &mut arrived);
        assert!(arrived == sent);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end of file");
    }

    #[test]
    fn a_process_that_closes_its_end_is_reported_once_and_more_is_dropped() {
        let (mut input, reader) = input();
        drop(reader);
        input.accept(b"x").unwrap();
        assert_eq!(input.take_notice(), Some(Notice::Closed));
        input.accept(b"y").unwrap();
        assert_eq!(input.take_notice(), None);
    }

    #[test]
    fn nothing_follows_the_end() {
        let (mut input, _reader) = input();
        input.end().unwrap();
        assert_eq!(input.accept(b"x").unwrap_err().stage, Stage::Protocol);
        assert_eq!(input.end().unwrap_err().stage, Stage::Protocol);
    }
}
