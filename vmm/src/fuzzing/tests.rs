//! The same with random scripts, and with the seeds of the fuzz targets.

use std::fs;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

fn script() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

fn fs_in_a_folder(script: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    super::fs(folder.path(), script);
}

fn blk_on_a_file(script: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    super::blk(file.path(), script);
}

fn kernel_of(image: &[u8], initramfs: u16) {
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    };
    super::kernel(file(image), file(&vec![7; initramfs.into()]), "quiet");
}

/// Calls `play` with each file that the fuzz target starts from.
fn every_seed(target: &str, play: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let mut count = 0;
    for seed in fs::read_dir(folder).unwrap() {
        play(&fs::read(seed.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0, "no seeds for {target}");
}

#[test]
fn no_seed_of_a_fuzz_target_breaks_a_promise() {
    every_seed("queue", super::queue);
    every_seed("vsock", super::vsock);
    every_seed("fs", fs_in_a_folder);
    every_seed("blk", blk_on_a_file);
    every_seed("kernel", |image| kernel_of(&image[2..], 5000));
}

proptest! {
    #[test]
    fn every_chain_comes_back_once_with_what_was_written(script in script()) {
        super::queue(&script);
    }

    #[test]
    fn every_chain_of_the_vsock_device_comes_back_once(script in script()) {
        super::vsock(&script);
    }

    #[test]
    fn every_request_to_the_file_system_is_answered_in_form(script in script()) {
        fs_in_a_folder(&script);
    }

    #[test]
    fn every_request_to_a_disk_comes_back_once(script in script()) {
        blk_on_a_file(&script);
    }

    #[test]
    fn a_damaged_kernel_is_refused_or_fits(
        damage in prop::collection::vec((0usize..700, any::<u8>()), 1..6),
        initramfs in any::<u16>(),
    ) {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/kernel/elf");
        let mut image = fs::read(seed).unwrap().split_off(2);
        for (at, byte) in damage {
            if let Some(place) = image.get_mut(at) {
                *place = byte;
            }
        }
        kernel_of(&image, initramfs);
    }
}
