//! Images made and judged by QEMU's tools, and a disk in memory to compare with.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Buffers, Cache, Format, Image, OpenOptions};

/// The size of most disks here: several L2 tables of small clusters, and no whole number of large ones.
pub(crate) const SIZE: u64 = (3 << 20) + 512 * 37;

/// A small generator of numbers (xorshift64*): a test says its seed, and can be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A range of the disk: mostly small, some large, some aligned, some at the end.
    pub(crate) fn range(&mut self, size: u64) -> (u64, u64) {
        let sectors = size / 512;
        let length = match self.below(8) {
            0..=3 => 1 + self.below(16),
            4..=6 => 1 + self.below(300),
            _ => 1 + self.below(sectors),
        };
        let mut start = self.below(sectors);
        if self.below(3) == 0 {
            start &= !127;
        }
        let end = (start + length).min(sectors);
        if self.below(5) == 0 {
            // Ranges need not be sectors.
            let first = start * 512 + self.below(512);
            return (first, end * 512 - first);
        }
        (start * 512, (end - start) * 512)
    }
}

/// A folder with images in it.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        Bench { folder }
    }

    /// One whose file system is memory, where a flush takes no time.
    pub(crate) fn in_memory() -> Bench {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        Bench { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a program in the folder; what it prints.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error} (Debian package qemu-utils)"));
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{program} {arguments}: {text}");
        text
    }

    pub(crate) fn qemu_img(&self, arguments: &str) -> String {
        self.run("qemu-img", arguments)
    }

    /// A file of random bytes, zeros and text.
    pub(crate) fn base(&self, name: &str, size: u64, random: &mut Random) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        for chunk in bytes.chunks_mut(20_000) {
            match random.below(3) {
                0 => random.fill(chunk),
                1 => chunk.fill(random.next() as u8),
                _ => {}
            }
        }
        fs::write(self.path(name), &bytes).unwrap();
        bytes
    }

    /// The image is in order and has these bytes.
    pub(crate) fn check(&self, name: &str, format: Format, model: &[u8]) {
        if format == Format::Qcow2 {
            let text = self.qemu_img(&format!("check -f qcow2 {name}"));
            assert!(text.contains("No errors were found"), "{text}");
            let report = disk::qcow2::check(&self.path(name), false).unwrap();
            assert_eq!(report, Default::default());
        }
        fs::write(self.path("model"), model).unwrap();
        self.qemu_img(&format!("compare -f raw -F {format} model {name}"));
    }
}

pub(crate) fn options(format: Format) -> OpenOptions {
    OpenOptions {
        format,
        read_only: false,
        cache: Cache::Writeback,
        allowed: Vec::new(),
    }
}

pub(crate) fn open(path: &Path, format: Format) -> Box<dyn Image> {
    disk::open(path, &options(format)).unwrap_or_else(|error| panic!("{error:?}"))
}

pub(crate) fn open_read_only(path: &Path, format: Format) -> Box<dyn Image> {
    let options = OpenOptions {
        read_only: true,
        ..options(format)
    };
    disk::open(path, &options).unwrap_or_else(|error| panic!("{error:?}"))
}

pub(crate) fn read(image: &dyn Image, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; length as usize];
    image.read(offset, &Buffers::of_slice(&mut bytes)).unwrap();
    bytes
}

/// The whole disk is as the model says.
pub(crate) fn compare(image: &dyn Image, model: &[u8]) {
    assert_eq!(image.size(), model.len() as u64);
    for (at, expected) in model.chunks(1 << 20).enumerate() {
        let offset = (at as u64) << 20;
        let bytes = read(image, offset, expected.len() as u64);
        let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "from {offset}");
    }
}

/// Writes, zeroes, discards, reads and flushes at random, and does the same to the model.
pub(crate) fn play(image: &dyn Image, model: &mut [u8], random: &mut Random, steps: u64) {
    for step in 0..steps {
        let (offset, length) = random.range(model.len() as u64);
        let range = offset as usize..(offset + length) as usize;
        match random.below(20) {
            0..=9 => {
                random.fill(&mut model[range.clone()]);
                let mut bytes = model[range].to_vec();
                image.write(offset, &Buffers::of_slice(&mut bytes)).unwrap();
            }
            10..=11 => {
                image
                    .write_zeroes(offset, length, random.below(2) == 0)
                    .unwrap();
                model[range].fill(0);
            }
            12 => {
                image.discard(offset, length).unwrap();
                // Zeros or what was there, in any mixture.
                let bytes = read(image, offset, length);
                for (new, old) in bytes.iter().zip(&mut model[range]) {
                    assert!(*new == 0 || new == old, "step {step}");
                    *old = *new;
                }
            }
            13 => image.flush().unwrap(),
            _ => assert!(
                read(image, offset, length) == model[range],
                "step {step}: {offset} {length}"
            ),
        }
    }
}
