use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::manifest::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST};
use crate::progress::Silent;

const CONTENT: &[u8] = b"some content";

struct Fixture {
    store: Store,
    root: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let root = tempfile::tempdir().unwrap();
    Fixture {
        store: Store::open(root.path().join("images")).unwrap(),
        root,
    }
}

impl Fixture {
    /// The files of the store, without locks.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for directory in ["blobs/sha256", "layers/v1", "partial", "staging"] {
            for entry in fs::read_dir(self.root.path().join("images").join(directory)).unwrap() {
                files.push(format!(
                    "{directory}/{}",
                    entry.unwrap().file_name().display()
                ));
            }
        }
        files
    }
}

fn begin(shared: &Shared, descriptor: &Descriptor) -> BlobWriter {
    match shared.blob_writer(descriptor).unwrap() {
        BlobState::Write(writer) => *writer,
        BlobState::Present => panic!("it is there"),
    }
}

fn descriptor() -> Descriptor {
    Descriptor::of(CONTENT, OCI_LAYER)
}

#[test]
fn a_blob_appears_when_it_is_complete() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let descriptor = descriptor();
    let mut writer = begin(&shared, &descriptor);
    assert_eq!(writer.offset(), 0);
    writer.write(&CONTENT[..5]).unwrap();
    writer.write(&CONTENT[5..]).unwrap();
    assert!(!shared.has_blob(&descriptor.digest));
    writer.commit().unwrap();
    assert!(matches!(
        shared.blob_writer(&descriptor).unwrap(),
        BlobState::Present
    ));
    assert_eq!(shared.read_blob(&descriptor.digest, 99).unwrap(), CONTENT);
    assert_eq!(
        fixture.files(),
        [format!("blobs/sha256/{}", descriptor.digest.hex())]
    );
    let mode = fs::metadata(fixture.store.blob(&descriptor.digest))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o444);
}

#[test]
fn what_does_not_get_its_name_can_be_written_by_whoever_goes_on() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut writer = begin(&shared, &descriptor());
    writer.write(CONTENT).unwrap();
    fs::remove_dir(fixture.store.blobs()).unwrap();
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let part = fixture.store.partial().join(descriptor().digest.hex());
    let mode = fs::metadata(part).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::create_dir(fixture.store.blobs()).unwrap();
    begin(&shared, &descriptor()).commit().unwrap();
    assert!(shared.has_blob(&descriptor().digest));
}

#[test]
fn a_blob_at_hand_is_written_beside_what_was_begun() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut writer = begin(&shared, &descriptor());
    writer.write(&CONTENT[..5]).unwrap();
    drop(writer);
    let part = format!("partial/{}", descriptor().digest.hex());
    let begin_whole = || match shared.whole_blob_writer(&descriptor()).unwrap() {
        BlobState::Write(writer) => *writer,
        BlobState::Present => panic!("it is there"),
    };
    for content in [&CONTENT[..3], b"some CONTENT"] {
        let mut writer = begin_whole();
        assert_eq!(writer.offset(), 0);
        writer.write(content).unwrap();
        writer.commit().unwrap_err();
        assert_eq!(fixture.files(), [&*part]);
    }
    drop(begin_whole());
    assert_eq!(fixture.files(), [&*part]);
    assert_eq!(begin(&shared, &descriptor()).offset(), 5);
    let mut writer = begin_whole();
    writer.write(CONTENT).unwrap();
    writer.commit().unwrap();
    let name = format!("blobs/sha256/{}", descriptor().digest.hex());
    assert_eq!(fixture.files(), [&*name, &*part]);
    // When it is to stay, nobody goes on with the part any more.
    let renewing = fixture.store.share().unwrap().renewing();
    let other = begin(&renewing, &descriptor());
    shared.forget_parts();
    assert_eq!(fixture.files(), [&*name, &*part]);
    drop(other);
    shared.forget_parts();
    assert_eq!(fixture.files(), [&*name]);
}

#[test]
fn what_was_added_in_vain_goes_and_nothing_else() {
    let fixture = fixture();
    let before = fixture.store.share().unwrap();
    before.add(b"before", OCI_LAYER).unwrap();
    let mut part = begin(&before, &descriptor());
    part.write(&CONTENT[..5]).unwrap();
    drop((part, before));
    let mut files = fixture.files();

    let shared = fixture.store.share().unwrap();
    let (kept, vain) = (image(&shared, b"kept"), image(&shared, b"before"));
    let added = shared.added();
    let mut layer = shared.new_layer(10).unwrap();
    layer.write(b"vain").unwrap();
    layer.finish(OCI_LAYER_GZIP).unwrap();
    let needed = shared.manifest(&kept).unwrap();
    drop(shared);
    let store = fixture.store.exclude().unwrap();
    store.take_back(&added, &[kept]).unwrap();
    let layer = needed.layers[0].descriptor.digest;
    files.extend(
        [kept, needed.config.digest, layer].map(|digest| format!("blobs/sha256/{}", digest.hex())),
    );
    files.sort();
    let mut found = fixture.files();
    found.sort();
    assert_eq!(found, files);
    assert!(!fixture.store.blob(&vain).exists());
}

#[test]
fn an_interrupted_blob_is_taken_up_where_it_was() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut writer = begin(&shared, &descriptor());
    writer.write(&CONTENT[..5]).unwrap();
    let error = writer.commit().unwrap_err();
    assert!(
        matches!(error, StoreError::Incomplete { found: 5, .. }),
        "{error}"
    );
    let mut writer = begin(&shared, &descriptor());
    assert_eq!(writer.offset(), 5);
    writer.write(&CONTENT[5..]).unwrap();
    writer.commit().unwrap();
    assert_eq!(shared.read_blob(&descriptor().digest, 99).unwrap(), CONTENT);
}

#[test]
fn wrong_bytes_are_not_kept() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut writer = begin(&shared, &descriptor());
    writer.write(b"some CONTENT").unwrap();
    let error = writer.commit().unwrap_err();
    assert!(matches!(error, StoreError::WrongDigest { .. }), "{error}");
    assert!(fixture.files().is_empty());
    // A part that is wrong, too, can be told only at the end.
    let mut writer = begin(&shared, &descriptor());
    writer.write(b"SOME").unwrap();
    drop(writer);
    let mut writer = begin(&shared, &descriptor());
    assert_eq!(writer.offset(), 4);
    writer.restart().unwrap();
    writer.write(CONTENT).unwrap();
    writer.commit().unwrap();
}

#[test]
fn a_blob_has_the_size_that_its_descriptor_says() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut short = descriptor();
    short.size -= 1;
    let mut writer = begin(&shared, &short);
    writer.write(&CONTENT[..10]).unwrap();
    let error = writer.write(&CONTENT[10..]).unwrap_err();
    assert!(matches!(error, StoreError::WrongSize { .. }), "{error}");
    drop(writer);
    shared.add(CONTENT, OCI_LAYER).unwrap();
    let error = shared.blob_writer(&short).unwrap_err();
    assert!(
        matches!(error, StoreError::WrongSize { found: 12, .. }),
        "{error}"
    );
    // What is left of something longer is nothing to go on from.
    fs::write(fixture.store.partial().join(Digest::of(b"a").hex()), "aaa").unwrap();
    let writer = begin(&shared, &Descriptor::of(b"a", OCI_LAYER));
    assert_eq!(writer.offset(), 0);
}

#[test]
fn of_two_who_want_a_blob_one_writes_it() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut writer = begin(&shared, &descriptor());
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        let store = &fixture.store;
        scope.spawn(move || {
            let shared = store.share().unwrap();
            let state = shared.blob_writer(&descriptor()).unwrap();
            sender.send(matches!(state, BlobState::Present)).unwrap();
        });
        writer.write(CONTENT).unwrap();
        assert!(receiver.try_recv().is_err(), "it did not wait");
        writer.commit().unwrap();
        assert!(receiver.recv().unwrap(), "it wrote again");
    });
}

#[test]
fn what_the_disk_changed_is_noticed() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let added = shared.add(CONTENT, OCI_MANIFEST).unwrap();
    let path = fixture.store.blob(&added.digest);
    fs::remove_file(&path).unwrap();
    let error = shared.read_blob(&added.digest, 99).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    fs::write(&path, "SOME CONTENT").unwrap();
    let error = shared.manifest(&added.digest).unwrap_err();
    assert!(matches!(error, StoreError::WrongDigest { .. }), "{error}");
}

/// Adds an image of one layer, and returns the digest of its manifest.
fn image(shared: &Shared, layer: &[u8]) -> Digest {
    let layer = shared.add(layer, OCI_LAYER).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest.to_string()]},
    });
    let config = shared
        .add(config.to_string().as_bytes(), OCI_CONFIG)
        .unwrap();
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    shared
        .add(manifest.to_string().as_bytes(), OCI_MANIFEST)
        .unwrap()
        .digest
}

#[test]
fn pruning_spares_what_images_need() {
    let fixture = fixture();
    let (kept, other) = {
        let shared = fixture.store.share().unwrap();
        (image(&shared, b"kept"), image(&shared, b"other"))
    };
    let layers = fixture.store.layers();
    for layer in [&b"kept"[..], b"other"] {
        fs::write(layers.join(Store::layer_name(&Digest::of(layer))), "erofs").unwrap();
    }
    fs::write(fixture.store.staging().join("dead"), "").unwrap();
    fs::write(fixture.store.partial().join(Digest::of(b"p").hex()), "").unwrap();

    let all = fixture.store.exclude().unwrap();
    assert_eq!(
        all.prune(&[kept, other], false).unwrap(),
        Pruned {
            layers: 1,
            ..Pruned::default()
        }
    );
    let pruned = all.prune(&[kept], true).unwrap();
    // Its manifest, its configuration, its layer; and what was begun.
    assert_eq!((pruned.blobs, pruned.layers), (4, 1));
    assert!(pruned.bytes > 0);
    assert_eq!(all.prune(&[kept], true).unwrap(), Pruned::default());
    assert_eq!(fixture.files().len(), 4);
    // What an image needs cannot be told if its manifest is gone.
    fs::remove_file(fixture.store.blob(&kept)).unwrap();
    let error = all.prune(&[kept], true).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert_eq!(fixture.files().len(), 3);
}

#[test]
fn nothing_is_removed_while_the_store_is_shared() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let other = fixture.store.share().unwrap();
    assert!(fixture.store.try_exclude().unwrap().is_none());
    drop((shared, other));
    assert!(fixture.store.try_exclude().unwrap().is_some());
}

#[test]
fn a_layer_that_is_made_here_gets_its_name_at_the_end() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    // No valid archive, which is nobody's business yet.
    let archive: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut made = Vec::new();
    for _ in 0..2 {
        let mut layer = shared.new_layer(archive.len() as u64).unwrap();
        for part in archive.chunks(65_536) {
            layer.write(part).unwrap();
        }
        assert_eq!(layer.written(), archive.len() as u64);
        assert!(
            fixture
                .files()
                .iter()
                .any(|file| file.starts_with("staging/"))
        );
        made.push(layer.finish(OCI_LAYER_GZIP).unwrap());
    }
    assert_eq!(made[0], made[1]);
    let (layer, diff_id) = &made[0];
    assert_eq!(*diff_id, Digest::of(&archive));
    let descriptor = &layer.descriptor;
    let name = format!("blobs/sha256/{}", descriptor.digest.hex());
    assert_eq!(fixture.files(), [name]);
    let blob = shared.read_blob(&descriptor.digest, archive.len()).unwrap();
    assert_eq!(*descriptor, Descriptor::of(&blob, OCI_LAYER_GZIP));
    let mut again = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(&blob[..]);
    reader.read_to_end(&mut again).unwrap();
    assert!(again == archive);
}

#[test]
fn a_layer_that_is_not_made_to_its_end_leaves_nothing() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut layer = shared.new_layer(10).unwrap();
    layer.write(b"0123456789").unwrap();
    let error = layer.write(b"x").unwrap_err();
    assert!(
        matches!(error, StoreError::TooLarge { limit: 10 }),
        "{error:?}"
    );
    drop(layer);
    drop(shared.new_layer(10).unwrap());
    assert_eq!(fixture.files(), [""; 0]);
}

#[test]
fn what_is_renewed_takes_the_place_of_what_is_there() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(CONTENT.len() as u64);
    archive.append_data(&mut header, "file", CONTENT).unwrap();
    let archive = archive.into_inner().unwrap();
    let image = image(&shared, &archive);
    let manifest = shared.manifest(&image).unwrap();
    let (layer, diff_id) = (&manifest.layers[0], Digest::of(&archive));
    let path = shared.make_layer(layer, &diff_id, &Silent).unwrap();
    let whole = fs::read(&path).unwrap();
    // A sandbox has it.
    let mut used = File::open(&path).unwrap();
    let damage = |path: &Path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "damaged").unwrap();
    };
    damage(&fixture.store.blob(&diff_id));
    damage(&path);
    shared.make_layer(layer, &diff_id, &Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"damaged");

    let renewing = fixture.store.share().unwrap().renewing();
    assert!(shared.has_blob(&diff_id) && !renewing.has_blob(&diff_id));
    let mut writer = begin(&renewing, &layer.descriptor);
    writer.write(&archive).unwrap();
    // It is there until the other is complete.
    assert!(shared.has_blob(&diff_id));
    writer.commit().unwrap();
    renewing.make_layer(layer, &diff_id, &Silent).unwrap();
    let blob = shared.read_blob(&diff_id, archive.len()).unwrap();
    assert!(blob == archive && fs::read(&path).unwrap() == whole);
    let mut found = Vec::new();
    used.read_to_end(&mut found).unwrap();
    assert!(found == whole);
    assert_eq!(fixture.files().len(), 4);
}

#[test]
fn an_image_whose_making_was_broken_off_is_told_of() {
    let fixture = fixture();
    let shared = fixture.store.share().unwrap();
    let has_unfinished = || fixture.store.has_unfinished().unwrap();
    drop(shared.new_layer(10).unwrap());
    assert!(!has_unfinished());
    let unfinished = shared.begin_image().unwrap();
    assert!(has_unfinished());
    unfinished.finish().unwrap();
    assert!(!has_unfinished());
    // Nobody came to its end.
    drop(shared.begin_image().unwrap());
    assert!(has_unfinished());
    drop(shared);
    let store = fixture.store.exclude().unwrap();
    store.prune(&[], false).unwrap();
    assert!(!has_unfinished());
}
