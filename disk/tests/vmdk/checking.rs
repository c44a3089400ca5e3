//! Damage is found, named and repaired.

use std::fs;

use disk::{CheckReport, Repair};

use crate::tools::{
    SUBFORMATS, converted, noise, open, options, qemu, raw_image, read, text, write,
};

#[test]
fn images_in_order_have_no_findings() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 3 << 20, &[(0, 100_000), (2 << 20, 1 << 20)]);
    for subformat in SUBFORMATS {
        let path = converted(&raw, subformat);
        let report = disk::check(&path, &options(true), Repair::Nothing).unwrap();
        assert_eq!(report, CheckReport::default(), "{subformat}");
        let info = disk::info(&path, &options(true)).unwrap();
        assert_eq!(info.subformat, Some(subformat));
        assert_eq!((info.virtual_size, info.dirty), (3 << 20, false));
        assert_eq!(info.cluster_size.is_some(), !subformat.contains("Flat"));
    }
}

#[test]
fn damaged_tables_are_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 3 << 20, &[(0, 200_000)]);
    let path = converted(&raw, "monolithicSparse");
    let mut bytes = fs::read(&path).unwrap();
    let number =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let table = number(&bytes, number(&bytes, 56) as usize * 512) as usize * 512;
    // Grain 1 lies nowhere; the second copy of the table does not know it. Nothing refers to its bytes any more.
    bytes[table + 4..table + 8].fill(0xff);
    fs::write(&path, &bytes).unwrap();
    let check = |repair| disk::check(&path, &options(true), repair).unwrap();

    let report = check(Repair::Nothing);
    assert_eq!((report.corruptions, report.leaks), (2, 1), "{report:?}");
    assert!(report.messages[0].contains("grain 1"), "{report:?}");
    assert!(fs::read(&path).unwrap() == bytes, "it only looked");

    let report = check(Repair::Leaks);
    assert_eq!(
        (report.corruptions, report.leaks, report.leaks_fixed),
        (2, 0, 1)
    );
    let report = check(Repair::All);
    assert_eq!(
        (report.corruptions, report.corruptions_fixed),
        (0, 2),
        "{report:?}"
    );
    assert_eq!(check(Repair::Nothing), CheckReport::default());
    qemu("qemu-img", ["check", "-f", "vmdk", text(&path)]);
    let image = open(&path, true).unwrap();
    assert!(read(&*image, 0, 65536).unwrap() == noise(0, 65536));
    assert!(read(&*image, 65536, 65536).unwrap() == [0; 65536]);
    assert!(read(&*image, 131_072, 60_000).unwrap() == noise(0, 200_000)[131_072..191_072]);
}

#[test]
fn grains_that_share_sectors_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 3 << 20, &[(0, 200_000)]);
    let path = converted(&raw, "monolithicSparse");
    let mut bytes = fs::read(&path).unwrap();
    for at in [48, 56] {
        let directory = bytes[at] as usize * 512;
        let table = bytes[directory] as usize * 512;
        bytes.copy_within(table..table + 4, table + 4);
    }
    fs::write(&path, &bytes).unwrap();
    let report = disk::check(&path, &options(true), Repair::Nothing).unwrap();
    assert_eq!((report.corruptions, report.leaks), (1, 1), "{report:?}");
}

#[test]
fn a_crash_leaves_leaks_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let raw = raw_image(folder.path(), 3 << 20, &[(0, 1000)]);
    let path = converted(&raw, "monolithicSparse");
    let image = open(&path, false).unwrap();
    write(&*image, 1 << 20, &noise(1, 100_000)).unwrap();
    let copy = folder.path().join("copy.vmdk");
    fs::copy(&path, &copy).unwrap();
    let check = |repair| disk::check(&copy, &options(true), repair).unwrap();
    assert!(disk::info(&copy, &options(true)).unwrap().dirty);
    let report = check(Repair::Nothing);
    assert_eq!((report.corruptions, report.leaks), (0, 2), "{report:?}");
    assert_eq!(check(Repair::All).leaks_fixed, 2);
    assert_eq!(check(Repair::Nothing), CheckReport::default());
    assert!(!disk::info(&copy, &options(true)).unwrap().dirty);
}
