//! What a layer hides of those below (image specification, "Whiteouts").

use crate::archives::Archive;
use crate::images::{image, refusal};

#[test]
fn whiteouts_become_devices_and_opaque_directories() {
    let image = image(
        &Archive::new()
            .file("etc/.wh.passwd", "")
            .file("var/.wh..wh..opq", "")
            .file("var/new", "")
            .finish(),
    );
    assert_eq!(
        image.paths(),
        ["/", "/etc", "/etc/passwd", "/var", "/var/new"]
    );
    assert!(
        image
            .line("/etc/passwd")
            .starts_with("char 0000 0:0 0.000000000 1 0:0")
    );
    assert!(image.line("/var").contains("opaque"));
}

#[test]
fn whiteouts_hide_nothing_of_their_own_layer() {
    for order in [[0, 1], [1, 0]] {
        let mut archive = Archive::new();
        for step in order {
            archive = match step {
                0 => archive.file(".wh.file", "").file(".wh.directory", ""),
                _ => archive
                    .file("file", "new")
                    .directory("directory")
                    .file("directory/x", ""),
            };
        }
        let image = image(&archive.finish());
        assert_eq!(image.content("file"), b"new");
        assert_eq!(image.paths(), ["/", "/directory", "/directory/x", "/file"]);
        // Hidden and made anew: nothing of the old one shows.
        assert_eq!(
            image.line("/directory"),
            "dir 0750 0:0 1600000000.000000000 opaque"
        );
    }
}

#[test]
fn a_directory_that_is_implied_over_a_whiteout_is_new() {
    let image = image(&Archive::new().file(".wh.a", "").file("a/b", "").finish());
    assert_eq!(image.line("/a"), "dir 0755 0:0 0.000000000 opaque");
}

#[test]
fn what_aufs_left_is_ignored() {
    let image = image(
        &Archive::new()
            .directory(".wh..wh.plnk/")
            .file(".wh..wh.plnk/12.34", "x")
            .file(".wh..wh.aufs", "")
            .directory("a/.wh..wh.orph")
            .file("b", "")
            .finish(),
    );
    assert_eq!(image.paths(), ["/", "/b"]);
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", "a/.wh..", ".wh..."] {
        let message = refusal(&Archive::new().file(name, "").finish());
        assert!(
            message.contains("hides no name that a file can have"),
            "{message}"
        );
    }
    let message = refusal(&Archive::new().file(".wh.a/b", "").finish());
    assert!(message.contains("lies beneath a whiteout"), "{message}");
}
