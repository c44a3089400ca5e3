//! Disks: found by their serial numbers, looked into, and mounted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::Disk;

use crate::superblock::{self, FileSystem};

/// Where the kernel shows its block devices.
const SYS: &str = "/sys";
/// Where their device files are.
const DEV: &str = "/dev";

/// Why a disk cannot be mounted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// 0 where none applies.
    pub(crate) errno: i32,
    /// What is wrong with it, to follow "it cannot be mounted:".
    pub(crate) reason: String,
}

impl Refusal {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            errno: 0,
            reason: reason.into(),
        }
    }

    fn of(error: impl Into<io::Error>, reason: impl Into<String>) -> Self {
        Self {
            errno: error.into().raw_os_error().unwrap_or(0),
            reason: reason.into(),
        }
    }
}

/// What the kernel shows of block devices. Its file systems are mounted for as long as this lives: in the initramfs,
/// before there is another root. The kernel has found all disks and their partitions before it starts its first process,
/// so there is nothing to wait for.
#[derive(Debug)]
pub(crate) struct BlockDevices {
    sys: PathBuf,
    dev: PathBuf,
    /// The directories of disks in `sys`, by serial number: to read one takes a request to the device.
    by_serial: BTreeMap<String, PathBuf>,
}

impl BlockDevices {
    /// Mounts what is needed to look at disks.
    pub(crate) fn open() -> io::Result<Self> {
        for (kind, place) in [("sysfs", SYS), ("devtmpfs", DEV)] {
            fs::create_dir_all(place)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
            mount(Some(kind), place, Some(kind), flags, None::<&str>)?;
        }
        Self::at(SYS.into(), DEV.into())
    }

    /// Those that `sys` shows, with their device files in `dev`.
    fn at(sys: PathBuf, dev: PathBuf) -> io::Result<Self> {
        let mut by_serial = BTreeMap::new();
        for entry in fs::read_dir(sys.join("block"))? {
            let path = entry?.path();
            // Only virtio disks have the file.
            if let Ok(serial) = fs::read_to_string(path.join("serial")) {
                by_serial.insert(serial.trim_end_matches('\n').to_owned(), path);
            }
        }
        Ok(Self {
            sys,
            dev,
            by_serial,
        })
    }

    /// Unmounts it.
    pub(crate) fn close(self) -> io::Result<()> {
        for place in [self.dev, self.sys] {
            umount2(&place, MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }

    /// Mounts the file system of `disk` on the directory `target`.
    pub(crate) fn mount(&self, disk: &Disk, read_only: bool, target: &Path) -> Result<(), Refusal> {
        let (device, kind) = self.resolve(disk)?;
        mount_device(&device, &kind, read_only, target)
    }

    /// The device file, and the name of the file system on it.
    fn resolve(&self, disk: &Disk) -> Result<(PathBuf, String), Refusal> {
        let device = self.find(&disk.serial)?;
        let name = match disk.partition {
            Some(number) => partition(&device, number)?,
            None => self.the_one_with_a_system(&device)?,
        };
        let path = self.dev.join(name);
        let kind = match &disk.fstype {
            Some(kind) => driver(kind).to_owned(),
            None => match probe(&path)? {
                Some(file_system) => file_system.name().to_owned(),
                None => return Err(Refusal::new(format!("{name} holds no known file system"))),
            },
        };
        Ok((path, kind))
    }

    /// The disk with this serial number.
    fn find(&self, serial: &str) -> Result<Device, Refusal> {
        let path = self.by_serial.get(serial);
        let path = path.ok_or_else(|| Refusal::new("there is no such disk"))?;
        Device::at(path)
            .map_err(|error| Refusal::of(error, "the kernel's disks cannot be looked at"))
    }

    /// The disk itself if it has no partitions, else its only partition with a Linux file system.
    fn the_one_with_a_system<'a>(&self, device: &'a Device) -> Result<&'a str, Refusal> {
        if device.partitions.is_empty() {
            return Ok(&device.name);
        }
        let mut contents = Vec::new();
        for partition in &device.partitions {
            contents.push((partition, probe(&self.dev.join(&partition.name))?));
        }
        let mut systems = contents
            .iter()
            .filter(|(_, content)| content.is_some_and(FileSystem::is_linux));
        if let (Some((partition, _)), None) = (systems.next(), systems.next()) {
            return Ok(&partition.name);
        }
        let list: Vec<_> = contents
            .iter()
            .map(|(Partition { number, .. }, content)| {
                let content = content.map_or("nothing known", FileSystem::name);
                format!("{number} ({content})")
            })
            .collect();
        Err(Refusal::new(format!(
            "one of its partitions has to be chosen: {}",
            list.join(", ")
        )))
    }
}

/// A disk.
#[derive(Debug)]
struct Device {
    name: String,
    /// By number.
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    number: u32,
    name: String,
}

impl Device {
    /// The one that the directory `path` of sysfs is about.
    fn at(path: &Path) -> io::Result<Self> {
        let name = file_name(path);
        let mut partitions = Vec::new();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            // The kernel names a partition after its disk; what else is there is not worth a look.
            if !file_name(&path).starts_with(&name) {
                continue;
            }
            let number = fs::read_to_string(path.join("partition")).unwrap_or_default();
            if let Ok(number) = number.trim_end().parse() {
                partitions.push(Partition {
                    number,
                    name: file_name(&path),
                });
            }
        }
        partitions.sort_by_key(|partition| partition.number);
        Ok(Self { name, partitions })
    }
}

/// Names of devices are the kernel's and plain text.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn partition(device: &Device, number: u32) -> Result<&str, Refusal> {
    let partitions = &device.partitions;
    if let Some(partition) = partitions.iter().find(|found| found.number == number) {
        return Ok(&partition.name);
    }
    let numbers: Vec<_> = partitions
        .iter()
        .map(|partition| partition.number.to_string())
        .collect();
    Err(Refusal::new(match numbers.is_empty() {
        true => format!("it has no partition {number}: it has no partitions"),
        false => format!(
            "it has no partition {number}, but these: {}",
            numbers.join(", ")
        ),
    }))
}

fn probe(path: &Path) -> Result<Option<FileSystem>, Refusal> {
    let probed = File::open(path).and_then(|device| superblock::probe(&device));
    probed.map_err(|error| Refusal::of(error, format!("{} cannot be read", path.display())))
}

/// What mount(2) calls a file system that people call `kind`.
fn driver(kind: &str) -> &str {
    match kind {
        "ext2" | "ext3" => FileSystem::Ext.name(),
        _ => kind,
    }
}

fn mount_device(device: &Path, kind: &str, read_only: bool, target: &Path) -> Result<(), Refusal> {
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, read_only);
    let try_mount = |data| mount(Some(device), target, Some(kind), flags, data);
    let mut result = try_mount(None);
    if read_only
        && result == Err(Errno::EROFS)
        && let Some(option) = without_replay(kind)
    {
        result = try_mount(Some(option));
    }
    result.map_err(|errno| match errno {
        Errno::ENODEV => Refusal::new(format!("the guest's kernel has no {kind}")),
        // Of what reads the superblock and finds something else.
        Errno::EINVAL => Refusal::of(errno, format!("it is no {kind} that the kernel takes")),
        _ => Refusal::of(errno, format!("its {kind} cannot be used")),
    })
}

/// The option to leave a journal alone. Without it, a file system that was not unmounted is refused with EROFS on a disk
/// that cannot be written (ext4(5), xfs(5)).
fn without_replay(kind: &str) -> Option<&'static str> {
    match kind {
        "ext4" => Some("noload"),
        "xfs" => Some("norecovery"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const EXT: (usize, &[u8]) = (1080, b"\x53\xef");
    const XFS: (usize, &[u8]) = (0, b"XFSB");
    const NOTHING: (usize, &[u8]) = (0, b"");

    /// Folders that look as the kernel's do: a disk `vda` without partitions, `vdb` with those given.
    fn devices(partitions: &[(u32, (usize, &[u8]))]) -> (TempDir, BlockDevices) {
        let folder = tempfile::tempdir().unwrap();
        let (sys, dev) = (folder.path().join("sys"), folder.path().join("dev"));
        fs::create_dir(&dev).unwrap();
        let block = |name: &str, (at, mark): (usize, &[u8])| {
            let mut bytes = vec![0; 4096];
            bytes[at..at + mark.len()].copy_from_slice(mark);
            fs::write(dev.join(name), bytes).unwrap();
            let directory = sys.join("block").join(name);
            fs::create_dir_all(&directory).unwrap();
            directory
        };
        fs::write(block("vda", XFS).join("serial"), "disk-1").unwrap();
        // The kernel's file ends with a line feed in some releases.
        let disk = block("vdb", NOTHING);
        fs::write(disk.join("serial"), "root\n").unwrap();
        fs::create_dir(disk.join("queue")).unwrap();
        for (number, mark) in partitions {
            let name = format!("vdb{number}");
            fs::remove_dir(block(&name, *mark)).unwrap();
            fs::create_dir(disk.join(&name)).unwrap();
            fs::write(disk.join(&name).join("partition"), format!("{number}\n")).unwrap();
        }
        let devices = BlockDevices::at(sys, dev).unwrap();
        (folder, devices)
    }

    fn resolve(
        devices: &BlockDevices,
        serial: &str,
        partition: Option<u32>,
        fstype: Option<&str>,
    ) -> Result<(String, String), String> {
        let disk = Disk {
            serial: serial.into(),
            partition,
            fstype: fstype.map(Into::into),
        };
        let (path, kind) = devices.resolve(&disk).map_err(|refusal| refusal.reason)?;
        Ok((file_name(&path), kind))
    }

    fn found(name: &str, kind: &str) -> Result<(String, String), String> {
        Ok((name.into(), kind.into()))
    }

    #[test]
    fn a_disk_is_found_by_its_serial_number() {
        let (_folder, devices) = devices(&[]);
        assert_eq!(resolve(&devices, "disk-1", None, None), found("vda", "xfs"));
        assert!(resolve(&devices, "disk-2", None, None).is_err());
        assert!(resolve(&devices, "", None, None).is_err());
    }

    #[test]
    fn a_type_that_is_given_is_believed() {
        let (_folder, devices) = devices(&[]);
        let (disk, root) = ("disk-1", "root");
        assert_eq!(
            resolve(&devices, disk, None, Some("erofs")),
            found("vda", "erofs")
        );
        assert_eq!(
            resolve(&devices, root, None, Some("ext2")),
            found("vdb", "ext4")
        );
        let error = resolve(&devices, root, None, None).unwrap_err();
        assert!(error.contains("no known file system"), "{error}");
    }

    #[test]
    fn the_only_partition_with_a_system_is_taken() {
        let (_folder, devices) = devices(&[(1, NOTHING), (14, EXT)]);
        assert_eq!(
            resolve(&devices, "root", None, None),
            found("vdb14", "ext4")
        );
        assert_eq!(
            resolve(&devices, "root", Some(14), None),
            found("vdb14", "ext4")
        );
    }

    #[test]
    fn of_several_partitions_one_has_to_be_chosen() {
        let (_folder, devices) = devices(&[(10, EXT), (2, XFS), (1, NOTHING)]);
        let error = resolve(&devices, "root", None, None).unwrap_err();
        assert!(
            error.ends_with("1 (nothing known), 2 (xfs), 10 (ext4)"),
            "{error}"
        );
        assert_eq!(
            resolve(&devices, "root", Some(2), None),
            found("vdb2", "xfs")
        );
        let error = resolve(&devices, "root", Some(3), None).unwrap_err();
        assert!(error.ends_with("1, 2, 10"), "{error}");
        let error = resolve(&devices, "disk-1", Some(1), None).unwrap_err();
        assert!(error.contains("no partitions"), "{error}");
    }
}
