//! Layers that were cut off or damaged on their way.

use std::fs::File;
use std::io::{self, Read};

use image::Compression;
use image::layer::{LayerError, Limits, convert};

use crate::archives::{Archive, gzip, zstd};
use crate::images::{convert_as, image, refusal};

/// Content that does not compress well.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

fn archive() -> Vec<u8> {
    Archive::new()
        .file("noise", noise(300_000))
        .file("end", "end")
        .finish()
}

#[test]
fn truncated_layers_are_refused_wherever_they_end() {
    for compress in [gzip, zstd] {
        let blob = compress(&archive());
        for part in [5, 20, blob.len() / 2, blob.len() - 1] {
            let message = refusal(&blob[..part]);
            assert!(
                message.starts_with("the layer cannot be decompressed as "),
                "{part}: {message}"
            );
        }
    }
    let plain = archive();
    for part in [100, 512, 1000, 200_000] {
        let message = refusal(&plain[..part]);
        assert!(
            message.starts_with("the layer's archive ends too early, after "),
            "{message}"
        );
    }
}

#[test]
fn archives_may_lack_the_empty_records_at_their_end() {
    let archive = Archive::new().file("file", "content").unfinished();
    assert_eq!(image(&archive).content("file"), b"content");
    assert_eq!(image(&[]).paths(), ["/"]);
}

#[test]
fn damage_is_noticed() {
    for compress in [gzip, zstd] {
        let mut blob = compress(&archive());
        let last = blob.len() - 2;
        blob[last] ^= 1;
        let message = refusal(&blob);
        assert!(
            message.starts_with("the layer cannot be decompressed as "),
            "{message}"
        );
    }
    let mut header = archive();
    header[5] ^= 1;
    assert_eq!(
        refusal(&header),
        "the layer's archive is damaged at byte 0: the header's checksum is wrong"
    );
    let mut gap = Archive::new().file("a", "").unfinished();
    gap.extend([0; 512]);
    gap.extend(Archive::new().file("b", "").finish());
    assert!(refusal(&gap).ends_with("at byte 512: something follows an empty header"));
}

#[test]
fn the_compression_must_be_the_one_that_was_said() {
    let blobs = [
        (Compression::None, archive()),
        (Compression::Gzip, gzip(&archive())),
        (Compression::Zstd, zstd(&archive())),
    ];
    for (is, blob) in &blobs {
        for (said, _) in &blobs {
            match convert_as(blob, *said) {
                Ok(_) => assert_eq!(is, said),
                Err(LayerError::Compression { declared, found }) => {
                    assert_eq!((declared, found), (*said, *is));
                    assert_ne!(declared, found);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn the_hash_is_that_of_the_whole_archive() {
    let mut archive = archive();
    archive.extend([0; 10_240]);
    archive.extend(b"behind the end");
    let expected = image::Digest::of(&archive);
    for blob in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let image = image(&blob);
        assert_eq!(image.diff_id(), expected);
        assert_eq!(image.converted.tar_bytes, archive.len() as u64);
        assert_eq!(image.converted.entries, 2);
    }
}

#[test]
fn several_gzip_members_and_frames_are_one_stream() {
    let archive = archive();
    let expected = image::Digest::of(&archive);
    let (first, second) = archive.split_at(100_001);
    assert_eq!(
        image(&[gzip(first), gzip(second)].concat()).diff_id(),
        expected
    );
    // Frames that a decoder has to skip carry indices, as of zstd:chunked.
    let skippable = [&[0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let frames = [
        &skippable[..],
        &zstd(first),
        &skippable,
        &zstd(second),
        &skippable,
    ]
    .concat();
    assert_eq!(image(&frames).diff_id(), expected);
    let cut = [&zstd(&archive)[..], &skippable[..10]].concat();
    assert!(refusal(&cut).contains("Zstandard"));
}

#[test]
fn the_same_archive_becomes_the_same_image() {
    let images =
        [archive(), gzip(&archive())].map(|blob| std::fs::read(image(&blob).file.path()).unwrap());
    assert!(images[0] == images[1]);
}

#[test]
fn a_full_disk_is_reported() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let result = convert(&archive()[..], Compression::None, &full, &Limits::default());
    assert_eq!(
        result.unwrap_err().to_string(),
        "cannot write the EROFS image"
    );
}

#[test]
fn a_blob_that_cannot_be_read_is_reported() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    let output = tempfile::tempfile().unwrap();
    let blob = archive();
    let (start, _) = blob.split_at(2000);
    let result = convert(
        start.chain(Broken),
        Compression::None,
        &output,
        &Limits::default(),
    );
    assert!(matches!(result, Err(LayerError::Read(_))), "{result:?}");
}
