//! What stands behind options: the little languages of their values.

mod detach_keys;
mod disk_size;
mod duration;
mod environment;
mod guest_path;
mod label;
mod memory;
mod moment;
mod mount;
mod mount_options;
mod rlimit;
mod script;
mod size;

pub(crate) use detach_keys::DetachKeys;
pub(crate) use disk_size::{NewSize, parse_disk_size, parse_new_size};
pub(crate) use duration::{parse_duration, parse_grace};
pub(crate) use environment::Variable;
pub(crate) use guest_path::{GuestPath, GuestPathError};
pub(crate) use label::Label;
pub(crate) use memory::check_memory;
pub(crate) use moment::{Tail, parse_moment, parse_tail};
pub(crate) use mount::{
    DiskArgument, MountArgument, MountSourceArgument, NamedArgument, parse_disk_cache,
    parse_fstype, parse_partition,
};
pub(crate) use rlimit::parse_rlimit;
pub(crate) use script::{ScriptArgument, ScriptSource};
pub(crate) use size::{display_rounded_size, display_size, parse_size, parse_whole_mebibytes};

use std::ffi::OsStr;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};

/// A parser for values that need not be text.
pub(crate) fn os_value<T, E>(parse: fn(&OsStr) -> Result<T, E>) -> ValueParser
where
    T: Clone + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    OsStringValueParser::new()
        .try_map(move |text| parse(&text))
        .into()
}
