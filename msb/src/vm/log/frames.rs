//! Output in the frames of a session, found as they pass by in pieces.

use microsandbox::logs::LogSource;
use microsandbox::protocol::{FRAME_HEADER, FrameDecoder, GuestMessage, MAX_MESSAGE, Started};

/// Variants of [`GuestMessage`] that matter here.
const STARTED: u8 = 3;
const STDOUT: u8 = 4;
const STDERR: u8 = 5;
const EXITED: u8 = 8;

/// Most bytes of a length in postcard that fits into a frame.
const MAX_VARINT: usize = 3;

/// Most bytes of a `Started` message.
const MAX_STARTED: usize = 32;

/// Follows the frames that the guest sends in one session.
///
/// The decoder of [`microsandbox::protocol`] would copy all data before it shows it. The guest may send anything: what
/// is no frame ends the following, and with it the logging of this session.
#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    /// The session, once it has begun and if it is a process's.
    session: Option<Started>,
}

/// What comes next.
#[derive(Debug)]
enum Place {
    /// A frame, of which this is known and not enough.
    Head(Vec<u8>),
    /// So many bytes of output.
    Data { source: LogSource, left: usize },
    /// So many bytes that are nothing to log.
    Other { left: usize },
    /// Nothing that is to be logged: the last frame, or nothing that is understood.
    Over,
}

/// What the beginning of a frame says.
enum Head {
    /// Not enough yet.
    Incomplete,
    /// It is known what follows.
    Followed(Place),
    /// It is all of a `Started`.
    Started,
}

impl Frames {
    /// A connection on which nothing was sent yet.
    pub(super) fn new() -> Frames {
        Frames {
            place: Place::Head(Vec::new()),
            session: None,
        }
    }

    /// Takes the next bytes, and calls `output` with each piece of output in them: source, session, data.
    pub(super) fn feed<'a>(
        &mut self,
        mut bytes: &'a [u8],
        mut output: impl FnMut(LogSource, u64, &'a [u8]),
    ) {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.place {
                Place::Head(head) => {
                    head.push(first);
                    bytes = rest;
                    match self.decide() {
                        Head::Incomplete => {}
                        Head::Followed(place) => self.place = place,
                        Head::Started => self.begin(),
                    }
                }
                Place::Data { source, left } => {
                    let (data, rest) = bytes.split_at(bytes.len().min(*left));
                    if let Some(session) = self.session {
                        let source = if session.terminal {
                            LogSource::Output
                        } else {
                            *source
                        };
                        output(source, session.session, data);
                    }
                    *left -= data.len();
                    bytes = rest;
                }
                Place::Other { left } => {
                    let skipped = bytes.len().min(*left);
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    *left -= skipped;
                }
                Place::Over => return,
            }
            if let Place::Data { left: 0, .. } | Place::Other { left: 0 } = self.place {
                self.place = Place::Head(Vec::new());
            }
        }
    }

    /// Whether there is no more output to come.
    pub(super) fn are_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    /// What the bytes of the head mean.
    fn decide(&self) -> Head {
        let Place::Head(head) = &self.place else {
            return Head::Incomplete;
        };
        let Some((length, message)) = head.split_first_chunk::<FRAME_HEADER>() else {
            return Head::Incomplete;
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if !(1..=MAX_MESSAGE).contains(&length) {
            return Head::Followed(Place::Over);
        }
        match message.split_first() {
            None => Head::Incomplete,
            Some((&STDOUT, data_length)) => data(LogSource::Stdout, length, data_length),
            Some((&STDERR, data_length)) => data(LogSource::Stderr, length, data_length),
            Some((&STARTED, _)) if length > MAX_STARTED => Head::Followed(Place::Over),
            Some((&STARTED, _)) if message.len() < length => Head::Incomplete,
            Some((&STARTED, _)) => Head::Started,
            Some((&EXITED, _)) => Head::Followed(Place::Over),
            Some(_) => Head::Followed(Place::Other { left: length - 1 }),
        }
    }

    /// The head is a `Started`.
    fn begin(&mut self) {
        let next = Place::Head(Vec::new());
        let Place::Head(head) = std::mem::replace(&mut self.place, next) else {
            return;
        };
        let mut decoder = FrameDecoder::new();
        let read = decoder.read_from(&mut head.as_slice());
        match decoder.next_frame() {
            Ok(Some(GuestMessage::Started(started))) if read.is_ok() => {
                // Number 0 is a session that serves files, whose contents are nobody's output.
                self.session = (started.session != 0).then_some(started);
            }
            _ => self.place = Place::Over,
        }
    }
}

/// What the beginning of a message with data says: `bytes` follow its variant, `message` is its whole length.
fn data(source: LogSource, message: usize, bytes: &[u8]) -> Head {
    let mut length = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            // The data is the rest of the message.
            let left = message.checked_sub(index + 2);
            return Head::Followed(match left {
                Some(left) if left == length => Place::Data { source, left },
                _ => Place::Over,
            });
        }
    }
    if bytes.len() < MAX_VARINT {
        Head::Incomplete
    } else {
        Head::Followed(Place::Over)
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::protocol::{Exit, ExitStatus, Hello, encode};
    use proptest::prelude::*;

    use super::*;

    type Output = Vec<(LogSource, u64, Vec<u8>)>;

    fn stream(messages: &[GuestMessage]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            encode(message, &mut bytes).unwrap();
        }
        bytes
    }

    /// What is found in `bytes` in pieces of `size`, with pieces of the same frame put together.
    fn found(bytes: &[u8], size: usize) -> Output {
        let mut frames = Frames::new();
        let mut found: Output = Vec::new();
        for piece in bytes.chunks(size) {
            frames.feed(piece, |source, session, data| match found.last_mut() {
                Some((last, _, before)) if *last == source => before.extend(data),
                _ => found.push((source, session, data.to_vec())),
            });
        }
        found
    }

    fn started(session: u64, terminal: bool) -> GuestMessage<'static> {
        GuestMessage::Started(Started {
            pid: u32::MAX,
            session,
            terminal,
        })
    }

    #[test]
    fn output_is_found_however_it_is_cut() {
        let long = vec![7; 70_000];
        let bytes = stream(&[
            GuestMessage::Hello(Hello::current("test")),
            started(u64::MAX, false),
            GuestMessage::StdinCredit(1 << 20),
            GuestMessage::Stdout(b"out"),
            GuestMessage::Stdout(b""),
            GuestMessage::Stderr(&long),
            GuestMessage::StdinClosed,
            GuestMessage::Stdout(&[0; 127]),
            GuestMessage::Stdout(&[0; 128]),
            GuestMessage::Exited(Exit {
                status: ExitStatus::Code(3),
                timed_out: false,
            }),
        ]);
        let expected = [
            (LogSource::Stdout, u64::MAX, b"out".to_vec()),
            (LogSource::Stderr, u64::MAX, long),
            (LogSource::Stdout, u64::MAX, vec![0; 255]),
        ];
        for size in [1, 2, 3, 5, 7, 11, 64, 4096, 65_536, usize::MAX] {
            assert_eq!(found(&bytes, size), expected, "{size}");
        }
    }

    #[test]
    fn a_terminal_shows_one_stream() {
        let bytes = stream(&[started(9, true), GuestMessage::Stdout(b"screen")]);
        assert_eq!(
            found(&bytes, 4),
            [(LogSource::Output, 9, b"screen".to_vec())]
        );
    }

    #[test]
    fn files_and_what_comes_before_the_start_are_no_output() {
        let bytes = stream(&[
            GuestMessage::Stdout(b"early"),
            started(0, false),
            GuestMessage::Stdout(b"a file"),
        ]);
        assert_eq!(found(&bytes, 4), []);
    }

    #[test]
    fn what_is_no_frame_ends_it() {
        for spoilt in [
            &[0xff; 4][..],
            &[0; 4],
            // Data that leads out of its frame, and data that does not fill it.
            &[3, 0, 0, 0, STDOUT, 9, b'x'],
            &[9, 0, 0, 0, STDOUT, 1, b'x'],
            &[9, 0, 0, 0, STDOUT, 0xff, 0xff, 0xff, 0xff, 1],
            &[2, 0, 0, 0, STARTED, 0xff],
            &[0xff, 0, 0, 0, STARTED],
        ] {
            let mut bytes = stream(&[started(1, false), GuestMessage::Stdout(b"before")]);
            bytes.extend(spoilt);
            bytes.extend(stream(&[GuestMessage::Stdout(b"behind")]));
            let expected = [(LogSource::Stdout, 1, b"before".to_vec())];
            assert_eq!(found(&bytes, 3), expected, "{spoilt:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_disturb_it(bytes: Vec<u8>, size in 1..9_usize) {
            let mut noise = stream(&[started(1, false)]);
            noise.extend(bytes);
            let output: usize = found(&noise, size).iter().map(|(.., data)| data.len()).sum();
            prop_assert!(output <= noise.len());
        }
    }
}
