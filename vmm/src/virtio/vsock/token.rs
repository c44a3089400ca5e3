//! What the tokens of the event loop stand for.

/// Whose file descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The timer of the device.
    Timer,
    /// The listener with this index.
    Listener(u16),
    /// The observer of the listener with this index lets its taps go on.
    Observer(u16),
    /// The connection at a place of the table.
    Connection(Occupant),
}

/// A connection at a place of the table, told from earlier ones there: the worker may have fetched an event before its
/// connection gave way to another one, whom a hang-up must not hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupant {
    /// The place.
    pub(super) place: u16,
    /// Number of the connection, modulo `GENERATIONS`.
    pub(super) generation: u16,
}

/// Connections are numbered modulo this.
pub(super) const GENERATIONS: u16 = 1 << 15;

impl Token {
    // The upper half of a token: 0 for the timer, 1 for listeners, 2 for their observers, this bit and the generation for connections.
    const CONNECTION: u16 = GENERATIONS;

    /// The token as a number.
    pub(super) fn encode(self) -> u32 {
        let (upper, lower) = match self {
            Token::Timer => (0, 0),
            Token::Listener(index) => (1, index),
            Token::Observer(index) => (2, index),
            Token::Connection(Occupant { place, generation }) => {
                (Token::CONNECTION | generation, place)
            }
        };
        u32::from(upper) << 16 | u32::from(lower)
    }

    /// The token with this number.
    pub(super) fn decode(token: u32) -> Token {
        let [high, low, place_high, place_low] = token.to_be_bytes();
        let upper = u16::from_be_bytes([high, low]);
        let lower = u16::from_be_bytes([place_high, place_low]);
        match upper {
            0 => Token::Timer,
            1 => Token::Listener(lower),
            2 => Token::Observer(lower),
            upper => Token::Connection(Occupant {
                place: lower,
                generation: upper & !Token::CONNECTION,
            }),
        }
    }
}
