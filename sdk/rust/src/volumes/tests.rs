use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;

use super::*;

struct Fixture {
    _root: tempfile::TempDir,
    home: Home,
    volumes: Volumes,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path().join("home"));
    Fixture {
        volumes: Volumes::open(&home).unwrap(),
        home,
        _root: root,
    }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn sandbox(text: &str) -> Name {
    text.parse().unwrap()
}

fn disk(size_mib: u32) -> VolumeConfig {
    VolumeConfig {
        kind: VolumeKind::Disk,
        size_mib: Some(size_mib),
        ..VolumeConfig::default()
    }
}

fn quota(quota_mib: u32) -> VolumeConfig {
    VolumeConfig {
        quota_mib: Some(quota_mib),
        ..VolumeConfig::default()
    }
}

fn wanted(text: &str, mode: VolumeMode) -> NamedVolume {
    NamedVolume {
        name: name(text),
        mode,
        read_only: false,
    }
}

/// What is in the directory of the volumes, without the lock.
fn entries(home: &Home) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(home.volumes())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

#[test]
fn a_directory_is_found_as_it_was_made() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let labels = [("env", "prod"), ("empty", "")].map(|(key, value)| (key.into(), value.into()));
    let config = VolumeConfig {
        labels: labels.into(),
        ..quota(100)
    };
    let before = std::time::SystemTime::now();
    let made = volumes.create(&name("data"), &config).unwrap();
    for volume in [made, volumes.get(&name("data")).unwrap()] {
        assert_eq!(volume.name(), &name("data"));
        assert_eq!(volume.kind(), VolumeKind::Dir);
        assert_eq!(volume.path(), home.volumes().join("data/data"));
        assert_eq!(volume.quota_mib(), Some(100));
        assert_eq!(volume.labels(), &config.labels);
        assert_eq!(
            (volume.capacity_bytes(), volume.disk_format()),
            (None, None)
        );
        let age = before
            .duration_since(volume.created_at())
            .unwrap_or_default();
        assert!(age.as_millis() <= 1, "{age:?}");
        let mode = fs::metadata(volume.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
    assert!(matches!(
        volumes.get(&name("other")),
        Err(VolumeError::VolumeNotFound { name }) if name == "other"
    ));
}

#[test]
fn a_disk_is_sparse_and_has_a_file_system() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let volume = volumes.create(&name("disk"), &disk(2048)).unwrap();
    assert_eq!(volume.path(), home.volumes().join("disk"));
    assert_eq!(volume.capacity_bytes(), Some(2 << 30));
    assert_eq!(volume.disk_format(), Some("raw"));
    assert_eq!(volume.disk_fstype(), Some("ext4"));
    let image = volume.disk_image().unwrap();
    assert_eq!(fs::metadata(&image).unwrap().len(), 2 << 30);
    let used = volume.used_bytes().unwrap();
    assert!(used > 0 && used < 16 << 20, "{used}");
    let output = std::process::Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(&image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_smallest_disk_has_a_journal() {
    let Fixture {
        home: _home,
        volumes,
        _root,
    } = fixture();
    let volume = volumes.create(&name("disk"), &disk(8)).unwrap();
    let output = std::process::Command::new("/usr/sbin/dumpe2fs")
        .arg("-h")
        .arg(volume.disk_image().unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("has_journal"), "{text}");
}

#[test]
fn used_room_is_that_of_the_moment() {
    let volumes = fixture();
    let volume = volumes
        .volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    let before = volume.used_bytes().unwrap();
    fs::write(volume.path().join("file"), vec![1; 1 << 20]).unwrap();
    assert!(volume.used_bytes().unwrap() >= before + (1 << 20));
    fs::remove_file(volume.path().join("file")).unwrap();
    assert!(volume.used_bytes().unwrap() < before + (1 << 20));
}

#[test]
fn what_contradicts_itself_is_not_made() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let sized = VolumeConfig {
        size_mib: Some(1),
        ..VolumeConfig::default()
    };
    let limited = VolumeConfig {
        quota_mib: Some(1),
        ..disk(16)
    };
    for config in [sized, limited, disk(7)] {
        let error = volumes.create(&name("data"), &config).unwrap_err();
        assert!(
            matches!(error, VolumeError::InvalidConfig { .. }),
            "{error}"
        );
    }
    let error = volumes.create(&name("data"), &disk(0)).unwrap_err();
    assert!(matches!(error, VolumeError::SizeMissing { .. }), "{error}");
    assert_eq!(entries(&home), [""; 0]);
}

#[test]
fn sizes_of_zero_are_none() {
    let Fixture { volumes, _root, .. } = fixture();
    let zeros = VolumeConfig {
        size_mib: Some(0),
        ..quota(0)
    };
    let directory = volumes.create(&name("dir"), &zeros).unwrap();
    assert_eq!(directory.kind(), VolumeKind::Dir);
    assert_eq!(
        (directory.quota_mib(), directory.capacity_bytes()),
        (None, None)
    );
    assert!(directory.path().is_dir());
    let zero_quota = VolumeConfig {
        quota_mib: Some(0),
        ..disk(16)
    };
    let disk = volumes.create(&name("disk"), &zero_quota).unwrap();
    assert_eq!(
        (disk.quota_mib(), disk.capacity_bytes()),
        (None, Some(16 << 20))
    );
}

#[test]
fn a_disk_that_cannot_be_made_leaves_nothing() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    // More than a file of the host can have.
    volumes.create(&name("disk"), &disk(u32::MAX)).unwrap_err();
    assert_eq!(entries(&home), [""; 0]);
    assert!(volumes.list().unwrap().is_empty());
}

#[test]
fn of_many_makers_one_wins() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let barrier = Barrier::new(16);
    for round in 0..10 {
        let name = name(&format!("volume {round}"));
        let (name, volumes, home, barrier) = (&name, &volumes, &home, &barrier);
        let winners = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|number| {
                    scope.spawn(move || {
                        // Some share a connection, others have one of their own.
                        let own = (number % 2 == 0).then(|| Volumes::open(home).unwrap());
                        barrier.wait();
                        match own
                            .as_ref()
                            .unwrap_or(volumes)
                            .create(name, &quota(number + 1))
                        {
                            Ok(volume) => volume.quota_mib(),
                            Err(VolumeError::VolumeAlreadyExists { .. }) => None,
                            Err(error) => panic!("{error}"),
                        }
                    })
                })
                .collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.flatten().collect::<Vec<_>>()
        });
        assert_eq!(winners.len(), 1);
        assert_eq!(volumes.get(name).unwrap().quota_mib(), Some(winners[0]));
    }
    assert_eq!(entries(&home).len(), 10);
}

#[test]
fn a_removed_volume_is_gone_with_its_files() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let outside = _root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let volume = volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    fs::create_dir_all(volume.path().join("a/b")).unwrap();
    symlink(&outside, volume.path().join("a/link")).unwrap();
    volumes.create(&name("disk"), &disk(16)).unwrap();
    volumes.remove(&name("data")).unwrap();
    volumes.remove(&name("disk")).unwrap();
    assert_eq!(entries(&home), [""; 0]);
    assert!(outside.exists());
    let error = volumes.remove(&name("data")).unwrap_err();
    assert!(
        matches!(error, VolumeError::VolumeNotFound { .. }),
        "{error}"
    );
    // The name is free again.
    volumes.create(&name("data"), &disk(16)).unwrap();
}

#[test]
fn a_volume_in_use_is_not_removed() {
    let Fixture { volumes, _root, .. } = fixture();
    volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    let existing = wanted("data", VolumeMode::Existing);
    let second = volumes.acquire(&existing, &sandbox("second")).unwrap();
    let first = volumes.acquire(&existing, &sandbox("first")).unwrap();
    let error = volumes.remove(&name("data")).unwrap_err();
    assert!(
        matches!(&error, VolumeError::VolumeInUse { sandboxes, .. } if *sandboxes == ["first", "second"])
    );
    assert_eq!(
        error.to_string(),
        "The volume \"data\" is used by the sandboxes \"first\", \"second\""
    );
    // A process of the machine goes on with the descriptor that it got.
    let machine = second.as_fd().try_clone_to_owned().unwrap();
    drop((first, second));
    let error = volumes.remove(&name("data")).unwrap_err();
    assert!(matches!(error, VolumeError::VolumeInUse { sandboxes, .. } if sandboxes == ["second"]));
    drop(machine);
    volumes.remove(&name("data")).unwrap();
}

#[test]
fn a_disk_has_one_writer_or_any_number_of_readers() {
    let Fixture { volumes, _root, .. } = fixture();
    let mode = VolumeMode::EnsureExists(disk(16));
    let writer = wanted("disk", mode);
    let reader = NamedVolume {
        read_only: true,
        ..writer.clone()
    };
    let in_use = |result: Result<VolumeUse, VolumeError>| {
        matches!(result, Err(VolumeError::VolumeInUse { .. }))
    };
    let one = volumes.acquire(&writer, &sandbox("one")).unwrap();
    assert!(one.created());
    assert!(in_use(volumes.acquire(&writer, &sandbox("two"))));
    assert!(in_use(volumes.acquire(&reader, &sandbox("two"))));
    one.keep();
    let two = volumes.acquire(&reader, &sandbox("two")).unwrap();
    assert!(!two.created());
    let three = volumes.acquire(&reader, &sandbox("three")).unwrap();
    assert!(in_use(volumes.acquire(&writer, &sandbox("one"))));
    drop((two, three));
    volumes.acquire(&writer, &sandbox("one")).unwrap();
}

#[test]
fn modes_decide_what_is_made() {
    let Fixture { volumes, _root, .. } = fixture();
    let acquire = |mode| volumes.acquire(&wanted("data", mode), &sandbox("web"));
    let error = acquire(VolumeMode::Existing).unwrap_err();
    assert!(matches!(error, VolumeError::VolumeNotFound { .. }));
    let made = acquire(VolumeMode::Create(quota(10))).unwrap();
    assert!(made.created());
    let error = acquire(VolumeMode::Create(quota(10))).unwrap_err();
    assert!(matches!(error, VolumeError::VolumeAlreadyExists { .. }));
    let ledger = made.volume().usage_ledger().unwrap();
    assert_eq!(ledger.file_name().unwrap(), "usage");
    assert!(
        !acquire(VolumeMode::EnsureExists(quota(10)))
            .unwrap()
            .created()
    );
    acquire(VolumeMode::Existing).unwrap();
    assert_eq!(volumes.get(&name("data")).unwrap().quota_mib(), Some(10));
}

#[test]
fn what_was_made_for_a_start_that_failed_goes_again() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    for (volume, mode) in [
        ("one", VolumeMode::Create(quota(10))),
        ("two", VolumeMode::EnsureExists(quota(10))),
        ("three", VolumeMode::Create(disk(16))),
    ] {
        let acquire = |mode| {
            let acquired = volumes.acquire(&wanted(volume, mode), &sandbox("web"));
            acquired.unwrap()
        };
        let before = entries(&home);
        drop(acquire(mode.clone()));
        assert_eq!(entries(&home), before);
        assert!(volumes.get(&name(volume)).is_err());
        acquire(mode).keep();
        volumes.get(&name(volume)).unwrap();
    }
    // It was there before the start that failed.
    let existing = wanted("one", VolumeMode::EnsureExists(quota(10)));
    drop(volumes.acquire(&existing, &sandbox("web")).unwrap());
    volumes.get(&name("one")).unwrap();
}

#[test]
fn a_start_that_failed_takes_nothing_from_others() {
    let Fixture { volumes, _root, .. } = fixture();
    let acquire = |volume, mode, by| {
        let acquired = volumes.acquire(&wanted(volume, mode), &sandbox(by));
        acquired.unwrap()
    };
    let failing = acquire("used", VolumeMode::Create(quota(10)), "one");
    let _other = acquire("used", VolumeMode::Existing, "two");
    drop(failing);
    let error = volumes.remove(&name("used")).unwrap_err();
    assert!(matches!(error, VolumeError::VolumeInUse { sandboxes, .. } if sandboxes == ["two"]));
    // Nor what another has left there.
    let failing = acquire("filled", VolumeMode::Create(quota(10)), "one");
    let other = acquire("filled", VolumeMode::Existing, "two");
    fs::write(other.volume().path().join("file"), "precious").unwrap();
    drop((other, failing));
    let volume = volumes.get(&name("filled")).unwrap();
    assert_eq!(fs::read(volume.path().join("file")).unwrap(), b"precious");
}

#[test]
fn nobody_is_between_the_making_and_the_use() {
    let Fixture { volumes, _root, .. } = fixture();
    let done = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(ordering) {
                match volumes.remove(&name("data")) {
                    Ok(())
                    | Err(VolumeError::VolumeNotFound { .. } | VolumeError::VolumeInUse { .. }) => {
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let acquired: Result<Vec<_>, _> = (0..30)
            .map(|_| {
                let mode = VolumeMode::Create(VolumeConfig::default());
                volumes
                    .acquire(&wanted("data", mode), &sandbox("web"))
                    .map(drop)
            })
            .collect();
        done.store(true, ordering);
        acquired.unwrap();
    });
}

#[test]
fn an_existing_volume_is_as_it_is_asked_for_or_refused() {
    let Fixture { volumes, _root, .. } = fixture();
    let unlimited = VolumeConfig::default;
    let disk_of_any_size = || disk(0);
    let labelled = VolumeConfig {
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        ..quota(10)
    };
    for (volume, config) in [
        ("limited", quota(10)),
        ("unlimited", unlimited()),
        ("disk", disk(16)),
    ] {
        volumes.create(&name(volume), &config).unwrap();
    }
    let size_none = VolumeConfig {
        size_mib: None,
        ..disk(16)
    };
    for (volume, config, refusal) in [
        ("limited", quota(10), None),
        ("limited", labelled, None),
        ("limited", quota(11), Some("quota 10 MiB, not 11 MiB")),
        ("limited", quota(9), Some("quota 10 MiB, not 9 MiB")),
        ("limited", unlimited(), Some("quota 10 MiB, not none")),
        ("limited", quota(0), Some("quota 10 MiB, not none")),
        ("limited", disk(16), Some("kind dir, not disk")),
        ("unlimited", unlimited(), None),
        ("unlimited", quota(0), None),
        ("unlimited", quota(10), Some("quota none, not 10 MiB")),
        ("unlimited", disk_of_any_size(), Some("kind dir, not disk")),
        ("disk", disk(16), None),
        ("disk", disk_of_any_size(), None),
        ("disk", size_none, None),
        ("disk", disk(17), Some("size 16 MiB, not 17 MiB")),
        ("disk", disk(8), Some("size 16 MiB, not 8 MiB")),
        ("disk", unlimited(), Some("kind disk, not dir")),
    ] {
        let mode = VolumeMode::EnsureExists(config.clone());
        let acquired = volumes.acquire(&wanted(volume, mode), &sandbox("web"));
        let error = acquired
            .map(|volume_use| assert!(!volume_use.created()))
            .err();
        assert_eq!(
            error.map(|error| error.to_string()),
            refusal.map(|refusal| format!("The volume {volume:?} has the {refusal}")),
            "{volume} as {config:?}"
        );
    }
    // None of it has changed anything.
    let quotas = ["limited", "unlimited"].map(|it| volumes.get(&name(it)).unwrap().quota_mib());
    assert_eq!(quotas, [Some(10), None]);
    let missing = wanted("missing", VolumeMode::EnsureExists(disk_of_any_size()));
    let error = volumes.acquire(&missing, &sandbox("web")).unwrap_err();
    assert!(matches!(error, VolumeError::SizeMissing { .. }), "{error}");
}

#[test]
fn a_record_without_a_directory_is_told_and_removed() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let volume = volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    fs::remove_dir_all(home.volumes().join("data")).unwrap();
    let missing = |error| matches!(error, VolumeError::DirectoryMissing { .. });
    assert!(missing(volume.used_bytes().unwrap_err()));
    let existing = wanted("data", VolumeMode::Existing);
    assert!(missing(
        volumes.acquire(&existing, &sandbox("web")).unwrap_err()
    ));
    assert_eq!(volumes.list().unwrap().len(), 1);
    volumes.remove(&name("data")).unwrap();
    volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
}

#[test]
fn a_directory_without_a_record_is_told_and_kept() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    let by_hand = home.volumes().join("data");
    fs::create_dir(&by_hand).unwrap();
    fs::write(by_hand.join("precious"), "x").unwrap();
    let error = volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap_err();
    assert!(matches!(error, VolumeError::Unrecorded { path } if path == by_hand));
    assert!(volumes.list().unwrap().is_empty());
    assert!(by_hand.join("precious").exists());
}

#[test]
fn what_a_maker_left_is_finished_or_removed() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    let id = volumes.get(&name("data")).unwrap().id().as_str().to_owned();
    // It died after the record was added.
    let new = home.volumes().join(format!(".new-{id}"));
    fs::rename(home.volumes().join("data"), new).unwrap();
    // And others before.
    fs::create_dir_all(home.volumes().join(".new-0123456789abcdef/data/a")).unwrap();
    volumes.get(&name("data")).unwrap().used_bytes().unwrap();
    assert_eq!(entries(&home), ["data"]);
    // What is no left-over is left alone.
    fs::create_dir(home.volumes().join(".new-x")).unwrap();
    volumes.list().unwrap();
    assert_eq!(entries(&home), [".new-x", "data"]);
}

#[test]
fn what_a_remover_left_is_finished() {
    let Fixture {
        home,
        volumes,
        _root,
    } = fixture();
    volumes
        .create(&name("data"), &VolumeConfig::default())
        .unwrap();
    let id = volumes.get(&name("data")).unwrap().id().as_str().to_owned();
    let trash = home.volumes().join(format!(".trash-{id}"));
    fs::rename(home.volumes().join("data"), trash).unwrap();
    assert!(volumes.list().unwrap().is_empty());
    assert_eq!(entries(&home), [""; 0]);
}
