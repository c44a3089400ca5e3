//! Layers of images as the guest's kernel sees them, compared with what their archives say and with overlayfs.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::copy;
use std::path::{Path, PathBuf};

use image::Compression;
use image::layer::{Limits, convert};
use msb_tests::Home;
use msb_tests::disk_images::program;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/guest");

/// Makes a layer of `archive.py`, and the image of it.
fn layer(home: &Home, name: &str) -> (PathBuf, PathBuf) {
    let archive = home.path().join(format!("{name}.tar"));
    let line = format!("python3 {SCRIPTS}/archive.py {name} >{}", archive.display());
    program("sh", ["-c", &line]);
    let image = home.path().join(format!("{name}.erofs"));
    let output = File::create_new(&image).unwrap();
    let blob = File::open(&archive).unwrap();
    convert(blob, Compression::None, &output, &Limits::default()).unwrap();
    (archive, image)
}

fn disk(image: &Path, target: &str) -> String {
    format!("--mount-disk={}:{target}:ro,fstype=erofs", image.display())
}

#[test]
fn a_layer_is_mounted_as_its_archive_says() {
    let home = Home::new();
    let (archive, image) = layer(&home, "everything");
    let scripts = format!("--volume={SCRIPTS}:/scripts:ro");
    let expected = program(
        "python3",
        [
            &format!("{SCRIPTS}/listing.py"),
            "tar",
            archive.to_str().unwrap(),
        ],
    );
    let mounted = home
        .debian()
        .with([&disk(&image, "/layer"), &scripts])
        .run(["python3", "/scripts/listing.py", "tree", "/layer"]);
    let (expected, mounted) = (expected.lines(), mounted.lines());
    assert!(expected.len() > 3000);
    for (expected, mounted) in expected.iter().zip(&mounted) {
        assert_eq!(mounted, expected);
    }
    assert_eq!(mounted.len(), expected.len());
}

#[test]
fn merged_layers_are_what_overlayfs_shows() {
    let home = Home::new();
    let images = ["base", "middle", "top"].map(|name| layer(&home, name).1);
    let files = images.each_ref().map(|image| File::open(image).unwrap());
    let merged = home.path().join("merged.erofs");
    let output = File::create_new(&merged).unwrap();
    image::erofs::merge(&files.each_ref(), &output).unwrap();
    let mut output = File::options().append(true).open(&merged).unwrap();
    for image in &images {
        copy(&mut File::open(image).unwrap(), &mut output).unwrap();
    }
    let options = [
        disk(&images[0], "/0"),
        disk(&images[1], "/1"),
        disk(&images[2], "/2"),
        disk(&merged, "/merged"),
        format!("--volume={SCRIPTS}:/scripts:ro"),
    ];
    let script = "
        mkdir /stacked && mount -t overlay -o ro,lowerdir=/2:/1:/0 none /stacked
        python3 /scripts/listing.py tree /stacked >/run/stacked
        python3 /scripts/listing.py tree /merged >/run/merged
        diff /run/stacked /run/merged && [ $(wc -l </run/merged) -gt 250 ] && cat /merged/opt/again";
    let finished = home.debian().with(options).shell(script);
    assert_eq!(finished.lines(), ["again"]);
}
