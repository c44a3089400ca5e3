//! How far the kernel reads ahead in shared folders.

use std::fs;
use std::io;

use crate::kernel_log;

/// Where the kernel shows what stands behind its file systems (Linux `Documentation/ABI/testing/sysfs-class-bdi`).
const BACKING_DEVICES: &str = "/sys/class/bdi";

/// How the devices are called that stand behind shared folders: by a device number without a driver.
const UNNAMED: &str = "0:";

/// A request costs two exits and more however long it is, so that the kernel's 128 KiB, which suit disks, make a program of 2 MiB
/// start by sixteen of them.
const KIBIBYTES: &str = "512";

/// Sets the read-ahead of all shared folders that are mounted. Those of a kernel without the files do with less.
pub(crate) fn set() {
    if let Err(error) = try_set() {
        kernel_log::debug(format_args!("no read-ahead of shared folders: {error}"));
    }
}

fn try_set() -> io::Result<()> {
    for device in fs::read_dir(BACKING_DEVICES)? {
        let device = device?;
        if device
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNNAMED.as_bytes())
        {
            fs::write(device.path().join("read_ahead_kb"), KIBIBYTES)?;
        }
    }
    Ok(())
}
