//! What a machine is to be.

use std::path::PathBuf;

use protocol::{Exec, Init, Script};
use serde::{Deserialize, Serialize};

use super::{Mount, Patch, Root};

/// How long a guest may take to come up, in milliseconds. Some hundred times what it takes: where KVM itself is
/// emulated, and others use the machine, everything is that slow.
pub const BOOT_TIMEOUT_MS: u32 = 120_000;

/// A machine and what its guest sees, as data. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchConfig {
    /// Name of the sandbox.
    pub name: String,
    /// Virtual processors, 1 to 32.
    pub vcpus: u8,
    /// Memory of the guest in bytes, 64 MiB to 64 GiB, a multiple of 4 KiB.
    pub memory: u64,
    /// The guest's kernel, an uncompressed `vmlinux` or a bzImage.
    #[serde(with = "path_bytes")]
    pub kernel: PathBuf,
    /// The initramfs whose `/init` is agentd.
    #[serde(with = "path_bytes")]
    pub initramfs: PathBuf,
    /// Appended to the kernel's command line.
    pub extra_command_line: String,
    /// The root file system.
    pub root: Root,
    /// What is mounted beneath it, each at a target of its own.
    pub mounts: Vec<Mount>,
    /// Files that disk images may refer to, as backing files and extents, besides those in their own folders. A folder
    /// allows what lies beneath it.
    pub allowed: Vec<HostPath>,
    /// Host name of the guest.
    pub hostname: String,
    /// How long the guest may take until its agent is ready, in milliseconds.
    pub boot_timeout_ms: u32,
    /// Least severe log lines that the machine's process prints: `error` to `trace`.
    pub log_level: String,
    /// Programs that are made in the guest's `/.msb/scripts`.
    pub scripts: Vec<Script>,
    /// Changes to the root file system, in this order, before anything runs in it. Only one with a private layer has any.
    pub patches: Vec<Patch>,
    /// Whether processes in the guest can neither gain privileges nor mount.
    pub restricted: bool,
    /// The program that becomes PID 1 in the guest, if not its agent.
    pub init: Option<Init>,
    /// When the machine ends by itself.
    pub lifetime: Lifetime,
    /// The sandbox's own process: it is started first, whoever started it may go and others come back to it, and
    /// with its end the sandbox ends.
    pub main: Option<Box<Exec>>,
    /// Where the machine's process leaves how it ended: the sandbox's own directory. `None` for machines that are no
    /// sandbox.
    pub state: Option<HostPath>,
    /// Where what processes write is logged.
    pub log: Option<LogTarget>,
}

/// When a machine ends without being asked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// Whether it outlives its creator. Otherwise it ends with it, until the creator sends
    /// [`Command::Release`](super::Command::Release).
    pub detached: bool,
    /// After so many milliseconds it drains, and ends.
    pub max_duration_ms: Option<u64>,
    /// After so many milliseconds without a session it ends.
    pub idle_timeout_ms: Option<u64>,
}

/// Where what processes write is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The directory, which exists.
    pub directory: HostPath,
    /// Most bytes that it may take up.
    pub limit: u64,
}

/// A path on this machine: bytes, not text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostPath(#[serde(with = "path_bytes")] pub PathBuf);

/// Paths are bytes on Linux, not text.
pub(super) mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserializer, Serializer};

    pub(in crate::launch) fn serialize<S: Serializer>(
        path: &Path,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(path.as_os_str().as_bytes(), serializer)
    }

    pub(in crate::launch) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        let bytes: Vec<u8> = serde_bytes::deserialize(deserializer)?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use protocol::{Bytes, Init, MountOptions, Script};

    use super::*;
    use crate::launch::{
        DiskImage, MountSource, Quota, RootAccess, RootSource, SharedCache, Sharing,
    };

    #[test]
    fn arrives_as_it_was_sent() {
        let config = LaunchConfig {
            name: "web".to_owned(),
            vcpus: 32,
            memory: 64 << 30,
            kernel: "/boot/vmlinux".into(),
            initramfs: "/boot/initramfs.cpio".into(),
            extra_command_line: "loglevel=7".to_owned(),
            root: Root {
                source: RootSource::Folder(HostPath(OsStr::from_bytes(b"/not \xff text").into())),
                access: RootAccess::Layer {
                    size: Some(1 << 20),
                },
            },
            mounts: vec![
                Mount {
                    target: Bytes(b"/mnt/\xfe".to_vec()),
                    source: MountSource::Folder {
                        path: HostPath("/home".into()),
                        sharing: Sharing {
                            cache: SharedCache::Always,
                            cache_timeout_ms: Some(60_000),
                            quota: Some(Quota {
                                limit: 1 << 30,
                                ledger: Some(HostPath("/ledger".into())),
                            }),
                        },
                    },
                    options: MountOptions {
                        read_only: true,
                        ..MountOptions::default()
                    },
                },
                Mount {
                    target: Bytes(b"/disk".to_vec()),
                    source: MountSource::Disk(DiskImage {
                        path: HostPath("/disk.qcow2".into()),
                        format: disk::Format::Qcow2,
                        cache: disk::Cache::Writethrough,
                        partition: Some(1),
                        fstype: Some("xfs".to_owned()),
                    }),
                    options: MountOptions::default(),
                },
            ],
            allowed: vec![HostPath("/base".into())],
            hostname: "box".to_owned(),
            boot_timeout_ms: 1000,
            log_level: "debug".to_owned(),
            scripts: vec![Script {
                name: "build".to_owned(),
                body: Bytes(b"#!/bin/sh\n\xff".to_vec()),
            }],
            patches: vec![
                Patch::Inline(protocol::Patch::Remove {
                    path: Bytes(b"/x".to_vec()),
                }),
                Patch::Copy {
                    source: HostPath("/src".into()),
                    path: Bytes(b"/y".to_vec()),
                    mode: Some(0o600),
                    replace: true,
                },
            ],
            restricted: true,
            init: Some(Init::Auto),
            lifetime: Lifetime {
                detached: true,
                max_duration_ms: Some(1),
                idle_timeout_ms: None,
            },
            main: None,
            state: Some(HostPath("/state".into())),
            log: Some(LogTarget {
                directory: HostPath("/state/logs".into()),
                limit: 1 << 20,
            }),
        };
        let mut frame = Vec::new();
        protocol::encode(&config, &mut frame).unwrap();
        let mut reader = protocol::FrameReader::new(&frame[..]);
        assert_eq!(reader.read().unwrap(), Some(config));
    }
}
