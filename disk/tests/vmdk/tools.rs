//! Images for the tests, and the programs of QEMU.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use disk::{Buffers, Cache, DiskError, Format, Image, OpenOptions};

/// Held while a program runs. At its start it is a copy of this process and holds the locks of its images.
static RUNNING: Mutex<()> = Mutex::new(());

/// The subformats as both sides name them.
pub(crate) const SUBFORMATS: [&str; 5] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
];

/// Runs a program of qemu-utils that must succeed.
pub(crate) fn qemu<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let output = qemu_output(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {text}{errors}");
    text
}

pub(crate) fn qemu_output<'a>(
    program: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Output {
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    Command::new(program)
        .args(arguments)
        .output()
        .expect("qemu-utils is installed (make setup)")
}

/// Converts a raw image with qemu-img.
pub(crate) fn converted(raw: &Path, subformat: &str) -> PathBuf {
    let image = raw.with_file_name(format!("{subformat}.vmdk"));
    let options = format!("subformat={subformat}");
    let (from, to) = (text(raw), text(&image));
    qemu(
        "qemu-img",
        [
            "convert", "-f", "raw", "-O", "vmdk", "-o", &options, from, to,
        ],
    );
    image
}

/// The sectors as qemu-img reads them.
pub(crate) fn read_by_qemu(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("dump");
    qemu(
        "qemu-img",
        [
            "convert",
            "-f",
            "vmdk",
            "-O",
            "raw",
            text(image),
            text(&raw),
        ],
    );
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn options(read_only: bool) -> OpenOptions {
    OpenOptions {
        format: Format::Vmdk,
        read_only,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    }
}

pub(crate) fn open(path: &Path, read_only: bool) -> Result<Box<dyn Image>, DiskError> {
    open_with(path, &options(read_only))
}

pub(crate) fn open_with(path: &Path, options: &OpenOptions) -> Result<Box<dyn Image>, DiskError> {
    drop(RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    disk::open(path, options)
}

pub(crate) fn read(image: &dyn Image, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; length];
    image.read(offset, &Buffers::of_slice(&mut bytes))?;
    Ok(bytes)
}

pub(crate) fn read_all(image: &dyn Image) -> Vec<u8> {
    read(image, 0, image.size() as usize).unwrap()
}

pub(crate) fn write(image: &dyn Image, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    image.write(offset, &Buffers::of_slice(&mut bytes.to_vec()))
}

/// Bytes that look random and are the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// A raw image of `size` bytes with data at some places.
pub(crate) fn raw_image(folder: &Path, size: u64, data: &[(u64, usize)]) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = folder.join("source.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for &(offset, length) in data {
        file.write_all_at(&noise(offset, length), offset).unwrap();
    }
    path
}
