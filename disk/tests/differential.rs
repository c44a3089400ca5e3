//! Every kind of image against a plain model of the disk and against QEMU's own tools.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use disk::qcow2::{CreateOptions, Preallocation, create};
use disk::{Format, Image, Repair};
use support::{Bench, Random, SIZE, compare, open, open_read_only, options, play};

/// Plays at random on an image that has the bytes of the model, closing and opening it between.
fn exercise(bench: &Bench, name: &str, format: Format, mut model: Vec<u8>, random: &mut Random) {
    for _ in 0..3 {
        let image = open(&bench.path(name), format);
        compare(&*image, &model);
        play(&*image, &mut model, random, 60);
        compare(&*image, &model);
        drop(image);
        bench.check(name, format, &model);
    }
}

/// The same for a fresh image that qemu-img makes with these options.
fn exercise_fresh(seed: u64, options: &str) {
    let bench = Bench::new();
    let mut random = Random::new(seed);
    bench.qemu_img(&format!("create -f qcow2 {options} disk.qcow2 {SIZE}"));
    let model = vec![0; SIZE as usize];
    exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
}

#[test]
fn raw() {
    let bench = Bench::new();
    let mut random = Random::new(1);
    let model = bench.base("disk.raw", SIZE, &mut random);
    exercise(&bench, "disk.raw", Format::Raw, model, &mut random);
}

#[test]
fn fresh() {
    exercise_fresh(2, "");
}

#[test]
fn version_2() {
    exercise_fresh(3, "-o compat=0.10");
    exercise_fresh(3, "-o compat=0.10,cluster_size=4k");
}

#[test]
fn every_cluster_size() {
    for bits in 9..=21 {
        exercise_fresh(bits, &format!("-o cluster_size={}", 1 << bits));
    }
}

#[test]
fn every_width_of_reference_counts() {
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        exercise_fresh(bits, &format!("-o cluster_size=512,refcount_bits={bits}"));
    }
}

#[test]
fn lazy_reference_counts() {
    exercise_fresh(5, "-o lazy_refcounts=on");
}

#[test]
fn preallocated() {
    for preallocation in ["metadata", "falloc", "full"] {
        exercise_fresh(6, &format!("-o preallocation={preallocation}"));
    }
}

#[test]
fn made_by_us() {
    for bits in [9, 12, 16, 21] {
        for preallocation in [Preallocation::Off, Preallocation::Metadata] {
            let bench = Bench::new();
            let mut random = Random::new(bits);
            let options = CreateOptions {
                cluster_size: 1 << bits,
                preallocation,
                lazy_refcounts: bits % 2 == 0,
                ..CreateOptions::of_size(SIZE)
            };
            create(&bench.path("disk.qcow2"), &options).unwrap();
            let model = vec![0; SIZE as usize];
            bench.check("disk.qcow2", Format::Qcow2, &model);
            exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
        }
    }
}

#[test]
fn with_a_backing_file() {
    // As long as the disk, shorter, longer.
    for (seed, size) in [SIZE, SIZE / 2 / 512 * 512, SIZE * 2]
        .into_iter()
        .enumerate()
    {
        for options in ["", "-o compat=0.10", "-o cluster_size=512"] {
            let bench = Bench::new();
            let mut random = Random::new(seed as u64 + 10);
            let mut model = bench.base("base.raw", size, &mut random);
            model.resize(SIZE as usize, 0);
            bench.qemu_img(&format!(
                "create -f qcow2 {options} -b base.raw -F raw disk.qcow2 {SIZE}"
            ));
            exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
        }
    }
}

#[test]
fn with_backing_files_behind_each_other() {
    let bench = Bench::new();
    let mut random = Random::new(20);
    let mut model = bench.base("base.raw", SIZE, &mut random);
    bench.qemu_img("convert -c -O qcow2 base.raw base.qcow2");
    for name in ["middle.qcow2", "disk.qcow2"] {
        let below = if name == "disk.qcow2" {
            "middle.qcow2"
        } else {
            "base.qcow2"
        };
        let options = CreateOptions {
            backing: Some((below.into(), Format::Qcow2)),
            ..CreateOptions::of_size(SIZE)
        };
        create(&bench.path(name), &options).unwrap();
        play(
            &*open(&bench.path(name), Format::Qcow2),
            &mut model,
            &mut random,
            30,
        );
    }
    exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
}

#[test]
fn compressed() {
    for (seed, options) in [
        "",
        "-o compat=0.10",
        "-o compression_type=zstd",
        "-o cluster_size=4k",
        "-o cluster_size=2M,compression_type=zstd",
        "-o cluster_size=512,refcount_bits=64",
    ]
    .into_iter()
    .enumerate()
    {
        let bench = Bench::new();
        let mut random = Random::new(seed as u64 + 30);
        let model = bench.base("base.raw", SIZE, &mut random);
        bench.qemu_img(&format!(
            "convert -c -O qcow2 {options} base.raw disk.qcow2"
        ));
        exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
    }
}

#[test]
fn a_snapshot_stays_as_it_was() {
    for options in ["", "-o cluster_size=512", "-o compat=0.10"] {
        let bench = Bench::new();
        let mut random = Random::new(40);
        let old = bench.base("base.raw", SIZE, &mut random);
        bench.qemu_img(&format!("convert -O qcow2 {options} base.raw disk.qcow2"));
        bench.qemu_img("snapshot -c before disk.qcow2");
        exercise(
            &bench,
            "disk.qcow2",
            Format::Qcow2,
            old.clone(),
            &mut random,
        );
        bench.qemu_img("snapshot -a before disk.qcow2");
        bench.check("disk.qcow2", Format::Qcow2, &old);
    }
}

#[test]
fn an_external_data_file() {
    for options in ["", ",data_file_raw=on"] {
        let bench = Bench::new();
        let mut random = Random::new(50);
        bench.qemu_img(&format!(
            "create -f qcow2 -o data_file=disk.data{options} disk.qcow2 {SIZE}"
        ));
        let model = vec![0; SIZE as usize];
        exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
        if options.is_empty() {
            continue;
        }
        let image = open_read_only(&bench.path("disk.qcow2"), Format::Qcow2);
        let mut bytes = fs::read(bench.path("disk.data")).unwrap();
        bytes.truncate(SIZE as usize);
        compare(&*image, &bytes);
    }
}

/// Has qemu-io write and zero at random, and does the same to the model.
fn play_by_qemu(bench: &Bench, name: &str, format: Format, model: &mut [u8], random: &mut Random) {
    let size = model.len() as u64;
    let mut program = std::process::Command::new("qemu-io");
    program.args(["-f", format.name()]);
    for _ in 0..60 {
        let (offset, length) = random.range(size);
        let (offset, length) = (offset / 512 * 512, length.div_ceil(512) * 512);
        let length = length.min(size - offset);
        let range = &mut model[offset as usize..(offset + length) as usize];
        let byte = random.next() as u8;
        let command = match random.below(4) {
            0 => {
                range.fill(0);
                format!("write -z {offset} {length}")
            }
            1 => {
                range.fill(0);
                format!("write -z -u {offset} {length}")
            }
            _ => {
                range.fill(byte);
                format!("write -P {byte} {offset} {length}")
            }
        };
        program.args(["-c", &command]);
    }
    let output = program.arg(bench.path(name)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What qemu-io writes, we read.
#[test]
fn written_by_qemu() {
    for options in [
        "",
        "-o extended_l2=on,cluster_size=64k",
        "-o extended_l2=on,cluster_size=2M",
        "-o cluster_size=512",
        "-o lazy_refcounts=on",
    ] {
        let bench = Bench::new();
        let mut random = Random::new(60);
        let mut model = bench.base("base.raw", SIZE / 2 / 512 * 512, &mut random);
        model.resize(SIZE as usize, 0);
        bench.qemu_img(&format!(
            "create -f qcow2 {options} -b base.raw -F raw disk.qcow2 {SIZE}"
        ));
        play_by_qemu(&bench, "disk.qcow2", Format::Qcow2, &mut model, &mut random);
        let image = open_read_only(&bench.path("disk.qcow2"), Format::Qcow2);
        compare(&*image, &model);
        drop(image);
        let report = disk::qcow2::check(&bench.path("disk.qcow2"), false).unwrap();
        assert_eq!(report, Default::default());
    }
}

/// What qemu-io writes, we read, and write ourselves; and it again.
#[test]
fn vmdk_written_by_qemu_and_by_us_in_turn() {
    for (seed, subformat) in [
        "monolithicSparse",
        "monolithicSparse,zeroed_grain=on",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
    ]
    .into_iter()
    .enumerate()
    {
        let bench = Bench::new();
        let mut random = Random::new(seed as u64 + 80);
        bench.qemu_img(&format!(
            "create -f vmdk -o subformat={subformat} disk.vmdk {SIZE}"
        ));
        let path = bench.path("disk.vmdk");
        let mut model = vec![0; SIZE as usize];
        for _ in 0..3 {
            play_by_qemu(&bench, "disk.vmdk", Format::Vmdk, &mut model, &mut random);
            let report = disk::check(&path, &options(Format::Vmdk), Repair::Nothing).unwrap();
            // A grain that it zeroes without writing zeros, it loses.
            assert_eq!(report.corruptions, 0, "{subformat}: {report:?}");
            let image = open(&path, Format::Vmdk);
            compare(&*image, &model);
            play(&*image, &mut model, &mut random, 60);
            drop(image);
            bench.check("disk.vmdk", Format::Vmdk, &model);
        }
    }
}

#[test]
fn a_disk_grows() {
    for options in [
        "-o cluster_size=512",
        "-o cluster_size=4k",
        "",
        "-o compat=0.10",
    ] {
        let bench = Bench::new();
        let mut random = Random::new(70);
        // The backing file must not shine through behind the old end.
        let mut model = bench.base("base.raw", SIZE * 2, &mut random);
        model.truncate(SIZE as usize);
        bench.qemu_img(&format!(
            "create -f qcow2 {options} -b base.raw -F raw disk.qcow2 {SIZE}"
        ));
        let image: Box<dyn Image> = open(&bench.path("disk.qcow2"), Format::Qcow2);
        for size in [SIZE + 512, SIZE * 2 + 1024, SIZE * 3 / 512 * 512] {
            play(&*image, &mut model, &mut random, 20);
            image.resize(size).unwrap();
            model.resize(size as usize, 0);
            compare(&*image, &model);
        }
        drop(image);
        exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
    }
}

#[test]
fn a_disk_shrinks_and_what_it_lost_does_not_come_back() {
    for (options, backed) in [
        ("-o cluster_size=512", true),
        ("-o cluster_size=4k", false),
        ("-o cluster_size=4k,lazy_refcounts=on", true),
        ("-o compat=0.10", false),
        ("-c", false),
    ] {
        let bench = Bench::new();
        let mut random = Random::new(80);
        let mut model = bench.base("base.raw", SIZE, &mut random);
        if backed {
            bench.qemu_img(&format!(
                "create -f qcow2 {options} -b base.raw -F raw disk.qcow2 {SIZE}"
            ));
        } else {
            bench.qemu_img(&format!("convert -O qcow2 {options} base.raw disk.qcow2"));
        }
        for size in [SIZE - 512, SIZE / 1024 * 512, SIZE / 2048 * 512] {
            let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
            play(&*image, &mut model, &mut random, 20);
            image.resize(size).unwrap();
            assert_eq!(image.size(), size);
            model.truncate(size as usize);
            compare(&*image, &model);
            drop(image);
            bench.check("disk.qcow2", Format::Qcow2, &model);
        }
        // By the other program, which does not look what is there.
        bench.qemu_img(&format!("resize -q disk.qcow2 {SIZE}"));
        model.resize(SIZE as usize, 0);
        bench.check("disk.qcow2", Format::Qcow2, &model);
        exercise(&bench, "disk.qcow2", Format::Qcow2, model, &mut random);
    }
}

#[test]
fn what_a_disk_loses_takes_no_room() {
    let bench = Bench::new();
    let mut random = Random::new(81);
    bench.base("base.raw", SIZE, &mut random);
    bench.qemu_img("convert -O qcow2 base.raw disk.qcow2");
    let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
    let before = image.allocated().unwrap();
    image.resize(64 << 10).unwrap();
    image.flush().unwrap();
    let after = image.allocated().unwrap();
    assert!(after < before / 2, "{before} to {after}");
}

/// A snapshot of version 2 does not say how large the disk was: none could be gone back to.
#[test]
fn a_disk_with_snapshots_grows_if_they_know_its_size() {
    for (options, grows) in [("compat=1.1", true), ("compat=0.10", false)] {
        let bench = Bench::new();
        let mut random = Random::new(90);
        let old = bench.base("base.raw", SIZE, &mut random);
        bench.qemu_img(&format!(
            "convert -O qcow2 -o {options} base.raw disk.qcow2"
        ));
        bench.qemu_img("snapshot -c before disk.qcow2");
        let image = open(&bench.path("disk.qcow2"), Format::Qcow2);
        let mut model = old.clone();
        let resized = image.resize(SIZE * 2);
        if grows {
            resized.unwrap();
            model.resize(SIZE as usize * 2, 0);
        } else {
            assert_eq!(resized.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
        }
        play(&*image, &mut model, &mut random, 20);
        compare(&*image, &model);
        drop(image);
        bench.check("disk.qcow2", Format::Qcow2, &model);
        bench.qemu_img("snapshot -a before disk.qcow2");
        bench.check("disk.qcow2", Format::Qcow2, &old);
    }
}
