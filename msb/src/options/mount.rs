//! Mounts: `SOURCE:TARGET[:OPTIONS]`.

mod caching;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use disk::{Cache, Format};
use microsandbox::launch::{Quota, SharedCache, Sharing};
use microsandbox::protocol::MountOptions;
use microsandbox::volumes::{VolumeConfig, VolumeKind, VolumeMode, VolumeName, VolumeNameError};

use super::guest_path::{GuestPath, GuestPathError};
use super::mount_options::{OptionError, OptionList};
use super::size::{SizeError, parse_size, parse_whole_mebibytes};

pub(crate) use caching::{NamedCaching, WrongKind};

/// Where everybody may write.
const SHARED_BY_USERS: [&str; 2] = ["/tmp", "/var/tmp"];

/// A mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountArgument {
    /// What the guest sees there.
    pub(crate) source: MountSourceArgument,
    /// Where it sees it.
    pub(crate) target: GuestPath,
    /// What is forbidden there.
    pub(crate) options: MountOptions,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountSourceArgument {
    /// A folder or a file, whichever it is.
    Path(PathBuf, Sharing),
    /// A folder.
    Folder(PathBuf, Sharing),
    /// A file.
    File(PathBuf, Sharing),
    /// A named volume.
    Named(NamedArgument),
    /// A disk image.
    Disk(DiskArgument),
    /// Guest memory.
    Tmpfs {
        /// Limit in bytes.
        size: Option<u64>,
        /// Permission bits of its root directory.
        mode: u32,
    },
}

/// A named volume that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedArgument {
    /// The volume.
    pub(crate) name: VolumeName,
    /// What if it exists, and what if not; `None` takes it as it is, or makes a directory.
    pub(crate) mode: Option<VolumeMode>,
    /// How it is cached.
    pub(crate) caching: NamedCaching,
}

/// A disk image that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskArgument {
    /// The image.
    pub(crate) path: PathBuf,
    /// Its format, if the name of the file does not tell.
    pub(crate) format: Option<Format>,
    /// Its file system, if the superblock does not tell.
    pub(crate) fstype: Option<String>,
    /// Its partition, if that is not the only one.
    pub(crate) partition: Option<u32>,
    /// When a write is durable.
    pub(crate) cache: Cache,
}

/// Words for [`Cache`].
const DISK_CACHES: [(&str, Cache); 2] = [
    ("writeback", Cache::Writeback),
    ("writethrough", Cache::Writethrough),
];

/// Words for [`SharedCache`].
const SHARED_CACHES: [(&str, SharedCache); 3] = [
    ("none", SharedCache::None),
    ("auto", SharedCache::Auto),
    ("always", SharedCache::Always),
];

/// Words for [`VolumeKind`].
const VOLUME_KINDS: [(&str, VolumeKind); 2] =
    [("dir", VolumeKind::Dir), ("disk", VolumeKind::Disk)];

/// What if a volume exists, and what if not.
#[derive(Debug, Clone, Copy)]
enum Mode {
    Existing,
    Create,
    EnsureExists,
}

/// Words for [`Mode`].
const MODES: [(&str, Mode); 3] = [
    ("existing", Mode::Existing),
    ("create", Mode::Create),
    ("ensure-exists", Mode::EnsureExists),
];

/// Why a text is no mount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MountError {
    /// No colon.
    #[error("a mount is SOURCE:TARGET[:OPTIONS]")]
    NoTarget,
    /// Nothing before the colon.
    #[error("what is to be mounted is missing before the colon")]
    NoSource,
    /// The target is no path.
    #[error(transparent)]
    Target(#[from] GuestPathError),
    /// A mount at `/` would hide the root file system.
    #[error("nothing can be mounted at /: the root file system is there")]
    Root,
    /// Options that stand behind a comma.
    #[error("options stand behind a colon: did you mean {suggestion:?}?")]
    Comma {
        /// What was probably meant.
        suggestion: String,
    },
    /// The options are not in order.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Options that are not UTF-8.
    #[error("the options are no text")]
    NotText,
    /// The limit of a tmpfs is no size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The name of a volume is none.
    #[error(transparent)]
    Name(#[from] VolumeNameError),
    /// Options of the other kind of volume.
    #[error(transparent)]
    WrongKind(#[from] WrongKind),
}

impl MountArgument {
    /// Reads what stands behind `--volume`.
    pub(crate) fn volume(text: &OsStr) -> Result<MountArgument, MountError> {
        let parts = Parts::split(text)?;
        if is_path(parts.source) {
            parts.shared(MountSourceArgument::Path)
        } else {
            named(parts)
        }
    }

    /// Reads what stands behind `--mount-named`.
    pub(crate) fn named(text: &OsStr) -> Result<MountArgument, MountError> {
        named(Parts::split(text)?)
    }

    /// Reads what stands behind `--mount-dir`.
    pub(crate) fn folder(text: &OsStr) -> Result<MountArgument, MountError> {
        Parts::split(text)?.shared(MountSourceArgument::Folder)
    }

    /// Reads what stands behind `--mount-file`.
    pub(crate) fn file(text: &OsStr) -> Result<MountArgument, MountError> {
        Parts::split(text)?.shared(MountSourceArgument::File)
    }

    /// Reads what stands behind `--mount-disk`.
    pub(crate) fn disk(text: &OsStr) -> Result<MountArgument, MountError> {
        let Parts {
            source,
            target,
            mut options,
        } = Parts::split(text)?;
        let common = options.take_common()?;
        let disk = DiskArgument {
            path: path(source),
            format: options.take_value("format", str::parse)?,
            fstype: options.take_value("fstype", parse_fstype)?,
            partition: options.take_value("partition", parse_partition)?,
            cache: options
                .take_word("cache", &DISK_CACHES)?
                .unwrap_or(Cache::Writeback),
        };
        options.end()?;
        Ok(MountArgument {
            source: MountSourceArgument::Disk(disk),
            target,
            options: common,
        })
    }

    /// Reads what stands behind `--tmpfs`: `TARGET[:SIZE][:OPTIONS]`. The target contains no colon.
    pub(crate) fn tmpfs(text: &OsStr) -> Result<MountArgument, MountError> {
        let bytes = text.as_bytes();
        let (target, rest) = match bytes.iter().position(|&byte| byte == b':') {
            Some(colon) => (&bytes[..colon], Some(&bytes[colon + 1..])),
            None => (bytes, None),
        };
        let target = guest_path(target)?;
        let rest = rest.map(str::from_utf8).transpose();
        let rest = rest.map_err(|_| MountError::NotText)?;
        let (size, options) = match rest {
            Some(rest) if rest.starts_with(|first: char| first.is_ascii_digit()) => {
                match rest.split_once(':') {
                    Some((size, options)) => (Some(parse_size(size)?), Some(options)),
                    None => (Some(parse_size(rest)?), None),
                }
            }
            rest => (None, rest),
        };
        let mut options = options.map_or(Ok(OptionList::default()), OptionList::parse)?;
        let common = options.take_common()?;
        let size_option = options.take_size("size")?;
        if size.is_some() && size_option.is_some() {
            let name = "size".into();
            return Err(OptionError::Repeated { name }.into());
        }
        let shared = SHARED_BY_USERS.contains(&&*target.to_string());
        let mode = options.take_value("mode", parse_mode)?;
        options.end()?;
        Ok(MountArgument {
            source: MountSourceArgument::Tmpfs {
                size: size.or(size_option),
                mode: mode.unwrap_or(if shared { 0o1777 } else { 0o755 }),
            },
            target,
            options: common,
        })
    }
}

/// The parts of `SOURCE:TARGET[:OPTIONS]`. The source may contain colons, the target and the options may not.
struct Parts<'a> {
    source: &'a [u8],
    target: GuestPath,
    options: OptionList<'a>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a OsStr) -> Result<Parts<'a>, MountError> {
        let (rest, last) = split_last(text.as_bytes()).ok_or(MountError::NoTarget)?;
        let (source, target, options) = match split_last(rest) {
            // Three parts, of which the second is the target: the third are options.
            Some((source, target)) if !last.starts_with(b"/") && target.starts_with(b"/") => {
                (source, target, Some(last))
            }
            _ => (rest, last, None),
        };
        if source.is_empty() {
            return Err(MountError::NoSource);
        }
        let options = options.map(str::from_utf8).transpose();
        let options = options.map_err(|_| MountError::NotText)?;
        Ok(Parts {
            source,
            target: guest_path_behind(source, target)?,
            options: options.map_or(Ok(OptionList::default()), OptionList::parse)?,
        })
    }

    fn shared(
        self,
        source: fn(PathBuf, Sharing) -> MountSourceArgument,
    ) -> Result<MountArgument, MountError> {
        let mut options = self.options;
        let common = options.take_common()?;
        let mut sharing = take_caching(&mut options)?;
        let limit = options.take_size("quota")?;
        sharing.quota = limit.map(|limit| Quota {
            limit,
            ledger: None,
        });
        options.end()?;
        Ok(MountArgument {
            source: source(path(self.source), sharing),
            target: self.target,
            options: common,
        })
    }
}

fn named(parts: Parts<'_>) -> Result<MountArgument, MountError> {
    let mut options = parts.options;
    let name = str::from_utf8(parts.source).map_err(|_| MountError::NotText)?;
    let name: VolumeName = name.parse()?;
    let common = options.take_common()?;
    let kind = options.take_word("kind", &VOLUME_KINDS)?;
    let config = VolumeConfig {
        kind: kind.unwrap_or_default(),
        quota_mib: options.take_value("quota", parse_whole_mebibytes)?,
        size_mib: options.take_value("size", parse_whole_mebibytes)?,
        ..VolumeConfig::default()
    };
    let is_plain = kind.is_none() && config == VolumeConfig::default();
    let mode = options.take_word("mode", &MODES)?;
    let caching = take_named_caching(&mut options)?;
    options.end()?;
    let mode = match mode {
        None if is_plain => None,
        None | Some(Mode::EnsureExists) => Some(VolumeMode::EnsureExists(config)),
        Some(Mode::Create) => Some(VolumeMode::Create(config)),
        Some(Mode::Existing) if is_plain => Some(VolumeMode::Existing),
        Some(Mode::Existing) => {
            return Err(OptionError::Contradiction {
                one: "mode=existing",
                other: "those of a new volume",
            }
            .into());
        }
    };
    if let Some(VolumeMode::EnsureExists(config) | VolumeMode::Create(config)) = &mode {
        caching.of(config.kind)?;
    }
    Ok(MountArgument {
        source: MountSourceArgument::Named(NamedArgument {
            name,
            mode,
            caching,
        }),
        target: parts.target,
        options: common,
    })
}

/// How a volume is cached, of which it may not be known yet whether it is a directory or a disk.
fn take_named_caching(options: &mut OptionList<'_>) -> Result<NamedCaching, OptionError> {
    let shared = SHARED_CACHES.map(|(word, cache)| (word, Word::Shared(cache)));
    let disk = DISK_CACHES.map(|(word, cache)| (word, Word::Disk(cache)));
    let word = options.take_word("cache", &[&shared[..], &disk[..]].concat())?;
    let timeout = options.take_duration("timeout")?;
    match (word, timeout) {
        (None, None) => Ok(NamedCaching::Usual),
        (Some(Word::Disk(cache)), None) => Ok(NamedCaching::Disk(cache)),
        (Some(Word::Disk(_)), Some(_)) => Err(OptionError::Contradiction {
            one: "cache=writeback or cache=writethrough",
            other: "timeout",
        }),
        (Some(Word::Shared(cache)), timeout) => {
            sharing(Some(cache), timeout).map(NamedCaching::Directory)
        }
        (None, timeout) => sharing(None, timeout).map(NamedCaching::Directory),
    }
}

/// A word behind `cache=`.
#[derive(Clone, Copy)]
enum Word {
    Shared(SharedCache),
    Disk(Cache),
}

fn take_caching(options: &mut OptionList<'_>) -> Result<Sharing, OptionError> {
    let cache = options.take_word("cache", &SHARED_CACHES)?;
    sharing(cache, options.take_duration("timeout")?)
}

fn sharing(cache: Option<SharedCache>, timeout: Option<Duration>) -> Result<Sharing, OptionError> {
    if cache == Some(SharedCache::None) && timeout.is_some() {
        return Err(OptionError::Contradiction {
            one: "cache=none",
            other: "timeout",
        });
    }
    Ok(Sharing {
        cache: cache.unwrap_or_default(),
        cache_timeout_ms: timeout.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        quota: None,
    })
}

/// Whether this is a path and not a name.
fn is_path(source: &[u8]) -> bool {
    let mut components = source.split(|&byte| byte == b'/');
    matches!(components.next(), Some(b"" | b"." | b".."))
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn guest_path(target: &[u8]) -> Result<GuestPath, MountError> {
    check_comma(target, None)?;
    let target = GuestPath::parse(OsStr::from_bytes(target))?;
    if target.is_root() {
        return Err(MountError::Root);
    }
    Ok(target)
}

fn guest_path_behind(source: &[u8], target: &[u8]) -> Result<GuestPath, MountError> {
    check_comma(target, Some(source))?;
    guest_path(target)
}

/// Finds options behind a comma, where a path could go on, too: nobody calls a folder `x,ro`.
fn check_comma(target: &[u8], source: Option<&[u8]>) -> Result<(), MountError> {
    let Some(comma) = target.iter().position(|&byte| byte == b',') else {
        return Ok(());
    };
    let options = String::from_utf8_lossy(&target[comma + 1..]);
    let mut list = match OptionList::parse(&options) {
        Ok(list) => list,
        Err(_) => return Ok(()),
    };
    if list.take_common().is_err() || list.end().is_err() {
        return Ok(());
    }
    let source = source.map(|source| format!("{}:", String::from_utf8_lossy(source)));
    let target = String::from_utf8_lossy(&target[..comma]);
    Err(MountError::Comma {
        suggestion: format!("{}{target}:{options}", source.unwrap_or_default()),
    })
}

fn parse_mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o7777) if !text.starts_with('+') => Ok(mode),
        _ => Err("it is an octal number up to 7777"),
    }
}

/// Reads when a write to a disk is durable.
pub(crate) fn parse_disk_cache(text: &str) -> Result<Cache, &'static str> {
    let found = DISK_CACHES.iter().find(|(word, _)| *word == text);
    found
        .map(|(_, cache)| *cache)
        .ok_or("it is one of writeback, writethrough")
}

/// Reads the number of a partition.
pub(crate) fn parse_partition(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        Ok(number @ 1..=128) if !text.starts_with('+') => Ok(number),
        _ => Err("a partition has a number from 1 to 128"),
    }
}

/// Reads the type of a file system. What there is, only the guest's kernel knows.
pub(crate) fn parse_fstype(text: &str) -> Result<String, &'static str> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if (1..=32).contains(&text.len()) && text.bytes().all(is_name) {
        Ok(text.to_owned())
    } else {
        Err("the type of a file system is a word such as ext4, xfs, erofs or squashfs")
    }
}

/// What stands before and behind the last colon.
fn split_last(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().rposition(|&byte| byte == b':')?;
    Some((&bytes[..colon], &bytes[colon + 1..]))
}

#[cfg(test)]
mod tests;
