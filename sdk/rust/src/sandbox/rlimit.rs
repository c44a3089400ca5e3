//! Resource limits of processes.

use protocol::ResourceLimit;
use serde::{Deserialize, Serialize};

/// One limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// What is limited.
    pub resource: RlimitResource,
    /// The limit that counts; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The limit up to which a process may raise it; `u64::MAX` is unlimited.
    pub hard: u64,
}

impl Rlimit {
    /// The same limit for both.
    pub fn new(resource: RlimitResource, limit: u64) -> Rlimit {
        Rlimit {
            resource,
            soft: limit,
            hard: limit,
        }
    }
}

impl From<Rlimit> for ResourceLimit {
    fn from(limit: Rlimit) -> ResourceLimit {
        ResourceLimit {
            resource: limit.resource.number(),
            soft: limit.soft,
            hard: limit.hard,
        }
    }
}

/// What can be limited, see setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RlimitResource {
    /// Address space in bytes.
    As,
    /// Size of a core file in bytes.
    Core,
    /// Processor time in seconds.
    Cpu,
    /// Data segment in bytes.
    Data,
    /// Size of files that are written, in bytes.
    Fsize,
    /// File locks.
    Locks,
    /// Locked memory in bytes.
    Memlock,
    /// POSIX message queues in bytes.
    Msgqueue,
    /// Ceiling of the nice value.
    Nice,
    /// Open files.
    Nofile,
    /// Processes of the user.
    Nproc,
    /// Resident memory in bytes; without effect on today's kernels.
    Rss,
    /// Ceiling of the real-time priority.
    Rtprio,
    /// Real-time processor time in microseconds.
    Rttime,
    /// Queued signals.
    Sigpending,
    /// Stack in bytes.
    Stack,
}

impl RlimitResource {
    /// `RLIMIT_*` of Linux on x86_64.
    fn number(self) -> u32 {
        match self {
            RlimitResource::As => libc::RLIMIT_AS,
            RlimitResource::Core => libc::RLIMIT_CORE,
            RlimitResource::Cpu => libc::RLIMIT_CPU,
            RlimitResource::Data => libc::RLIMIT_DATA,
            RlimitResource::Fsize => libc::RLIMIT_FSIZE,
            RlimitResource::Locks => libc::RLIMIT_LOCKS,
            RlimitResource::Memlock => libc::RLIMIT_MEMLOCK,
            RlimitResource::Msgqueue => libc::RLIMIT_MSGQUEUE,
            RlimitResource::Nice => libc::RLIMIT_NICE,
            RlimitResource::Nofile => libc::RLIMIT_NOFILE,
            RlimitResource::Nproc => libc::RLIMIT_NPROC,
            RlimitResource::Rss => libc::RLIMIT_RSS,
            RlimitResource::Rtprio => libc::RLIMIT_RTPRIO,
            RlimitResource::Rttime => libc::RLIMIT_RTTIME,
            RlimitResource::Sigpending => libc::RLIMIT_SIGPENDING,
            RlimitResource::Stack => libc::RLIMIT_STACK,
        }
    }
}
