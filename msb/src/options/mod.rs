//! What stands behind options: the little languages of their values.

mod duration;
mod environment;
mod guest_path;
mod memory;
mod rlimit;
mod size;
mod volume;

pub(crate) use duration::parse_duration;
pub(crate) use environment::Variable;
pub(crate) use guest_path::GuestPath;
pub(crate) use memory::check_memory;
pub(crate) use rlimit::parse_rlimit;
pub(crate) use size::{display_rounded_size, display_size, parse_size, parse_whole_mebibytes};
pub(crate) use volume::{TmpfsMount, Volume};
