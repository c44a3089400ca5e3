//! What is done to an image that may be hostile: everything. Nothing of it may panic, hang or take much memory.

use std::path::Path;

use disk::{Access, Buffers, Cache, Format, Image, OpenOptions};

/// The most bytes that one request has.
const LENGTH_MAX: u64 = 200_000;

/// Opens, reads, writes, examines and repairs the image, as the script says.
pub(crate) fn exercise(path: &Path, format: Format, script: &[u8]) {
    examine(path, format, false);
    for read_only in [true, false, true] {
        let options = OpenOptions {
            format,
            read_only,
            cache: Cache::Writeback,
            allowed: Vec::new(),
        };
        if let Ok(image) = disk::open(path, &options) {
            play(&*image, script);
        }
        examine(path, format, !read_only);
    }
}

fn examine(path: &Path, format: Format, repair: bool) {
    if format == Format::Qcow2 {
        let _ = disk::qcow2::check(path, repair);
    }
}

fn play(image: &dyn Image, script: &[u8]) {
    let size = image.size();
    assert!(size > 0 && size.is_multiple_of(disk::SECTOR));
    let mut memory = vec![0; LENGTH_MAX as usize];
    // The beginning and the end first: there is something in most images.
    read(image, &mut memory, 0, size);
    read(image, &mut memory, size.saturating_sub(4096), size);
    for (at, step) in script.chunks_exact(4).enumerate() {
        let [action, place, fine, length] = [step[0], step[1], step[2], step[3]];
        let offset = match action >> 6 {
            // Near the beginning, anywhere, near the end.
            0 | 1 => (u64::from(place) << 12 | u64::from(fine) << 4) % size,
            2 => (size / 256).saturating_mul(place.into()) + u64::from(fine) % size.min(256),
            _ => size - 1 - (u64::from(place) << 8 | u64::from(fine)) % size,
        };
        let length = (u64::from(length).pow(2) * 3 + 1).min(size.saturating_sub(offset));
        if length == 0 {
            continue;
        }
        let _ = match action & 7 {
            0 | 1 => write(image, &mut memory, offset, length, at as u8 | 1),
            2 => image.write_zeroes(offset, length, true),
            3 => image.write_zeroes(offset, length, false),
            4 => image.discard(offset, length),
            5 => image.flush(),
            6 => {
                let place = image.place(offset, length, Access::Read);
                assert!(place.is_none_or(|place| (1..=length).contains(&place.length)));
                image.allocated().map(|_| ())
            }
            _ => {
                let larger = size.saturating_add(u64::from(fine) << 9);
                let _ = image.resize(larger);
                Ok(())
            }
        };
        read(image, &mut memory, offset, size);
    }
}

fn read(image: &dyn Image, memory: &mut [u8], offset: u64, size: u64) {
    let length = 10_000.min(size.saturating_sub(offset)) as usize;
    let _ = image.read(offset, &Buffers::of_slice(&mut memory[..length]));
}

fn write(
    image: &dyn Image,
    memory: &mut [u8],
    offset: u64,
    length: u64,
    byte: u8,
) -> std::io::Result<()> {
    let memory = &mut memory[..length as usize];
    memory.fill(byte);
    image.write(offset, &Buffers::of_slice(memory))
}
