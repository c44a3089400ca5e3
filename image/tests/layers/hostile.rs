//! Entries that would do harm if they were unpacked, and those that only look as if.

use crate::archives::{Archive, Fields};
use crate::images::{image, refusal};

#[test]
fn absolute_paths_and_dots_stay_within_the_root() {
    let image = image(
        &Archive::new()
            .file("/etc/passwd", "1")
            .file("./a/./b//c", "2")
            .file("a/../d", "3")
            .file("/../../e", "4")
            .finish(),
    );
    assert_eq!(
        image.paths(),
        [
            "/",
            "/a",
            "/a/b",
            "/a/b/c",
            "/d",
            "/e",
            "/etc",
            "/etc/passwd"
        ]
    );
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../x", "a/../../x", "..", "./.."] {
        let message = refusal(&Archive::new().file(path, "").finish());
        assert_eq!(
            message,
            format!("the entry {path:?} of the layer leads out of the layer")
        );
    }
}

#[test]
fn targets_of_symbolic_links_are_only_data() {
    let image = image(
        &Archive::new()
            .symlink("out", "../../../etc/passwd")
            .symlink("absolute", "/etc/passwd")
            .symlink("dangling", [b'x'; 4095])
            .finish(),
    );
    assert!(image.line("/out").ends_with(" ../../../etc/passwd"));
    assert!(image.line("/absolute").ends_with(" /etc/passwd"));
    assert!(image.line("/dangling").ends_with(&"x".repeat(4095)));
    for target in [&[][..], &[b'x'; 4096]] {
        refusal(&Archive::new().symlink("link", target).finish());
    }
}

#[test]
fn hard_links_lead_to_files_of_the_same_layer() {
    for (target, reason) in [
        ("../../etc/passwd", "leads out of the layer"),
        (
            "/etc/passwd",
            "is a link to something that the layer does not have",
        ),
        (
            "missing",
            "is a link to something that the layer does not have",
        ),
        (
            "hidden",
            "is a link to something that the layer does not have",
        ),
        ("directory", "is a hard link to a directory"),
        (".", "is a hard link to a directory"),
        (
            "out/passwd",
            "is a link to something that the layer does not have",
        ),
    ] {
        let archive = Archive::new()
            .directory("directory")
            .file(".wh.hidden", "")
            .symlink("out", "/etc")
            .hard_link("link", target);
        let message = refusal(&archive.finish());
        assert_eq!(
            message,
            format!("the entry \"link\" of the layer {reason}"),
            "{target}"
        );
    }
}

#[test]
fn a_hard_link_keeps_what_it_led_to() {
    let image = image(
        &Archive::new()
            .file("first", "old")
            .hard_link("second", "./first")
            .hard_link("third", "/second")
            .hard_link("third", "third")
            .file("first", "new")
            .symlink("link", "first")
            .hard_link("same", "link")
            .finish(),
    );
    assert_eq!(image.content("first"), b"new");
    assert_eq!(image.content("second"), b"old");
    assert_eq!(image.find("second"), image.find("third"));
    assert_eq!(
        image.line("/second"),
        "file 0644 0:0 1600000000.000000000 2 old"
    );
    assert_eq!(image.find("link"), image.find("same"));
}

#[test]
fn the_last_entry_of_a_name_counts() {
    let image = image(
        &Archive::new()
            .file("twice", "first")
            .file("twice", "second")
            .directory("directory")
            .file("directory/kept", "")
            .entry(
                "directory/",
                &Fields {
                    kind: b'5',
                    mode: 0o1777,
                    ..Fields::default()
                },
            )
            .finish(),
    );
    assert_eq!(image.content("twice"), b"second");
    assert_eq!(
        image.line("/directory"),
        "dir 1777 0:0 1600000000.000000000"
    );
    assert!(image.paths().contains(&"/directory/kept".to_owned()));
}

#[test]
fn files_replace_directories_and_directories_files() {
    let image = image(
        &Archive::new()
            .file("tree/deep/er/file", "gone")
            .file("tree", "a file now")
            .file("leaf", "gone")
            .directory("leaf")
            .file("leaf/file", "1")
            .symlink("link", "leaf")
            .directory("link")
            .file("link/file", "2")
            .finish(),
    );
    assert_eq!(
        image.paths(),
        ["/", "/leaf", "/leaf/file", "/link", "/link/file", "/tree"]
    );
    assert_eq!(image.content("leaf/file"), b"1");
    // What the layers below have there was hidden by the file.
    assert!(image.line("/leaf").ends_with(" opaque"));
}

#[test]
fn a_link_makes_no_name_that_an_entry_could_not() {
    let long = [b'x'; 256];
    let targets: [(&[u8], &str); 3] = [
        (b".wh..wh..opq", "lies beneath a whiteout"),
        (b"a/.wh.b/c", "lies beneath a whiteout"),
        (&long, "longer names"),
    ];
    for (target, reason) in targets {
        let archive = Archive::new().symlink("link", target).file("link/x", "");
        let message = refusal(&archive.finish());
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn entries_beneath_a_link_go_where_it_leads() {
    let image = image(
        &Archive::new()
            .directory("usr/lib")
            .symlink("lib", "usr/lib")
            .file("lib/a", "1")
            .symlink("usr/up", "../../../usr/lib")
            .file("usr/up/b", "2")
            .symlink("opt", "/srv/opt")
            .file("opt/c", "3")
            .hard_link("d", "lib/a")
            .finish(),
    );
    assert_eq!(image.content("usr/lib/a"), b"1");
    assert_eq!(image.content("usr/lib/b"), b"2");
    assert_eq!(image.content("srv/opt/c"), b"3");
    assert_eq!(image.content("d"), b"1");
    assert!(image.line("/lib").starts_with("link"));
    let beneath_file = Archive::new().file("file", "").file("file/x", "");
    assert!(
        refusal(&beneath_file.finish()).contains("lies beneath something that is no directory")
    );
    let circle = Archive::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "");
    assert!(refusal(&circle.finish()).contains("lies beneath too many symbolic links"));
}

#[test]
fn parents_that_are_missing_are_made() {
    let image = image(&Archive::new().file("a/b/c", "").finish());
    assert_eq!(image.line("/a/b"), "dir 0755 0:0 0.000000000 implied");
    assert_eq!(image.line("/"), "dir 0755 0:0 0.000000000 implied");
}

#[test]
fn the_root_has_an_entry_of_its_own() {
    let root = Fields {
        kind: b'5',
        mode: 0o711,
        owner: (1, 2),
        ..Fields::default()
    };
    for name in ["./", ".", "/", "a/.."] {
        let image = image(&Archive::new().entry(name, &root).finish());
        assert_eq!(image.line("/"), "dir 0711 1:2 1600000000.000000000");
    }
    assert!(refusal(&Archive::new().file("./", "").finish()).contains("replace the root"));
}

#[test]
fn special_modes_and_files_are_kept() {
    let of = |kind, mode, device| Fields {
        kind,
        mode,
        device,
        ..Fields::default()
    };
    let image = image(
        &Archive::new()
            .entry("su", &of(b'0', 0o6755, (0, 0)))
            .entry("null", &of(b'3', 0o666, (1, 3)))
            .entry("far", &of(b'4', 0o600, (4095, 1_048_575)))
            .entry("pipe", &of(b'6', 0o600, (0, 0)))
            .finish(),
    );
    assert_eq!(image.line("/su"), "file 6755 0:0 1600000000.000000000 1");
    assert_eq!(
        image.line("/null"),
        "char 0666 0:0 1600000000.000000000 1 1:3"
    );
    assert_eq!(
        image.line("/far"),
        "block 0600 0:0 1600000000.000000000 1 4095:1048575"
    );
    assert_eq!(image.line("/pipe"), "fifo 0600 0:0 1600000000.000000000 1");
    let impossible = Archive::new().entry("x", &of(b'3', 0, (4096, 0)));
    assert!(refusal(&impossible.finish()).contains("device number"));
}

#[test]
fn attributes_that_speak_to_overlayfs_or_to_us_are_not_taken() {
    let image = image(
        &Archive::new()
            .pax(&[
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.msb.implied", b"y"),
                ("SCHILY.xattr.user.kept", b"1"),
                ("SCHILY.xattr.nonsense", b"1"),
                ("SCHILY.xattr.user.", b"1"),
            ])
            .directory("directory")
            .pax(&[
                ("SCHILY.xattr.user.kept", b"1"),
                ("SCHILY.xattr.security.x", b"2"),
            ])
            .symlink("link", "x")
            .finish(),
    );
    assert_eq!(
        image.line("/directory"),
        "dir 0750 0:0 1600000000.000000000  user.kept=1"
    );
    // Linux allows user's attributes for files and directories only (xattr(7)).
    assert!(image.line("/link").ends_with(" x security.x=2"));
}

#[test]
fn owners_that_do_not_exist_are_refused() {
    for uid in ["4294967295", "4294967296", "18446744073709551615"] {
        let archive = Archive::new().pax(&[("uid", uid.as_bytes())]).file("x", "");
        assert!(refusal(&archive.finish()).contains("has an owner that Linux does not have"));
    }
}

#[test]
fn names_with_a_nul_are_refused() {
    let archive = Archive::new().pax(&[("path", b"a\0b")]).file("x", "");
    assert!(refusal(&archive.finish()).contains("has a NUL in its name"));
}
