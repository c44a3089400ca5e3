//! The host loses its power: of the sectors that were written since the last fdatasync(2), any are there and others are not.
//! What was flushed is found all the same, and the image is in order.
//!
//! A file is looked at whenever it is about to be made durable. Between two such instants it may become anything that has
//! each of its sectors from either of them.
#![allow(clippy::unwrap_used)]

mod support;

use std::cell::RefCell;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};

use disk::{Buffers, CreateOptions, Format, Preallocation, Repair, Subformat, qcow2};
use support::{Bench, Random, open, open_read_only, options, read};

const SECTOR: usize = 512;

/// Takes the place of the C library's in this program. Nothing has to be durable here.
#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    let path = fs::read_link(format!("/proc/self/fd/{file}")).unwrap();
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording
            && recording.file == path
        {
            recording.look();
        }
    });
    0
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// What becomes of a file while this thread changes it.
struct Recording {
    file: PathBuf,
    progress: Progress,
    instants: Vec<Instant>,
}

/// The last step that was begun and the last one that was flushed, counted from 1.
#[derive(Clone, Copy, Default)]
struct Progress {
    begun: u64,
    flushed: u64,
}

struct Instant {
    bytes: Vec<u8>,
    progress: Progress,
}

impl Recording {
    fn begin(file: &Path) {
        let mut recording = Recording {
            file: file.to_owned(),
            progress: Progress::default(),
            instants: Vec::new(),
        };
        recording.look();
        RECORDING.set(Some(recording));
    }

    fn look(&mut self) {
        self.instants.push(Instant {
            bytes: fs::read(&self.file).unwrap(),
            progress: self.progress,
        });
    }
}

fn progress(change: impl FnOnce(&mut Progress)) {
    RECORDING.with_borrow_mut(|recording| change(&mut recording.as_mut().unwrap().progress));
}

/// Writes `number` to some sectors, or zeros.
struct Step {
    first: usize,
    count: usize,
    value: u64,
}

/// Changes the image step by step and flushes it now and then; all that its file was at the instants that count.
fn record(path: &Path, format: Format, steps: &[Step], random: &mut Random) -> Vec<Instant> {
    Recording::begin(path);
    let image = open(path, format);
    for (number, step) in (1..).zip(steps) {
        progress(|progress| progress.begun = number);
        let (offset, length) = (step.first * SECTOR, step.count * SECTOR);
        if step.value == 0 {
            image
                .write_zeroes(offset as u64, length as u64, true)
                .unwrap();
        } else {
            let mut bytes = step.value.to_le_bytes().repeat(length / 8);
            let buffers = Buffers::of_slice(&mut bytes);
            image.write(offset as u64, &buffers).unwrap();
        }
        // The last ones are left to the closing.
        if random.below(3) == 0 && number + 8 < steps.len() as u64 {
            image.flush().unwrap();
            progress(|progress| progress.flushed = number);
        }
    }
    drop(image);
    let mut recording = RECORDING.take().unwrap();
    recording.look();
    recording.instants
}

/// Any sectors of the one, and the others of the other.
fn cut(before: &[u8], after: &[u8], random: &mut Random) -> Vec<u8> {
    let length = match random.below(2) {
        0 => before.len(),
        _ => after.len(),
    };
    let mut bytes = before.to_vec();
    bytes.resize(length, 0);
    let eighths = [1, 4, 7][random.below(3) as usize];
    for (old, new) in bytes.chunks_mut(SECTOR).zip(after.chunks(SECTOR)) {
        let length = old.len().min(new.len());
        if old[..length] != new[..length] && random.below(8) < eighths {
            old[..length].copy_from_slice(&new[..length]);
        }
    }
    bytes
}

/// Every sector has what the last flushed step wrote, or what a later one did.
fn judge(disk: &[u8], initial: &[u64], steps: &[Step], progress: Progress) -> Result<(), String> {
    let mut allowed: Vec<Vec<u64>> = initial.iter().map(|value| vec![*value]).collect();
    for (number, step) in (1..=progress.begun).zip(steps) {
        for values in &mut allowed[step.first..step.first + step.count] {
            if number <= progress.flushed {
                values.clear();
            }
            values.push(step.value);
        }
    }
    for (sector, (found, values)) in disk.chunks(SECTOR).zip(allowed).enumerate() {
        let is = |value: &u64| found == value.to_le_bytes().repeat(SECTOR / 8);
        if !values.iter().any(is) {
            let found = &found[..8];
            return Err(format!("sector {sector} has {found:?} and not {values:?}"));
        }
    }
    Ok(())
}

fn steps(sectors: usize, number: u64, longest: u64, random: &mut Random) -> Vec<Step> {
    let step = |number| {
        let count = match random.below(4) {
            0 => 1 + random.below(longest) as usize,
            _ => 1 + random.below(16) as usize,
        };
        let first = random.below((sectors - count) as u64) as usize;
        let zeros = random.below(6) == 0;
        let value = if zeros { 0 } else { number };
        Step {
            first,
            count,
            value,
        }
    };
    (1..=number).map(step).collect()
}

/// Has the power fail again and again while an image that reads as `initial` is changed.
fn survives(bench: &Bench, name: &str, initial: &[u64], number: u64, longest: u64) {
    let path = bench.path(name);
    let format = Format::from_extension(&path).unwrap();
    let mut random = Random::new(7);
    let steps = steps(initial.len(), number, longest, &mut random);
    let instants = record(&path, format, &steps, &mut random);
    assert!(
        instants.len() as u64 > number / 5,
        "nothing is made durable"
    );
    for (at, pair) in instants.windows(2).enumerate() {
        for _ in 0..6 {
            for bytes in readings(format, cut(&pair[0].bytes, &pair[1].bytes, &mut random)) {
                fs::write(&path, bytes).unwrap();
                if format != Format::Raw {
                    let report = disk::check(&path, &options(format), Repair::Nothing).unwrap();
                    assert_eq!(report.corruptions, 0, "{name}, {at}: {report:?}");
                }
                let image = open_read_only(&path, format);
                let disk = read(&*image, 0, (initial.len() * SECTOR) as u64);
                if let Err(error) = judge(&disk, initial, &steps, pair[1].progress) {
                    panic!("{name}, {at}: {error}");
                }
            }
        }
        if format == Format::Vmdk {
            // Whoever writes it next leaves two copies of the tables that are the same.
            drop(open(&path, format));
            let report = disk::check(&path, &options(format), Repair::Nothing).unwrap();
            let differ = |message: &String| message.contains("differ");
            assert!(!report.messages.iter().any(differ), "{at}: {report:?}");
        }
    }
}

/// The image as it is read: of a VMDK there are two copies of the tables, and each is right for itself.
fn readings(format: Format, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut readings = vec![bytes];
    if format == Format::Vmdk {
        // rgdOffset and gdOffset, in exchange.
        let mut other = readings[0].clone();
        other[48..64].rotate_left(8);
        readings.push(other);
    }
    readings
}

/// Sectors of most disks here: enough for several tables of small clusters.
const SECTORS: usize = 800;

/// A raw disk called base.raw, whose sectors have values that no step writes.
fn base(bench: &Bench) -> Vec<u64> {
    let values: Vec<_> = (0..SECTORS as u64)
        .map(|sector| sector + (1 << 40))
        .collect();
    let sector = |value: &u64| value.to_le_bytes().repeat(SECTOR / 8);
    let bytes: Vec<_> = values.iter().flat_map(sector).collect();
    fs::write(bench.path("base.raw"), bytes).unwrap();
    values
}

#[test]
fn raw() {
    let bench = Bench::in_memory();
    let size = (SECTORS * SECTOR) as u64;
    let preallocation = Preallocation::Off;
    let options = CreateOptions::Raw {
        size,
        preallocation,
    };
    disk::create(&bench.path("disk.raw"), &options).unwrap();
    survives(&bench, "disk.raw", &[0; SECTORS], 40, 100);
}

#[test]
fn qcow2_with_clusters_of_every_kind_of_size() {
    for cluster_size in [512, 4096, 65536] {
        let bench = Bench::in_memory();
        let options = qcow2::CreateOptions {
            cluster_size,
            ..qcow2::CreateOptions::of_size((SECTORS * SECTOR) as u64)
        };
        disk::create(&bench.path("disk.qcow2"), &CreateOptions::Qcow2(options)).unwrap();
        survives(&bench, "disk.qcow2", &[0; SECTORS], 40, 100);
    }
}

#[test]
fn qcow2_with_a_backing_file() {
    let bench = Bench::in_memory();
    let initial = base(&bench);
    let options = qcow2::CreateOptions {
        cluster_size: 4096,
        backing: Some(("base.raw".into(), Format::Raw)),
        ..qcow2::CreateOptions::of_size((SECTORS * SECTOR) as u64)
    };
    disk::create(&bench.path("disk.qcow2"), &CreateOptions::Qcow2(options)).unwrap();
    survives(&bench, "disk.qcow2", &initial, 40, 100);
}

#[test]
fn qcow2_whose_clusters_are_compressed_or_a_snapshots() {
    let bench = Bench::in_memory();
    let initial = base(&bench);
    bench.qemu_img("convert -f raw -O qcow2 -c -o cluster_size=4k base.raw disk.qcow2");
    survives(&bench, "disk.qcow2", &initial, 40, 100);
    fs::remove_file(bench.path("disk.qcow2")).unwrap();
    bench.qemu_img("convert -f raw -O qcow2 -o cluster_size=4k base.raw disk.qcow2");
    bench.qemu_img("snapshot -c before disk.qcow2");
    survives(&bench, "disk.qcow2", &initial, 40, 100);
}

#[test]
fn qcow2_whose_table_of_reference_counts_grows() {
    let bench = Bench::in_memory();
    let sectors = 8000;
    let size = sectors * SECTOR;
    bench.qemu_img(&format!(
        "create -f qcow2 -o cluster_size=512,refcount_bits=64 disk.qcow2 {size}"
    ));
    let clusters = |path: &Path| fs::read(path).unwrap()[59];
    let path = bench.path("disk.qcow2");
    let before = clusters(&path);
    survives(&bench, "disk.qcow2", &vec![0; sectors], 20, 6000);
    assert!(clusters(&path) > before);
}

#[test]
fn vmdk() {
    for has_tables in [true, false] {
        let bench = Bench::in_memory();
        let path = bench.path("disk.vmdk");
        let options = CreateOptions::Vmdk {
            size: (SECTORS * SECTOR) as u64,
            subformat: Subformat::MonolithicSparse,
        };
        disk::create(&path, &options).unwrap();
        if !has_tables {
            let mut bytes = fs::read(&path).unwrap();
            for at in [48, 56] {
                let directory = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
                bytes[directory * SECTOR..][..4].fill(0);
            }
            fs::write(&path, bytes).unwrap();
        }
        survives(&bench, "disk.vmdk", &[0; SECTORS], 40, 100);
    }
}

/// Without the new id, a disk that holds the differences to this one would be taken for a good one.
#[test]
fn a_vmdk_has_a_new_content_id_before_it_has_new_contents() {
    for subformat in [Subformat::MonolithicSparse, Subformat::MonolithicFlat] {
        let bench = Bench::in_memory();
        let path = bench.path("disk.vmdk");
        let size = (SECTORS * SECTOR) as u64;
        disk::create(&path, &CreateOptions::Vmdk { size, subformat }).unwrap();
        let image = open(&path, Format::Vmdk);
        Recording::begin(&path);
        image.write(0, &Buffers::of_slice(&mut [1; 512])).unwrap();
        let recording = RECORDING.take().unwrap();
        let id = |instant: &Instant| {
            let text = String::from_utf8_lossy(&instant.bytes).into_owned();
            text[text.find("\nCID=").unwrap()..][..13].to_owned()
        };
        let ids: Vec<_> = recording.instants.iter().map(id).collect();
        assert!(ids.len() > 1, "{subformat:?}: nothing was made durable");
        assert_ne!(ids[0], ids[1], "{subformat:?}");
    }
}
