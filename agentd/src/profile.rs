//! What holds for every process of a session.
//!
//! The restricted profile is for a root that shall not mount. What leads around the missing privilege is closed with it:
//! user namespaces, in which everybody is privileged; settings of the kernel below `/proc/sys`, one of which names a program that
//! the kernel runs with all privileges (core(5)); and ptrace(2) of a process that has the privilege, as agentd does.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::prctl::set_no_new_privs;
use protocol::{Boot, Failure, Stage};

use crate::failure::OrFailed;

/// Numbers of `linux/capability.h`, which the libc crate does not have.
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const _LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// What restricted processes lack.
const WITHHELD: [u32; 2] = [CAP_SYS_PTRACE, CAP_SYS_ADMIN];

/// How many user namespaces there may be (namespaces(7)).
const MAX_USER_NAMESPACES: &str = "/proc/sys/user/max_user_namespaces";

/// The kernel's settings.
const SETTINGS: &str = "/proc/sys";

/// What holds for every process of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// There are scripts, which are found without a path.
    pub(crate) scripts: bool,
    /// Processes can neither gain privileges nor mount.
    pub(crate) restricted: bool,
}

impl Profile {
    /// The one that `boot` asks for.
    pub(crate) fn of(boot: &Boot) -> Self {
        Self {
            scripts: !boot.scripts.is_empty(),
            restricted: boot.restricted,
        }
    }

    /// Does what is to be done once for the guest, while `/proc` is the kernel's.
    pub(crate) fn restrict_guest(self) -> Result<(), Failure> {
        if !self.restricted {
            return Ok(());
        }
        fs::write(MAX_USER_NAMESPACES, "0").or_failed(Stage::Mount, || {
            "User namespaces cannot be forbidden".into()
        })?;
        let none = None::<&str>;
        let bind = MsFlags::MS_BIND;
        let options = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let fixed = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | options;
        mount(Some(SETTINGS), SETTINGS, none, bind, none)
            .and_then(|()| mount(none, SETTINGS, none, fixed, none))
            .or_failed(Stage::Mount, || {
                format!("{SETTINGS} cannot be made read-only")
            })
    }

    /// Does what is to be done in each process, before it takes on the identity of its user.
    pub(crate) fn restrict_process(self) -> io::Result<()> {
        if !self.restricted {
            return Ok(());
        }
        set_no_new_privs()?;
        for capability in WITHHELD {
            // SAFETY: this operation of prctl(2) touches no memory.
            Errno::result(unsafe {
                libc::prctl(
                    libc::PR_CAPBSET_DROP,
                    libc::c_ulong::from(capability),
                    0,
                    0,
                    0,
                )
            })?;
        }
        // SAFETY: as above.
        Errno::result(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_CLEAR_ALL,
                0,
                0,
                0,
            )
        })?;
        withhold_capabilities()
    }
}

/// The first argument of capget(2) and capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Half of the sets of a process: capabilities 0 to 31, then the others.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes [`WITHHELD`] out of the sets of this process.
fn withhold_capabilities() -> io::Result<()> {
    let mut header = Header {
        version: _LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: both pointers are to what capget(2) reads and writes with this version, and outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    for capability in WITHHELD {
        let [low, high] = &mut sets;
        let half = if capability < 32 { low } else { high };
        let rest = !(1 << (capability % 32));
        half.effective &= rest;
        half.permitted &= rest;
        half.inheritable &= rest;
    }
    // SAFETY: as above; capset(2) only reads the sets.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    Ok(())
}
