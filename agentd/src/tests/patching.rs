//! Changes to the root file system, in an overlay as a guest has one.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use protocol::{Failure, Patch, Stage};

use super::mounting::in_overlay;
use crate::patches;
use crate::staging::Staging;

fn write(path: &str, contents: &str, mode: Option<u32>, replace: bool) -> Patch {
    Patch::Write {
        path: super::bytes(path),
        contents: super::bytes(contents),
        mode,
        replace,
    }
}

fn append(path: &str) -> Patch {
    Patch::Append {
        path: super::bytes(path),
        contents: super::bytes("more"),
    }
}

fn directory(path: &str, mode: Option<u32>) -> Patch {
    Patch::MakeDirectory {
        path: super::bytes(path),
        mode,
    }
}

fn remove(path: &str) -> Patch {
    Patch::Remove {
        path: super::bytes(path),
    }
}

fn link(path: &str, target: &str, replace: bool) -> Patch {
    Patch::Symlink {
        path: super::bytes(path),
        target: super::bytes(target),
        replace,
    }
}

fn copy(entry: &str, path: &str, mode: Option<u32>, replace: bool) -> Patch {
    Patch::Copy {
        tag: "share".into(),
        entry: entry.into(),
        path: super::bytes(path),
        mode,
        replace,
    }
}

fn mode(path: &str) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap()
}

#[track_caller]
fn refused(staging: &Staging, patch: Patch, errno: i32) -> Failure {
    let failure = patches::make(&[patch], staging).unwrap_err();
    assert_eq!(
        (failure.stage, failure.errno),
        (Stage::Patch, errno),
        "{failure:?}"
    );
    failure
}

#[test]
fn patches_are_made_one_after_the_other() {
    in_overlay(|staging| {
        let staging = &staging;
        let list = [
            write("/new/deep/a", "1", None, false),
            write("/new/b", "2", Some(0o4700), false),
            append("/new/deep/a"),
            append("/file"),
            directory("/app/x", Some(0o700)),
            directory("/old/deep", None),
            remove("/old/deep"),
            remove("/nothing"),
            remove("/file/nothing"),
            link("/new/link", "../file", false),
            copy("f", "/copied/f", Some(0o600), false),
            copy("d", "/copied/d", None, false),
        ];
        patches::make(&list, staging).unwrap();
        assert_eq!(text("/new/deep/a"), "1more");
        assert_eq!(text("/file"), "lowermore");
        assert_eq!(text("/new/link"), "lowermore");
        assert_eq!(text("/copied/f"), "file");
        assert_eq!(text("/copied/d/inside"), "inside");
        assert!(!Path::new("/old/deep").exists() && Path::new("/old").exists());
        for (path, expected) in [
            ("/new", 0o755),
            ("/new/deep/a", 0o644),
            ("/new/b", 0o4700),
            ("/app", 0o755),
            ("/app/x", 0o700),
            ("/copied/f", 0o600),
        ] {
            assert_eq!(mode(path), expected, "{path}");
        }
        let executable = fs::metadata("/copied/d/true").unwrap().permissions();
        assert_eq!(executable.mode() & 0o111, 0o111);
    });
}

#[test]
fn what_is_there_stays_unless_it_may_be_replaced() {
    in_overlay(|staging| {
        let staging = &staging;
        let failure = refused(staging, write("/file", "new", None, false), libc::EEXIST);
        assert!(failure.message.contains("\"/file\", which is there"));
        refused(staging, link("/file", "x", false), libc::EEXIST);
        refused(staging, copy("f", "/file", None, false), libc::EEXIST);
        refused(staging, copy("d", "/old", None, false), libc::EEXIST);
        assert_eq!(text("/file"), "lower");

        let list = [
            write("/file", "new", None, true),
            copy("d", "/old", None, true),
        ];
        patches::make(&list, staging).unwrap();
        assert_eq!(text("/file"), "new");
        assert_eq!(text("/old/inside"), "inside");
        assert!(Path::new("/old/deep").is_dir(), "directories are merged");
        patches::make(&[link("/file", "old", true)], staging).unwrap();
        assert!(Path::new("/file/deep").is_dir());
        // The link gives way, not what it leads to.
        patches::make(&[copy("f", "/file", None, true)], staging).unwrap();
        assert_eq!(text("/file"), "file");
        // A directory gives way with all that is in it, whichever layer has it.
        for patch in [
            write("/old", "file", None, true),
            link("/old", "/file", true),
            copy("f", "/old", None, true),
        ] {
            let above = directory("/old/above", None);
            patches::make(
                &[remove("/old"), above, write("/old/x", "", None, false)],
                staging,
            )
            .unwrap();
            patches::make(&[patch], staging).unwrap();
            assert_eq!(text("/old"), "file");
        }
    });
}

#[test]
fn what_is_replaced_may_be_a_directory_of_the_layers_beneath() {
    in_overlay(|staging| {
        assert!(Path::new("/old/deep").is_dir());
        patches::make(&[write("/old", "file", None, true)], &staging).unwrap();
        assert_eq!(text("/old"), "file");
        patches::make(&[copy("d", "/old", None, true)], &staging).unwrap();
        assert_eq!(text("/old/inside"), "inside");
        assert!(!Path::new("/old/deep").exists());
    });
}

#[test]
fn a_directory_that_is_there_stays_and_gets_the_mode_that_is_given() {
    in_overlay(|staging| {
        let make = |path, mode| patches::make(&[directory(path, mode)], &staging).unwrap();
        let other = 1000;
        chown("/old", Some(other), Some(other)).unwrap();
        assert_eq!(mode("/old"), 0o755);
        for (given, expected) in [
            (Some(0o2700), 0o2700),
            (None, 0o2700),
            (Some(0o1777), 0o1777),
        ] {
            make("/old", given);
            assert_eq!(mode("/old"), expected, "{given:?}");
        }
        let old = fs::metadata("/old").unwrap();
        assert_eq!((old.uid(), old.gid()), (other, other));
        // Its parents are as they were, and what is in it.
        make("/old/deep/new", Some(0o700));
        assert_eq!((mode("/old"), mode("/old/deep")), (0o1777, 0o755));
        assert_eq!(mode("/old/deep/new"), 0o700);
        // A link to a directory is one, too, and stays.
        symlink("old/deep", "/link").unwrap();
        make("/link", Some(0o750));
        assert_eq!(mode("/old/deep"), 0o750);
        assert!(fs::symlink_metadata("/link").unwrap().is_symlink());
        refused(&staging, directory("/file", Some(0o700)), libc::ENOTDIR);
    });
}

#[test]
fn what_a_link_leads_to_is_made_within_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let descriptor = File::open(outside.path()).unwrap();
    in_overlay(|staging| {
        let make = |path: &str| patches::make(&[directory(path, Some(0o700))], &staging);
        for (target, link, path, made) in [
            ("/nowhere", "/absolute", "/absolute", "/nowhere"),
            ("/far/away", "/deep", "/deep/app", "/far/away/app"),
            ("../../../up/./x", "/old/upwards", "/old/upwards", "/up/x"),
            ("deep/", "/old/there", "/old/there/new", "/old/deep/new"),
            ("old/next", "/chain", "/chain", "/last"),
        ] {
            symlink(target, link).unwrap();
            if link == "/chain" {
                symlink("/last", "/old/next").unwrap();
            }
            make(path).unwrap();
            assert!(fs::symlink_metadata(link).unwrap().is_symlink(), "{link}");
            assert_eq!(mode(made), 0o700, "{made}");
            assert_eq!(fs::canonicalize(path).unwrap(), Path::new(made));
        }
        assert_eq!(mode("/far/away"), 0o755);
        symlink("/beside", "/parent").unwrap();
        let written = write("/parent/x/file", "text", None, false);
        patches::make(&[written], &staging).unwrap();
        assert_eq!(text("/beside/x/file"), "text");

        symlink("/loop", "/loop").unwrap();
        let failure = refused(&staging, directory("/loop/x", None), libc::ELOOP);
        assert!(failure.message.contains("\"/loop/x\""), "{failure:?}");
        symlink("/file", "/to-file").unwrap();
        refused(&staging, directory("/to-file", None), libc::ENOTDIR);
        // The kernel would go where the descriptor is, and not where the text of the link leads.
        let _ = make(&format!("/proc/self/fd/{}/made", descriptor.as_raw_fd()));
    });
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_is_in_a_directory_gives_way_to_what_is_copied_into_it() {
    in_overlay(|staging| {
        let patches = [
            write("/old/inside", "other", Some(0o600), false),
            write("/old/kept", "kept", None, false),
            copy("d", "/old", None, true),
        ];
        patches::make(&patches, &staging).unwrap();
        assert_eq!(text("/old/inside"), "inside");
        assert_eq!(text("/old/kept"), "kept");
        refused(&staging, copy("d", "/old", None, false), libc::EEXIST);
        // A file takes no directory away, except where it is the very thing that is copied.
        let patches = [
            remove("/old/inside"),
            write("/old/inside/x", "x", None, false),
        ];
        patches::make(&patches, &staging).unwrap();
        refused(&staging, copy("d", "/old", None, true), libc::EISDIR);
        assert_eq!(text("/old/inside/x"), "x");
    });
}

#[test]
fn what_is_appended_may_be_a_file_of_the_share() {
    in_overlay(|staging| {
        let append = |entry: &str, path: &str| Patch::AppendShared {
            tag: "share".into(),
            entry: entry.into(),
            path: super::bytes(path),
        };
        patches::make(&[append("f", "/file"), append("f", "/file")], &staging).unwrap();
        assert_eq!(text("/file"), "lowerfilefile");
        refused(&staging, append("f", "/missing"), libc::ENOENT);
        refused(&staging, append("f", "/old"), libc::EINVAL);
        refused(&staging, append("missing", "/file"), libc::ENOENT);
        assert_eq!(text("/file"), "lowerfilefile");
    });
}

#[test]
fn what_cannot_be_is_named() {
    in_overlay(|staging| {
        let staging = &staging;
        refused(staging, append("/missing"), libc::ENOENT);
        refused(staging, append("/old"), libc::EINVAL);
        refused(staging, directory("/file", None), libc::ENOTDIR);
        refused(staging, directory("/file/x", None), libc::ENOTDIR);
        refused(staging, write("/file/x", "", None, true), libc::ENOTDIR);
        refused(staging, copy("missing", "/x", None, true), libc::ENOENT);
        symlink("/nowhere", "/dangling").unwrap();
        refused(staging, write("/dangling", "", None, false), libc::EEXIST);
        refused(staging, append("/dangling"), libc::ENOENT);
        // Nothing is left of one that failed.
        assert!(!Path::new("/x").exists());
    });
}
