//! File systems of the host that hold no files, but are windows into its kernel.
//!
//! One may be mounted inside a shared folder, certainly if that is the host's root. Its "files" reach farther than the
//! folder: /proc/PID/mem is the memory of a process, this one's too. The guest sees where such a file system is
//! mounted and can mount its own there, but gets at nothing in it.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statfs::{
    AUTOFS_SUPER_MAGIC, BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,
    DEVPTS_SUPER_MAGIC, FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, RDTGROUP_SUPER_MAGIC,
    SECURITYFS_MAGIC, SELINUX_MAGIC, SMACK_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, XENFS_SUPER_MAGIC,
    fstatfs,
};

/// Magic numbers as statfs(2) returns them, from linux/magic.h.
const KERNEL_INTERFACES: [FsType; 24] = [
    AUTOFS_SUPER_MAGIC,
    BPF_FS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    DEBUGFS_MAGIC,
    DEVPTS_SUPER_MAGIC,
    NSFS_MAGIC,
    PROC_SUPER_MAGIC,
    RDTGROUP_SUPER_MAGIC,
    SECURITYFS_MAGIC,
    SELINUX_MAGIC,
    SMACK_MAGIC,
    SYSFS_MAGIC,
    TRACEFS_MAGIC,
    XENFS_SUPER_MAGIC,
    FsType(0x4249_4e4d), // binfmt_misc
    FsType(0x6c6f_6f70), // binder
    FsType(0x6265_6570), // configfs
    FsType(0xde5e_81e4), // efivarfs
    FsType(0x6573_5543), // fusectl
    FsType(0x1980_0202), // mqueue
    FsType(0x5049_4446), // pidfs
    FsType(0x6165_676c), // pstore
    FsType(0x6759_6969), // rpc_pipefs
];

/// Whether what `descriptor` refers to lies on one of them.
///
/// # Errors
/// As fstatfs(2).
pub(super) fn is_kernel_interface(descriptor: impl AsFd) -> io::Result<bool> {
    let kind = fstatfs(descriptor)?.filesystem_type();
    Ok(KERNEL_INTERFACES.contains(&kind))
}
