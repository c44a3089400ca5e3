//! Compressed disks as VMware writes them: markers before everything, and the true header at the end.

use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::tools::{noise, open, read, read_all, read_by_qemu};

/// Bytes of a grain.
const GRAIN: usize = 64 << 10;

fn sector(bytes: &mut Vec<u8>) -> u32 {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    (bytes.len() / 512) as u32
}

fn marker(bytes: &mut Vec<u8>, sectors: u64, kind: u32) {
    sector(bytes);
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    sector(bytes);
}

fn header(capacity: u64, directory: u64) -> Vec<u8> {
    let mut header = b"KDMV".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend(0x30001_u32.to_le_bytes());
    for field in [capacity, 128, 1, 1] {
        header.extend(field.to_le_bytes());
    }
    header.extend(512_u32.to_le_bytes());
    for field in [0, directory, 128] {
        header.extend(field.to_le_bytes());
    }
    header.extend(*b"\0\n \r\n\x01\0");
    header.resize(512, 0);
    header
}

/// Packs the grains of `disk` that are not zero; `change` may damage the packed bytes of a grain.
fn stream(disk: &[u8], mut change: impl FnMut(usize, &mut Vec<u8>)) -> Vec<u8> {
    let capacity = (disk.len() / 512) as u64;
    let mut file = header(capacity, u64::MAX);
    file.extend(b"# Disk DescriptorFile\nCID=12345678\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n");
    file.extend(format!("RW {capacity} SPARSE \"disk.vmdk\"\n").as_bytes());
    file.resize(128 * 512, 0);
    let mut table = vec![0_u32; 512];
    for (number, grain) in disk.chunks(GRAIN).enumerate() {
        if grain.iter().all(|&byte| byte == 0) {
            continue;
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(grain).unwrap();
        encoder.write_all(&vec![0; GRAIN - grain.len()]).unwrap();
        let packed = encoder.finish().unwrap();
        let mut record = (number as u64 * 128).to_le_bytes().to_vec();
        record.extend((packed.len() as u32).to_le_bytes());
        record.extend(packed);
        change(number, &mut record);
        table[number] = sector(&mut file);
        file.extend(record);
    }
    marker(&mut file, 4, 1);
    let table_at = sector(&mut file);
    file.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    marker(&mut file, 1, 2);
    let directory_at = sector(&mut file);
    file.extend(table_at.to_le_bytes());
    sector(&mut file);
    marker(&mut file, 1, 3);
    file.extend(header(capacity, directory_at.into()));
    file.resize(file.len() + 512, 0);
    file
}

fn disk() -> Vec<u8> {
    let mut disk = vec![0; (1 << 20) + 5 * 512];
    disk[1000..200_000].copy_from_slice(&noise(1, 199_000));
    disk[500_000..600_000].fill(7);
    let end = disk.len();
    disk[end - 100..].copy_from_slice(&noise(2, 100));
    disk
}

fn saved(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("disk.vmdk");
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_header_at_the_end_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), &stream(&disk(), |_, _| {}));
    let image = open(&path, true).unwrap();
    assert!(read_all(&*image) == disk());
    drop(image);
    assert!(read_by_qemu(&path) == disk());
    let error = open(&path, false).unwrap_err();
    assert!(error.to_string().contains("only be read"), "{error}");
}

#[test]
fn a_stream_that_was_cut_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let whole = stream(&disk(), |_, _| {});
    for end in [512, 1024, 128 * 512, whole.len() - 1024, whole.len() - 512] {
        let path = saved(folder.path(), &whole[..end]);
        assert!(open(&path, true).is_err(), "{end}");
    }
}

#[test]
fn a_damaged_grain_spoils_no_other() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 8] = [
        ("another place", |record| record[0] ^= 128),
        ("no bytes", |record| record[8..12].fill(0)),
        ("4 GiB", |record| record[8..12].fill(0xff)),
        ("cut", |record| {
            record[8..12].copy_from_slice(&100_u32.to_le_bytes())
        }),
        ("no zlib", |record| record[12] = 0xff),
        ("changed", |record| {
            let middle = record.len() / 2;
            record[middle] ^= 0xff;
        }),
        ("too little", |record| repack(record, 1000)),
        // Zeros pack a thousandfold: it must not be unpacked to its end.
        ("a bomb", |record| repack(record, 64 << 20)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let expected = disk();
    for (name, damage) in damages {
        let bytes = stream(&expected, |number, record| {
            if number == 1 {
                damage(record);
            }
        });
        let path = saved(folder.path(), &bytes);
        let image = open(&path, true).unwrap();
        let error = read(&*image, GRAIN as u64, 512).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::InvalidData,
            "{name}: {error}"
        );
        assert!(
            read(&*image, 0, GRAIN).unwrap() == expected[..GRAIN],
            "{name}"
        );
        assert!(read(&*image, 2 * GRAIN as u64, GRAIN).unwrap() == expected[2 * GRAIN..3 * GRAIN]);
    }
}

fn repack(record: &mut Vec<u8>, length: usize) {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; length]).unwrap();
    let packed = encoder.finish().unwrap();
    record.truncate(8);
    record.extend((packed.len() as u32).to_le_bytes());
    record.extend(packed);
}
