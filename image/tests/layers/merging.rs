//! Layers merged into one tree, whose image has no content of its own.

use std::fs::File;
use std::io::{Seek, copy};

use image::erofs::{Kind, Reader, Tree, merge};
use tempfile::NamedTempFile;

use crate::archives::{Archive, Fields};
use crate::images::{Image, image, listing};

/// The merged image of layers, with the layers behind it, as one file.
fn merged(layers: &[Image]) -> (NamedTempFile, Tree) {
    let files: Vec<&File> = layers.iter().map(|layer| layer.file.as_file()).collect();
    let disk = NamedTempFile::new().unwrap();
    let bytes = merge(&files, disk.as_file()).unwrap();
    let mut out = disk.as_file();
    assert_eq!(out.seek(std::io::SeekFrom::End(0)).unwrap(), bytes);
    for layer in layers {
        copy(&mut File::open(layer.file.path()).unwrap(), &mut out).unwrap();
    }
    let tree = Reader::open(disk.as_file()).unwrap().tree().unwrap();
    (disk, tree)
}

#[test]
fn layers_above_hide_replace_and_add() {
    let layers = [
        Archive::new()
            .entry(
                "./",
                &Fields {
                    kind: b'5',
                    mode: 0o711,
                    ..Fields::default()
                },
            )
            .entry(
                "tmp",
                &Fields {
                    kind: b'5',
                    mode: 0o1777,
                    ..Fields::default()
                },
            )
            .file("etc/passwd", "root")
            .file("etc/shadow", "secret")
            .file("var/cache/a", "a")
            .file("var/cache/b", "b")
            .file("opt/tree/file", "x")
            .file("one", "same")
            .hard_link("two", "one")
            .file("becomes-directory", "")
            .file("becomes-file/x", ""),
        Archive::new()
            .file("tmp/added", "t")
            .file("etc/.wh.shadow", "")
            .file("etc/passwd", "root and others")
            .file("var/cache/.wh..wh..opq", "")
            .file("var/cache/c", "c")
            .file(".wh.opt", "")
            .file(".wh.one", "")
            .file("becomes-directory/y", "y")
            .file("becomes-file", "f"),
        Archive::new()
            .file("opt/new", "n")
            .hard_link("opt/again", "opt/new"),
    ]
    .map(|archive| image(&archive.finish()));
    let (disk, tree) = merged(&layers);
    let lines: Vec<String> = listing(&tree, disk.as_file())
        .into_iter()
        .map(|(path, line)| {
            format!("{path} {line}")
                .replace(" 0:0", "")
                .replace(".000000000", "")
        })
        .collect();
    assert_eq!(
        lines,
        [
            "/ dir 0711 1600000000",
            "/becomes-directory dir 0755 0",
            "/becomes-directory/y file 0644 1600000000 1 y",
            "/becomes-file file 0644 1600000000 1 f",
            "/etc dir 0755 0",
            "/etc/passwd file 0644 1600000000 1 root and others",
            "/opt dir 0755 0",
            "/opt/again file 0644 1600000000 2 n",
            "/opt/new file 0644 1600000000 2 n",
            // No entry of the second layer names it: it stays as the first has it.
            "/tmp dir 1777 1600000000",
            "/tmp/added file 0644 1600000000 1 t",
            "/two file 0644 1600000000 1 same",
            "/var dir 0755 0",
            "/var/cache dir 0755 0",
            "/var/cache/c file 0644 1600000000 1 c",
        ]
    );
}

#[test]
fn thirty_layers_are_one_image() {
    let layers: Vec<Image> = (0..30)
        .map(|index| {
            let archive = Archive::new()
                .file(format!("own/{index}"), format!("{index}"))
                .file("common", vec![index; 5000]);
            image(&archive.finish())
        })
        .collect();
    let (disk, tree) = merged(&layers);
    let lines = listing(&tree, disk.as_file());
    assert_eq!(lines.len(), 3 + 30);
    assert!(lines["/own/17"].ends_with(" 17"));
    let common = tree.child(image::erofs::InodeId::ROOT, b"common").unwrap();
    let Kind::File(extent) = tree.inode(common).kind else {
        panic!("it is no file");
    };
    assert_eq!(
        crate::images::content(disk.as_file(), extent),
        vec![29; 5000]
    );
}
