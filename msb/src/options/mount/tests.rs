use std::path::Path;

use proptest::prelude::*;

use super::*;

type Parse = fn(&OsStr) -> Result<MountArgument, MountError>;

fn volume(text: &str) -> Result<MountArgument, MountError> {
    MountArgument::volume(text.as_ref())
}

fn tmpfs(text: &str) -> Result<MountArgument, MountError> {
    MountArgument::tmpfs(text.as_ref())
}

#[track_caller]
fn error(parse: Parse, text: &str) -> String {
    let error = parse(text.as_ref()).expect_err(text);
    error.to_string()
}

#[test]
fn folders_as_people_write_them() {
    for (text, source, target, read_only) in [
        ("/src:/dst", "/src", "/dst", false),
        ("./src:/dst:ro", "./src", "/dst", true),
        ("../src:/dst:rw", "../src", "/dst", false),
        (".:/dst", ".", "/dst", false),
        ("..:/dst", "..", "/dst", false),
        ("/a:b:/dst", "/a:b", "/dst", false),
        ("/a:/b:/dst:ro", "/a:/b", "/dst", true),
        ("/a,b:/c,d", "/a,b", "/c,d", false),
    ] {
        let mount = volume(text).unwrap();
        let MountSourceArgument::Path(path, _) = mount.source else {
            panic!("{text}: {mount:?}")
        };
        assert_eq!(path, Path::new(source), "{text}");
        assert_eq!(mount.target.to_string(), target, "{text}");
        assert_eq!(mount.options.read_only, read_only, "{text}");
    }
}

#[test]
fn what_has_no_slash_is_a_volume() {
    for (text, name) in [("src:/dst", "src"), ("ro:/dst:ro", "ro"), (".x:/dst", "")] {
        match volume(text) {
            Ok(MountArgument {
                source: MountSourceArgument::Named(volume),
                ..
            }) => {
                assert_eq!(volume.name.as_str(), name);
                assert_eq!(volume.mode, None);
            }
            result => assert!(matches!(result, Err(MountError::Name(_))), "{result:?}"),
        }
    }
}

#[test]
fn volumes_are_made_as_they_are_asked_for() {
    let mode = |text: &str| {
        let mount = MountArgument::named(text.as_ref()).unwrap();
        let MountSourceArgument::Named(volume) = mount.source else {
            panic!("{mount:?}")
        };
        volume.mode
    };
    let disk = VolumeConfig {
        kind: VolumeKind::Disk,
        size_mib: Some(20 << 10),
        ..VolumeConfig::default()
    };
    let directory = VolumeConfig {
        quota_mib: Some(64),
        ..VolumeConfig::default()
    };
    assert_eq!(mode("x:/x:ro"), None);
    assert_eq!(mode("x:/x:mode=existing"), Some(VolumeMode::Existing));
    assert_eq!(
        mode("x:/x:kind=disk,size=20G"),
        Some(VolumeMode::EnsureExists(disk.clone()))
    );
    assert_eq!(
        mode("x:/x:mode=create,kind=disk,size=20G"),
        Some(VolumeMode::Create(disk))
    );
    assert_eq!(
        mode("x:/x:mode=ensure-exists,quota=64M"),
        Some(VolumeMode::EnsureExists(directory))
    );
    let named = MountArgument::named;
    assert!(error(named, "x:/x:quota=1K").contains("whole number of MiB"));
    assert!(error(named, "x:/x:mode=existing,quota=1M").contains("exclude"));
    assert!(error(named, "x:/x:kind=disk,cache=always").contains("this one is a disk"));
    assert!(error(named, "x:/x:kind=dir,cache=writeback").contains("this one is a dir"));
    assert!(error(named, "x:/x:cache=writethrough,timeout=1s").contains("exclude"));
    assert!(error(named, "x:/x:cache=x").contains("always, writeback"));
    assert!(error(named, "x:/x:kind=tape").contains("dir, disk"));
}

#[test]
fn how_a_volume_is_cached_is_judged_by_its_kind() {
    let of = |text: &str, kind| {
        let mount = volume(text).unwrap();
        let MountSourceArgument::Named(volume) = mount.source else {
            panic!("{mount:?}")
        };
        volume.caching.of(kind).ok()
    };
    use VolumeKind::{Dir, Disk};
    let usual = Some((Sharing::default(), Cache::Writeback));
    assert_eq!(
        [Dir, Disk].map(|kind| of("x:/x", kind)),
        [usual.clone(), usual]
    );
    let through = Some((Sharing::default(), Cache::Writethrough));
    let text = "x:/x:cache=writethrough";
    assert_eq!([Dir, Disk].map(|kind| of(text, kind)), [None, through]);
    for text in [
        "x:/x:cache=none",
        "x:/x:cache=auto",
        "x:/x:timeout=5s",
        "x:/x:mode=existing,cache=none",
    ] {
        assert_eq!(
            [Dir, Disk].map(|kind| of(text, kind).is_some()),
            [true, false],
            "{text}"
        );
    }
}

#[test]
fn disks_as_people_write_them() {
    let text = "disk:/x:ro,format=raw,fstype=xfs,partition=3,cache=writethrough";
    let mount = MountArgument::disk(text.as_ref()).unwrap();
    assert!(mount.options.read_only);
    let expected = DiskArgument {
        path: "disk".into(),
        format: Some(Format::Raw),
        fstype: Some("xfs".into()),
        partition: Some(3),
        cache: Cache::Writethrough,
    };
    assert_eq!(mount.source, MountSourceArgument::Disk(expected));
    for (option, reason) in [
        ("format=iso", "raw, qcow2, vmdk"),
        ("fstype=../x", "a word such as ext4"),
        ("partition=+1", "from 1 to 128"),
        ("cache=none", "writeback, writethrough"),
        ("timeout=1", "unknown here"),
    ] {
        let error = error(MountArgument::disk, &format!("disk:/x:{option}"));
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn how_a_folder_is_shared_is_said_in_options() {
    let mount = volume("/a:/b:cache=always,timeout=1m,quota=1G").unwrap();
    let MountSourceArgument::Path(_, sharing) = mount.source else {
        panic!("{mount:?}")
    };
    assert_eq!(sharing.cache, SharedCache::Always);
    assert_eq!(sharing.cache_timeout_ms, Some(60_000));
    assert_eq!(sharing.quota.map(|quota| quota.limit), Some(1 << 30));
    let error = error(MountArgument::volume, "/a:/b:cache=none,timeout=1s");
    assert!(error.contains("exclude each other"), "{error}");
}

#[test]
fn what_is_no_mount() {
    let parse: Parse = MountArgument::volume;
    assert_eq!(volume("/src"), Err(MountError::NoTarget));
    assert_eq!(volume(":/dst"), Err(MountError::NoSource));
    assert_eq!(volume(":/dst:ro"), Err(MountError::NoSource));
    assert_eq!(volume("/src:/"), Err(MountError::Root));
    assert!(error(parse, "/src:/dst:no").contains("unknown here"));
    assert!(error(parse, "/src:/dst:").contains("missing"));
    assert!(error(parse, "/src:/dst:ro,suid").contains("refused"));
    for text in ["/src:dst", "/src:", "/src:dst:ro", "/src:ro"] {
        let result = volume(text);
        assert!(
            matches!(result, Err(MountError::Target(_))),
            "{text}: {result:?}"
        );
    }
}

#[test]
fn options_behind_a_comma_get_a_suggestion() {
    let error_of = |text: &str| error(MountArgument::volume, text);
    assert!(error_of("/a:/b,ro").contains("\"/a:/b:ro\""));
    assert!(error_of("./a:/b,ro,noexec").contains("\"./a:/b:ro,noexec\""));
    assert!(error(MountArgument::tmpfs, "/a,ro").contains("\"/a:ro\""));
    assert!(volume("/a:/b,c").is_ok());
}

#[test]
fn tmpfs_as_people_write_them() {
    let parsed = |text: &str| {
        let mount = tmpfs(text).unwrap();
        let MountSourceArgument::Tmpfs { size, mode } = mount.source else {
            panic!("{mount:?}")
        };
        (size, mode, mount.options.read_only)
    };
    assert_eq!(parsed("/x"), (None, 0o755, false));
    assert_eq!(parsed("/tmp"), (None, 0o1777, false));
    assert_eq!(parsed("/var/tmp/:64M"), (Some(64 << 20), 0o1777, false));
    assert_eq!(parsed("/x:64M:ro"), (Some(64 << 20), 0o755, true));
    assert_eq!(parsed("/x:size=1G,mode=700"), (Some(1 << 30), 0o700, false));
    assert_eq!(tmpfs("/tmp:0"), Err(MountError::Size(SizeError::Zero)));
    assert_eq!(tmpfs("/"), Err(MountError::Root));
    for (text, reason) in [
        ("tmp", "does not begin with /"),
        ("/x:1M:size=2M", "twice"),
        ("/x:mode=8", "octal"),
        ("/x:mode=10000", "octal"),
        ("/x:", "missing"),
        ("/x:1M:", "missing"),
        ("/x:exec", "refused"),
    ] {
        let error = error(MountArgument::tmpfs, text);
        assert!(error.contains(reason), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in "[:/.,=ro\\PC]{0,16}") {
        for parse in [
            MountArgument::volume as Parse,
            MountArgument::folder,
            MountArgument::named,
            MountArgument::disk,
            MountArgument::tmpfs,
        ] {
            let _ = parse(text.as_ref());
        }
    }
}
