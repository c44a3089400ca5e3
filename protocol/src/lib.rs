//! The frames that the host and `agentd` exchange.
//!
//! `docs/protocol.md` describes every frame byte for byte, so that a client in another language needs nothing else.

mod messages;

pub use messages::*;
