//! Images made to do harm are refused with a reason.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use disk::{CreateOptions, DiskError, Subformat};
use proptest::prelude::*;

use crate::tools::{
    SUBFORMATS, converted, noise, open, open_with, options, raw_image, read, write,
};

fn described(folder: &Path, lines: &str) -> Result<Box<dyn disk::Image>, DiskError> {
    let path = folder.join("disk.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n{lines}"
    );
    fs::write(&path, text).unwrap();
    open(&path, true)
}

#[test]
fn extents_elsewhere_are_refused_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("disks");
    fs::create_dir(&inside).unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, noise(1, 4096)).unwrap();
    symlink(&secret, inside.join("link")).unwrap();
    let absolute = secret.to_str().unwrap();
    for name in [absolute, "../secret", "link", "/dev/zero", "/etc/passwd"] {
        for kind in ["FLAT", "SPARSE"] {
            let error = described(&inside, &format!("RW 1 {kind} \"{name}\"\n")).unwrap_err();
            assert!(
                matches!(error, DiskError::NotAllowed { .. }),
                "{name}: {error}"
            );
        }
    }
    for name in [absolute, "../secret", "link"] {
        described(&inside, &format!("RW 8 FLAT \"{name}\" 0\n")).unwrap_err();
        for allowed in [secret.clone(), folder.path().to_owned()] {
            let mut options = options(true);
            options.allowed = vec![allowed];
            let image = open_with(&inside.join("disk.vmdk"), &options).unwrap();
            assert!(read(&*image, 0, 4096).unwrap() == noise(1, 4096));
        }
    }
}

#[test]
fn extents_that_are_missing_or_too_small_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = described(folder.path(), "RW 1 FLAT \"missing.vmdk\" 0\n").unwrap_err();
    assert!(
        matches!(&error, DiskError::Open { path, .. } if path.ends_with("missing.vmdk")),
        "{error}"
    );
    fs::write(folder.path().join("small"), [0; 1024]).unwrap();
    for line in [
        "RW 3 FLAT \"small\" 0",
        "RW 1 FLAT \"small\" 2",
        "RW 1 FLAT \"small\" 18446744073709551615",
        "RW 9223372036854775807 FLAT \"small\" 0",
        "RW 1 SPARSE \"small\"",
    ] {
        let error = described(folder.path(), line).unwrap_err();
        assert!(
            matches!(error, DiskError::Invalid { .. }),
            "{line}: {error}"
        );
    }
    nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    for name in ["fifo", "folder", "."] {
        let error = described(folder.path(), &format!("RW 1 FLAT \"{name}\" 0")).unwrap_err();
        assert!(matches!(error, DiskError::Open { .. }), "{name}: {error}");
    }
}

#[test]
fn a_disk_cannot_be_its_own_extent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    let text = "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"disk.vmdk\" 0\n";
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(512, b'\n');
    fs::write(&path, bytes).unwrap();
    let error = open(&path, false).unwrap_err();
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
}

#[test]
fn what_is_no_vmdk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    for bytes in [
        Vec::new(),
        b"KDMV".to_vec(),
        b"COWD".to_vec(),
        noise(1, 4096),
        vec![0; 4096],
        b"# Disk DescriptorFile".to_vec(),
        [b"KDMV".as_slice(), &noise(2, 8188)].concat(),
    ] {
        fs::write(&path, &bytes).unwrap();
        for read_only in [true, false] {
            assert!(open(&path, read_only).is_err(), "{:?}", bytes.get(..20));
        }
    }
    // Not read at all: it would take its size in memory.
    let file = File::create(&path).unwrap();
    file.set_len(100 << 20).unwrap();
    let error = open(&path, true).unwrap_err();
    assert!(error.to_string().contains("descriptor"), "{error}");
    // A qcow2 image that is said to be a vmdk.
    fs::write(&path, b"QFI\xfb\0\0\0\x03").unwrap();
    assert!(open(&path, true).is_err());
}

#[test]
fn an_extent_alone_is_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 1 << 20, &[(0, 512)]);
    converted(&raw, "twoGbMaxExtentSparse");
    let error = open(&folder.path().join("twoGbMaxExtentSparse-s001.vmdk"), true).unwrap_err();
    assert!(error.to_string().contains("descriptor"), "{error}");
}

/// An image with one grain, whose numbers of 32 bits can be changed.
fn sparse(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("disk.vmdk");
    let _ = fs::remove_file(&path);
    let subformat = Subformat::MonolithicSparse;
    disk::create(
        &path,
        &CreateOptions::Vmdk {
            size: 1 << 20,
            subformat,
        },
    )
    .unwrap();
    let image = open(&path, false).unwrap();
    write(&*image, 0, &noise(1, 512)).unwrap();
    drop(image);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn directories_and_tables_must_lie_where_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sparse(folder.path());
    let directory = number(&bytes, 56) as usize * 512;
    let sectors = (bytes.len() / 512) as u32;
    // Fields of the header, and the first entry of the directory.
    for (at, value) in [
        (28, sectors),
        (28, u32::MAX),
        (36, u32::MAX),
        (36, sectors),
        (48, 1),
        (48, sectors),
        (56, 0),
        (56, 1),
        (56, sectors),
        (56, u32::MAX),
        (16, u32::MAX),
        (12, 0),
        (20, 0),
        (20, 3),
        (44, 0),
        (44, u32::MAX),
        (directory, 1),
        (directory, sectors - 3),
        (directory, sectors),
        (directory, u32::MAX),
        (directory, (directory / 512) as u32),
    ] {
        let mut changed = bytes.clone();
        changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, changed).unwrap();
        let error = open(&path, false).unwrap_err();
        assert!(
            matches!(
                error,
                DiskError::Invalid { .. } | DiskError::Unsupported { .. }
            ),
            "{at} {value}: {error}"
        );
    }
}

#[test]
fn grains_must_lie_where_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sparse(folder.path());
    let table = number(&bytes, number(&bytes, 56) as usize * 512) as usize * 512;
    let sectors = (bytes.len() / 512) as u32;
    for value in [1, 2, 21, 26, sectors - 127, sectors, u32::MAX] {
        let mut changed = bytes.clone();
        changed[table..table + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, &changed).unwrap();
        let image = open(&path, false).unwrap();
        let error = read(&*image, 0, 512).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::InvalidData,
            "{value}: {error}"
        );
        assert!(write(&*image, 0, b"x").is_err(), "{value}");
        assert!(image.place(0, 512, disk::Access::Write).is_none());
        // The rest of the disk is as good as before.
        assert!(read(&*image, 64 << 10, 512).unwrap() == [0; 512]);
        write(&*image, 64 << 10, b"x").unwrap();
        drop(image);
        let after = fs::read(&path).unwrap();
        let metadata = 21 * 512..table.min(26 * 512);
        assert!(after[metadata.clone()][..4] == changed[metadata][..4]);
    }
}

#[test]
fn a_file_that_was_cut_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sparse(folder.path());
    for length in (0..bytes.len()).step_by(512 * 7) {
        fs::write(&path, &bytes[..length]).unwrap();
        match open(&path, false) {
            Err(_) => {}
            Ok(image) => assert!(read(&*image, 0, 512).is_err(), "{length}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Changes bytes of images, mostly where the metadata is, and uses them.
    #[test]
    fn damaged_images_do_no_harm(
        subformat in proptest::sample::select(SUBFORMATS.to_vec()),
        changes in proptest::collection::vec((prop_oneof![0..100_usize, 512..1200_usize, 10_000..20_000_usize, any::<usize>()], any::<u8>()), 1..6),
    ) {
        let (folder, path) = damaged_copy(subformat, &changes);
        for read_only in [true, false] {
            let Ok(image) = open(&path, read_only) else { continue };
            let size = image.size();
            for at in [0, size / 2, size.saturating_sub(5000)] {
                let length = size.saturating_sub(at).min(5000);
                let _ = read(&*image, at, length as usize);
                let _ = image.place(at, length, disk::Access::Read);
                let _ = write(&*image, at, &noise(at, length as usize));
                let _ = image.write_zeroes(at, length, true);
                let _ = image.discard(at, length);
            }
            let _ = image.flush();
        }
        drop(folder);
    }
}

/// A copy of an image in a folder of its own, with some bytes changed.
fn damaged_copy(
    subformat: &'static str,
    changes: &[(usize, u8)],
) -> (tempfile::TempDir, std::path::PathBuf) {
    use std::sync::OnceLock;
    static IMAGES: OnceLock<tempfile::TempDir> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let raw = raw_image(folder.path(), 300_032, &[(0, 512), (100_000, 100_000)]);
        for subformat in SUBFORMATS {
            converted(&raw, subformat);
        }
        folder
    });
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(images.path()).unwrap() {
        let name = entry.unwrap().file_name();
        if !name.to_str().unwrap().starts_with(subformat) {
            continue;
        }
        let mut bytes = fs::read(images.path().join(&name)).unwrap();
        for &(at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        fs::write(folder.path().join(&name), bytes).unwrap();
    }
    let path = folder.path().join(format!("{subformat}.vmdk"));
    (folder, path)
}
