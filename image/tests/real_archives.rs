//! Archives that other programs make are loaded, and what is saved is loaded by them: umoci makes an image, skopeo copies
//! it to and fro.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::archive::{self, ArchiveError, Format, Input, LoadedImage, SavedImage};
use image::manifest::ManifestError;
use image::progress::Silent;
use image::{Digest, Reference, Store};
use tempfile::TempDir;

const NAME: &str = "example.org/some/image:1";

/// A folder with an image of two layers in an OCI image layout, `layout:tag`.
struct Fixture {
    folder: TempDir,
    store: Store,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo_copy(from: &str, to: &str) {
    run("skopeo", &["--insecure-policy", "copy", "-q", from, to]);
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("images")).unwrap();
        let fixture = Fixture { folder, store };
        let tree = fixture.path("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/hostname"), "unpacked\n").unwrap();
        fs::write(tree.join("large"), vec![7; 3 << 20]).unwrap();
        std::os::unix::fs::symlink("etc/hostname", tree.join("link")).unwrap();
        let image = format!("{}:tag", fixture.text("layout"));
        run("umoci", &["init", "--layout", &fixture.text("layout")]);
        run("umoci", &["new", "--image", &image]);
        let tree = tree.to_str().unwrap();
        let etc = format!("{tree}/etc");
        run(
            "umoci",
            &["insert", "--rootless", "--image", &image, tree, "/"],
        );
        run(
            "umoci",
            &["insert", "--rootless", "--image", &image, &etc, "/srv"],
        );
        run(
            "umoci",
            &[
                "config",
                "--image",
                &image,
                "--architecture",
                "amd64",
                "--os",
                "linux",
                "--config.env",
                "A=b=c",
                "--config.cmd",
                "/bin/true",
                "--config.user",
                "1:2",
                "--config.volume",
                "/data",
                "--config.exposedports",
                "80/tcp",
                "--config.label",
                "k=v",
                "--config.workingdir",
                "/srv",
                "--config.stopsignal",
                "SIGQUIT",
            ],
        );
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn load(&self, path: &Path, wanted: Option<&str>) -> Result<Vec<LoadedImage>, ArchiveError> {
        let shared = self.store.share().unwrap();
        archive::load(&shared, Input::Path(path), wanted, &Silent)
    }

    fn load_one(&self, name: &str) -> LoadedImage {
        let mut loaded = self.load(&self.path(name), None).unwrap();
        assert_eq!(loaded.len(), 1);
        loaded.remove(0)
    }

    fn check(&self, manifest: &Digest) {
        let shared = self.store.share().unwrap();
        let manifest = shared.manifest(manifest).unwrap();
        let config = shared.config(&manifest).unwrap();
        assert_eq!(config.config.env, ["A=b=c"]);
        assert_eq!(config.config.cmd, ["/bin/true"]);
        assert_eq!(config.config.user, "1:2");
        assert_eq!(config.config.working_dir, "/srv");
        assert_eq!(config.config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.config.labels["k"], "v");
        assert!(config.config.volumes.contains("/data"));
        assert!(config.config.exposed_ports.contains("80/tcp"));
        assert_eq!(config.diff_ids.len(), 2);
        for diff_id in &config.diff_ids {
            let layer = shared.layer(diff_id).unwrap();
            run("/usr/bin/fsck.erofs", &[layer.to_str().unwrap()]);
        }
    }

    fn save(&self, manifest: Digest, format: Format, name: &str) {
        let shared = self.store.share().unwrap();
        let mut output = File::create(self.path(name)).unwrap();
        let image = SavedImage {
            manifest,
            references: vec![NAME.parse().unwrap()],
        };
        archive::save(&shared, &[image], format, &mut output, &Silent).unwrap();
    }
}

#[test]
fn what_skopeo_and_umoci_make_is_loaded() {
    let fixture = Fixture::new();
    let layout = fixture.load_one("layout");
    // A tag alone is no name.
    assert_eq!(layout.references, []);
    fixture.check(&layout.manifest);

    let source = format!("oci:{}:tag", fixture.text("layout"));
    skopeo_copy(
        &source,
        &format!("oci-archive:{}:{NAME}", fixture.text("oci.tar")),
    );
    let oci = fixture.load_one("oci.tar");
    assert_eq!(oci.manifest, layout.manifest);
    assert_eq!(oci.references, [NAME.parse::<Reference>().unwrap()]);

    skopeo_copy(
        &source,
        &format!("docker-archive:{}:{NAME}", fixture.text("docker.tar")),
    );
    let docker = fixture.load_one("docker.tar");
    assert_eq!(docker.references, oci.references);
    fixture.check(&docker.manifest);
    // Its layers are not compressed there, and are the same.
    assert_eq!(
        fs::read_dir(fixture.path("images/layers/v1"))
            .unwrap()
            .count(),
        2
    );
    assert_eq!(fixture.load_one("docker.tar").manifest, docker.manifest);

    for (program, name) in [("gzip", "docker.tar.gz"), ("zstd", "docker.tar.zst")] {
        let archive = fixture.text("docker.tar");
        run(program, &["-q", "-k", &archive]);
        assert_eq!(fixture.load_one(name), docker);
    }
    let found = fixture.load(&fixture.path("layout"), Some("tag")).unwrap();
    assert_eq!(found, [layout]);
    let error = fixture
        .load(&fixture.path("layout"), Some("other"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "The archive has no image \"other\", only tag"
    );
}

#[test]
fn what_is_saved_is_loaded_by_skopeo() {
    let fixture = Fixture::new();
    let loaded = fixture.load_one("layout");
    let config = |source: &str| run("skopeo", &["inspect", "--config", "--raw", source]);
    let expected = config(&format!("oci:{}:tag", fixture.text("layout")));
    for (format, kind, name) in [
        (Format::Oci, "oci-archive", "saved.oci.tar"),
        (Format::Docker, "oci-archive", "saved.both.tar"),
        (Format::Docker, "docker-archive", "saved.docker.tar"),
    ] {
        fixture.save(loaded.manifest, format, name);
        let source = format!("{kind}:{}:{NAME}", fixture.text(name));
        assert_eq!(config(&source), expected, "{kind}");
        // All layers are read and checked.
        let copy = format!("oci:{}:tag", fixture.text(&format!("copy-of-{name}")));
        skopeo_copy(&source, &copy);
        let again = fixture.load_one(name);
        assert_eq!(again.manifest, loaded.manifest);
        assert_eq!(again.references, [NAME.parse::<Reference>().unwrap()]);
    }
    // The same image, the same bytes.
    fixture.save(loaded.manifest, Format::Docker, "second");
    let read = |name| fs::read(fixture.path(name)).unwrap();
    assert!(read("second") == read("saved.docker.tar"));
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let fixture = Fixture::new();
    let image = format!("{}:tag", fixture.text("layout"));
    run(
        "umoci",
        &["config", "--image", &image, "--architecture", "arm64"],
    );
    let error = fixture.load(&fixture.path("layout"), None).unwrap_err();
    assert!(
        matches!(&error, ArchiveError::Document { source: ManifestError::NoPlatform { available }, .. }
            if available == &["linux/arm64"]),
        "{error:?}"
    );
    assert_eq!(
        fs::read_dir(fixture.path("images/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}
