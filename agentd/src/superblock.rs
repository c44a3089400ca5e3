//! Which file system a disk holds, by what its superblock begins with. Nothing else of it is read: what the bytes mean is
//! for the kernel to find out.

use std::io::{self, ErrorKind};

/// A file system that can be recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// ext2, ext3 and ext4, which have one driver.
    Ext,
    Xfs,
    Erofs,
    Squashfs,
    Btrfs,
    Iso9660,
    Vfat,
}

impl FileSystem {
    /// Its name for mount(2).
    pub(crate) fn name(self) -> &'static str {
        match self {
            FileSystem::Ext => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Erofs => "erofs",
            FileSystem::Squashfs => "squashfs",
            FileSystem::Btrfs => "btrfs",
            FileSystem::Iso9660 => "iso9660",
            FileSystem::Vfat => "vfat",
        }
    }

    /// Whether it can hold a Linux system, with owners, permissions and symbolic links.
    pub(crate) fn is_linux(self) -> bool {
        self != FileSystem::Vfat
    }
}

/// Bytes that all have to be there, and at which offset.
type Marks = &'static [(u64, &'static [u8])];

/// From `include/uapi/linux/magic.h` and the definitions of the superblocks in Linux; for iso9660 ECMA-119, 8.1; for vfat
/// the FAT specification, 3.1 (the text there is no proof, but with the boot sector's signature it is close). Long marks
/// first: where two file systems have left theirs, the longer one is less likely there by chance.
const SIGNATURES: [(FileSystem, Marks); 8] = [
    (FileSystem::Btrfs, &[(0x1_0040, b"_BHRfS_M")]),
    (FileSystem::Iso9660, &[(0x8001, b"CD001")]),
    (FileSystem::Xfs, &[(0, b"XFSB")]),
    (FileSystem::Squashfs, &[(0, b"hsqs")]),
    (FileSystem::Erofs, &[(1024, b"\xe2\xe1\xf5\xe0")]),
    (FileSystem::Vfat, &[(54, b"FAT"), (510, b"\x55\xaa")]),
    (FileSystem::Vfat, &[(82, b"FAT32"), (510, b"\x55\xaa")]),
    (FileSystem::Ext, &[(1024 + 56, b"\x53\xef")]),
];

/// Longest of the marks, in bytes.
const LONGEST: usize = 8;

/// Something to read from: a block device.
pub(crate) trait ReadAt {
    /// Fills `buffer` from `offset`; `UnexpectedEof` if it ends before that.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// Which file system `device` holds, if it is a known one.
pub(crate) fn probe(device: &impl ReadAt) -> io::Result<Option<FileSystem>> {
    for (file_system, marks) in SIGNATURES {
        if has_all(device, marks)? {
            return Ok(Some(file_system));
        }
    }
    Ok(None)
}

fn has_all(device: &impl ReadAt, marks: Marks) -> io::Result<bool> {
    for (offset, mark) in marks {
        let mut buffer = [0; LONGEST];
        let found = buffer.get_mut(..mark.len()).unwrap_or_default();
        match device.read_exact_at(found, *offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            result => result?,
        }
        if found != *mark {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    impl ReadAt for Vec<u8> {
        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            let bytes = self.get(start..start + buffer.len());
            buffer.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    /// Writes the marks of each file system into a copy of `disk`.
    fn marked(disk: &[u8], marks: Marks) -> Vec<u8> {
        let mut disk = disk.to_vec();
        for (offset, mark) in marks {
            let start = usize::try_from(*offset).unwrap();
            disk[start..start + mark.len()].copy_from_slice(mark);
        }
        disk
    }

    #[test]
    fn every_file_system_is_recognised_by_its_marks() {
        let empty = vec![0; 0x2_0000];
        assert_eq!(probe(&empty).unwrap(), None);
        for (file_system, marks) in SIGNATURES {
            assert!(marks.iter().all(|(_, mark)| mark.len() <= LONGEST));
            assert_eq!(probe(&marked(&empty, marks)).unwrap(), Some(file_system));
        }
    }

    #[test]
    fn a_boot_sector_alone_is_no_file_system() {
        let mut disk = vec![0; 0x2_0000];
        disk[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(probe(&disk).unwrap(), None);
    }

    #[test]
    fn a_device_that_cannot_be_read_is_an_error() {
        struct Broken;
        impl ReadAt for Broken {
            fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        assert_eq!(probe(&Broken).unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_there_is_an_answer(disk in vec(any::<u8>(), 0..5000)) {
            prop_assert!(probe(&disk).is_ok());
        }

        #[test]
        fn a_disk_that_ends_early_has_what_lies_before_its_end(
            length in 0..0x1_1000_usize,
            which in 0..SIGNATURES.len(),
        ) {
            let (file_system, marks) = SIGNATURES[which];
            let mut disk = marked(&vec![0; 0x2_0000], marks);
            disk.truncate(length);
            let end = marks.iter().map(|(offset, mark)| *offset as usize + mark.len()).max();
            let expected = (Some(length) >= end).then_some(file_system);
            prop_assert_eq!(probe(&disk).unwrap(), expected);
        }
    }
}
