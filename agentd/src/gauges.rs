//! What can be told about the guest's resources.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use protocol::Measurement;

use crate::upper::Upper;

/// More than the kernel writes into the file.
const MEMINFO_SIZE: usize = 8192;

/// Opened once, while `/proc` is what the kernel says and the upper layer is in reach: whatever the guest later mounts over
/// them, these lead to the same.
#[derive(Debug)]
pub(crate) struct Gauges {
    /// proc_meminfo(5).
    meminfo: File,
    /// The file system of the root's private layer, if it is on a disk.
    upper: Option<Upper>,
}

impl Gauges {
    /// Opens what is read later.
    pub(crate) fn open(upper: Option<Upper>) -> io::Result<Self> {
        let meminfo = File::open("/proc/meminfo")?;
        Ok(Self { meminfo, upper })
    }

    /// The disk of the root's private layer.
    pub(crate) fn upper(&self) -> Option<&Upper> {
        self.upper.as_ref()
    }

    /// How things stand now. It waits for nothing.
    pub(crate) fn read(&self) -> io::Result<Measurement> {
        let mut text = [0; MEMINFO_SIZE];
        let length = self.meminfo.read_at(&mut text, 0)?;
        let text = text.get(..length).unwrap_or_default();
        let missing = || io::Error::other("the kernel says nothing of its memory");
        Ok(Measurement {
            memory_total: field(text, b"MemTotal:").ok_or_else(missing)?,
            memory_available: field(text, b"MemAvailable:").ok_or_else(missing)?,
            upper: self.upper.as_ref().map(Upper::space).transpose()?,
        })
    }
}

/// The bytes that a line of proc_meminfo(5) tells, which counts in KiB.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    let mut lines = text.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| line.strip_prefix(name))?;
    let value = str::from_utf8(value).ok()?;
    let number: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = b"MemTotal:        1024 kB\nMemFree:  7 kB\nMemAvailable:\t   12 kB\n";
        assert_eq!(field(text, b"MemTotal:"), Some(1 << 20));
        assert_eq!(field(text, b"MemAvailable:"), Some(12 << 10));
        assert_eq!(field(text, b"Mem:"), None);
        assert_eq!(field(b"MemTotal: x kB\n", b"MemTotal:"), None);
    }

    #[test]
    fn the_kernel_and_a_file_system_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let upper = Upper::open(folder.path()).unwrap();
        let gauges = Gauges::open(Some(upper)).unwrap();
        let before = gauges.read().unwrap();
        assert!(0 < before.memory_available && before.memory_available <= before.memory_total);
        let (used, free) = before.upper.unwrap();
        assert!(used > 0 && free > 0);
        // Each reading is a new one, from the beginning of the file.
        assert_eq!(gauges.read().unwrap().memory_total, before.memory_total);
    }
}
