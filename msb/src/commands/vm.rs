//! `msb vm`

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use disk::Format;

use crate::host::host_memory;
use crate::logging::{self, LogLevel};
use crate::options::{check_memory, parse_size};
use crate::vm::{ConsoleTarget, Disk, Foreground, Share, boot_in_foreground};

/// Command line of a kernel that was given none.
const DEFAULT_COMMAND_LINE: &str = "console=ttyS0 panic=-1 reboot=k";

/// Boots any kernel, with its serial console on the terminal
///
/// For people who work on kernels: there is no agent, no root file system and no network but what
/// the kernel and its initramfs bring. Ctrl-] ends the machine from the keyboard.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when the guest reset itself (its clean way to end), or Ctrl-] ended it; 1 when its kernel
  panicked; 2 after a triple fault; 125 for errors of msb; 128+N when signal N ended msb

Examples:
  msb vm --kernel build/vmlinux --initramfs build/initramfs.cpio
  msb vm --kernel vmlinux --cpus 4 --memory 1G --cmdline 'console=ttyS0 root=host rootfstype=virtiofs' \\
      --share ./rootfs:host
  msb vm --kernel bzImage --console boot.log")]
pub(super) struct Arguments {
    /// The kernel: an uncompressed vmlinux or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// The initramfs, a cpio archive
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// Virtual processors, 1 to 32
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=32))]
    cpus: u8,

    /// Memory, 64M to 64G; a bare number counts MiB
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    memory: u64,

    /// The kernel's command line; the devices are added to it
    #[arg(long, value_name = "ARGUMENTS", default_value = DEFAULT_COMMAND_LINE)]
    #[arg(allow_hyphen_values = true)]
    cmdline: String,

    /// Where the serial console leads: stdio, none or a file
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    #[arg(value_parser = OsStringValueParser::new().map(|text| console(&text)))]
    console: ConsoleTarget,

    /// Folder of the host that the guest can mount as virtiofs [default TAG: share0, share1 ...]
    #[arg(long, value_name = "DIR[:TAG][:ro]")]
    #[arg(value_parser = OsStringValueParser::new().try_map(|text| share(&text)))]
    share: Vec<UnnamedShare>,

    /// Disk image that the guest finds as /dev/vda, /dev/vdb ... with serial number disk0, disk1 ...
    ///
    /// FORMAT is raw, qcow2 or vmdk; without it, the file name's extension says it.
    #[arg(long, value_name = "FILE[:FORMAT][:ro]")]
    #[arg(value_parser = OsStringValueParser::new().try_map(|text| disk(&text)))]
    disk: Vec<Disk>,

    /// Gives the guest an entropy device
    #[arg(long)]
    rng: bool,

    /// Least severe log lines to print
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Warn)]
    log_level: LogLevel,
}

/// A share that may have no tag yet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnnamedShare {
    source: PathBuf,
    tag: Option<String>,
    read_only: bool,
}

/// Why a text is no share.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ShareError {
    #[error("a share is DIR[:TAG][:ro]")]
    NoSource,
    #[error("a tag is 1 to 36 bytes of text")]
    Tag,
}

/// Why a text is no disk.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum DiskError {
    #[error("a disk is FILE[:FORMAT][:ro]")]
    NoSource,
    #[error("the extension of the file name tells no format: add :raw, :qcow2 or :vmdk")]
    NoFormat,
}

/// Boots the machine and returns the exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    logging::start(arguments.log_level);
    check_memory(arguments.memory, host_memory())?;
    let name = |(index, share): (usize, UnnamedShare)| Share {
        source: share.source,
        tag: share.tag.unwrap_or_else(|| format!("share{index}")),
        read_only: share.read_only,
    };
    boot_in_foreground(Foreground {
        vcpus: arguments.cpus,
        memory: arguments.memory,
        kernel: arguments.kernel,
        initramfs: arguments.initramfs,
        command_line: arguments.cmdline,
        console: arguments.console,
        shares: arguments.share.into_iter().enumerate().map(name).collect(),
        disks: arguments.disk,
        entropy: arguments.rng,
    })
}

fn console(text: &OsStr) -> ConsoleTarget {
    match text.as_bytes() {
        b"stdio" => ConsoleTarget::Stdio,
        b"none" => ConsoleTarget::Nowhere,
        _ => ConsoleTarget::File(PathBuf::from(text)),
    }
}

fn share(text: &OsStr) -> Result<UnnamedShare, ShareError> {
    let (rest, read_only) = match text.as_bytes().strip_suffix(b":ro") {
        Some(rest) => (rest, true),
        None => (text.as_bytes(), false),
    };
    let colon = rest.iter().rposition(|&byte| byte == b':');
    let (source, tag) = match colon {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if source.is_empty() {
        return Err(ShareError::NoSource);
    }
    let tag = tag
        .map(|tag| match std::str::from_utf8(tag) {
            Ok(tag) if (1..=36).contains(&tag.len()) => Ok(tag.to_owned()),
            _ => Err(ShareError::Tag),
        })
        .transpose()?;
    Ok(UnnamedShare {
        source: PathBuf::from(OsStr::from_bytes(source)),
        tag,
        read_only,
    })
}

/// What stands behind the last colon is a format only if it is the name of one: any other text is a part of the file name.
fn disk(text: &OsStr) -> Result<Disk, DiskError> {
    let (rest, read_only) = match text.as_bytes().strip_suffix(b":ro") {
        Some(rest) => (rest, true),
        None => (text.as_bytes(), false),
    };
    let named = rest.iter().rposition(|&byte| byte == b':').and_then(|at| {
        let name = std::str::from_utf8(&rest[at + 1..]).ok()?;
        Some((&rest[..at], name.parse::<Format>().ok()?))
    });
    let (source, format) = match named {
        Some((source, format)) => (source, Some(format)),
        None => (rest, None),
    };
    if source.is_empty() {
        return Err(DiskError::NoSource);
    }
    let source = Path::new(OsStr::from_bytes(source));
    Ok(Disk {
        source: source.to_owned(),
        format: format
            .or_else(|| Format::from_extension(source))
            .ok_or(DiskError::NoFormat)?,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_as_people_write_them() {
        for (text, source, format, read_only) in [
            ("/a.qcow2", "/a.qcow2", Format::Qcow2, false),
            ("/a.qcow2:raw:ro", "/a.qcow2", Format::Raw, true),
            ("/a:b.img:ro", "/a:b.img", Format::Raw, true),
            ("/dev/loop0:raw", "/dev/loop0", Format::Raw, false),
        ] {
            let disk = disk(OsStr::new(text)).unwrap();
            assert_eq!(disk.source, PathBuf::from(source), "{text}");
            assert_eq!(disk.format, format, "{text}");
            assert_eq!(disk.read_only, read_only, "{text}");
        }
        assert_eq!(disk(OsStr::new(":raw")), Err(DiskError::NoSource));
        assert_eq!(disk(OsStr::new("/dev/loop0")), Err(DiskError::NoFormat));
    }

    #[test]
    fn shares_as_people_write_them() {
        for (text, source, tag, read_only) in [
            ("/a", "/a", None, false),
            ("/a:ro", "/a", None, true),
            ("/a:tag", "/a", Some("tag"), false),
            ("/a:b:tag:ro", "/a:b", Some("tag"), true),
        ] {
            let share = share(OsStr::new(text)).unwrap();
            assert_eq!(share.source, PathBuf::from(source), "{text}");
            assert_eq!(share.tag.as_deref(), tag, "{text}");
            assert_eq!(share.read_only, read_only, "{text}");
        }
        assert_eq!(share(OsStr::new(":tag")), Err(ShareError::NoSource));
        assert_eq!(share(OsStr::new("/a:")), Err(ShareError::Tag));
    }

    #[test]
    fn consoles_as_people_write_them() {
        assert_eq!(console(OsStr::new("stdio")), ConsoleTarget::Stdio);
        assert_eq!(console(OsStr::new("none")), ConsoleTarget::Nowhere);
        assert_eq!(
            console(OsStr::new("log")),
            ConsoleTarget::File("log".into())
        );
    }
}
