//! `msb image`: images are loaded, shown, saved and removed. No machine is started.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use microsandbox::images::image::Digest;
use msb_tests::archives::tar;
use msb_tests::running::Finished;
use msb_tests::{Home, Running};
use serde_json::{Value, json};

const NO_IMAGES: [&str; 1] = ["IMAGE  DIGEST  SIZE  CREATED"];

#[track_caller]
fn msb_image<const N: usize>(home: &Home, arguments: [&str; N]) -> Finished {
    home.msb(std::iter::once("image").chain(arguments))
}

/// Writes an archive of `docker save` with an image of one layer.
fn archive(home: &Home, file: &str, name: &str, content: &str) -> PathBuf {
    let layer = tar(&[("etc/motd", content.as_bytes())]);
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Entrypoint": ["/entry"], "Cmd": ["x"], "Labels": {"k": "v"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
        "history": [
            {"created": "2024-01-02T03:04:05Z", "created_by": "COPY \u{1b}[2Jmotd /etc"},
            {"created_by": "CMD x", "empty_layer": true},
        ],
    });
    write_archive(home, file, name, &layer, &config)
}

fn write_archive(home: &Home, file: &str, name: &str, layer: &[u8], config: &Value) -> PathBuf {
    let list = json!([{"Config": "c.json", "RepoTags": [name], "Layers": ["l/layer.tar"]}]);
    let archive = tar(&[
        ("l/layer.tar", layer),
        ("c.json", config.to_string().as_bytes()),
        ("manifest.json", list.to_string().as_bytes()),
    ]);
    let path = home.path().join(file);
    fs::write(&path, archive).unwrap();
    path
}

/// The names of the files in a directory of the store.
fn stored(home: &Home, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(home.msb_home().join("images").join(directory)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_lives_from_load_to_rm() {
    let home = Home::new();
    assert_eq!(msb_image(&home, ["ls"]).lines(), NO_IMAGES);
    assert_eq!(msb_image(&home, ["ls", "--format=json"]).lines(), ["[]"]);
    let path = archive(&home, "a.tar", "motd", "hello");
    assert_eq!(
        msb_image(&home, ["load", text(&path)]).lines(),
        ["motd:latest"]
    );
    // Again, it is the same one.
    assert_eq!(
        msb_image(&home, ["load", "-q", text(&path)]).lines(),
        [""; 0]
    );
    let list = msb_image(&home, ["ls"]);
    let words: Vec<_> = list.lines()[1]
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(
        (list.lines().len(), &*words[0], words[1].len()),
        (2, "motd:latest", 12),
        "{list}"
    );
    assert_eq!(msb_image(&home, ["ls", "-q"]).lines(), ["motd:latest"]);
    assert_eq!(
        (
            stored(&home, "blobs/sha256").len(),
            stored(&home, "layers/v1").len()
        ),
        (3, 1)
    );

    assert_eq!(
        msb_image(&home, ["tag", "motd", "example.org/x/y:2"]).lines(),
        [""; 0]
    );
    let digits = &words[1];
    let shown = msb_image(&home, ["inspect", digits]);
    for line in [
        "name: motd:latest",
        "name: example.org/x/y:2",
        "platform: linux/amd64",
        "env: A=b",
        "entrypoint: [\"/entry\"]",
        "cmd: [\"x\"]",
        "labels: k=v",
    ] {
        assert!(shown.lines().contains(&line), "{line}: {shown}");
    }
    let json = msb_image(&home, ["inspect", "motd", "--format=json"])
        .lines()
        .join("");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["config"]["Entrypoint"], json!(["/entry"]));
    assert_eq!(json[0]["layers"].as_array().unwrap().len(), 1);
    let history = msb_image(&home, ["history", "motd"]);
    assert!(history.lines()[1].ends_with("CMD x"), "{history}");
    // What an image says cannot move the cursor.
    assert!(
        history.lines()[2].ends_with("COPY  [2Jmotd /etc"),
        "{history}"
    );

    assert_eq!(
        msb_image(&home, ["rm", "motd"]).lines(),
        ["untagged: motd:latest"]
    );
    let removed = msb_image(&home, ["rm", "example.org/x/y:2"]);
    assert_eq!(
        removed.lines()[0],
        "untagged: example.org/x/y:2",
        "{removed}"
    );
    assert!(
        removed.lines()[1].starts_with("removed: sha256:"),
        "{removed}"
    );
    assert_eq!(msb_image(&home, ["ls"]).lines(), NO_IMAGES);
    assert_eq!(
        (
            stored(&home, "blobs/sha256").len(),
            stored(&home, "layers/v1").len()
        ),
        (0, 0)
    );
    let missing = msb_image(&home, ["rm", "motd"]);
    missing.assert_error(1, "no image \"motd\" is here");
    missing.assert_error(1, "msb image ls");
    assert_eq!(msb_image(&home, ["rm", "-f", "motd"]).lines(), [""; 0]);
}

#[test]
fn a_name_moves_to_what_is_loaded_last_and_prune_takes_the_other() {
    let home = Home::new();
    let first = archive(&home, "a.tar", "motd:1", "hello");
    let second = archive(&home, "b.tar", "motd:1", "goodbye");
    msb_image(&home, ["load", text(&first)]).lines();
    msb_image(&home, ["load", text(&second)]).lines();
    let names = msb_image(&home, ["ls", "-q"]);
    assert_eq!(names.lines().len(), 2, "{names}");
    assert!(names.lines()[1].starts_with("sha256:"), "{names}");
    msb_image(&home, ["prune"]).assert_error(1, "--force does not ask");
    let pruned = msb_image(&home, ["prune", "-f"]);
    assert_eq!(pruned.lines()[0], format!("removed: {}", names.lines()[1]));
    assert!(pruned.lines()[1].starts_with("freed: "), "{pruned}");
    assert_eq!(msb_image(&home, ["ls", "-q"]).lines(), ["motd:1"]);
    assert_eq!(
        (
            stored(&home, "blobs/sha256").len(),
            stored(&home, "layers/v1").len()
        ),
        (3, 1)
    );
    assert_eq!(msb_image(&home, ["prune", "-fa"]).lines().len(), 3);
    assert_eq!(stored(&home, "blobs/sha256").len(), 0);
}

#[test]
fn what_commands_did_is_told_to_programs_too() {
    let home = Home::new();
    let json = |output: &Finished| -> Value { serde_json::from_str(output.text()).unwrap() };
    let first = archive(&home, "a.tar", "motd:1", "hello");
    let second = archive(&home, "b.tar", "motd:1", "goodbye");
    let loaded = json(&msb_image(&home, ["load", "--format=json", text(&first)]));
    assert_eq!(loaded[0]["references"], json!(["motd:1"]));
    let tagged = json(&msb_image(&home, ["tag", "motd:1", "a:2", "--format=json"]));
    assert_eq!(tagged["references"], json!(["a:2", "motd:1"]));
    assert_eq!(tagged["digest"], loaded[0]["digest"]);

    // What became of the others is told of several, too.
    let removed = msb_image(&home, ["rm", "--format=json", "a:2", "none"]);
    assert_eq!(removed.code(), 1, "{removed}");
    let nothing = json!({"untagged": ["a:2"], "removed": [], "freed_bytes": 0});
    assert_eq!(json(&removed), nothing);

    msb_image(&home, ["load", text(&second)]).lines();
    let pruned = json(&msb_image(&home, ["prune", "-f", "--format=json"]));
    assert_eq!(pruned["untagged"], json!([]));
    assert_eq!(pruned["removed"], json!([loaded[0]["digest"]]));
    assert!(pruned["freed_bytes"].as_u64() > Some(0), "{pruned}");
    let removed = json(&msb_image(&home, ["rm", "motd:1", "--format=json"]));
    assert_eq!(removed["untagged"], json!(["motd:1"]));
    assert_ne!(removed["removed"][0], loaded[0]["digest"]);
    assert_eq!(msb_image(&home, ["ls"]).lines(), NO_IMAGES);
}

#[test]
fn what_is_saved_is_loaded_again() {
    let home = Home::new();
    let path = archive(&home, "a.tar", "motd:1", "hello");
    msb_image(&home, ["load", text(&path), "--tag", "other"]).lines();
    let digest = msb_image(&home, ["inspect", "motd:1"]).lines()[2].to_owned();
    let saved = home.path().join("saved.tar");
    for format in ["docker", "oci"] {
        let output = text(&saved);
        msb_image(
            &home,
            ["save", "--format", format, "-o", output, "motd:1", "other"],
        )
        .lines();
        msb_image(&home, ["rm", "motd:1", "other"]).lines();
        // From a pipe, too.
        let mut command = home.command(["image", "load", "-"]);
        command.stdin(File::open(&saved).unwrap());
        assert_eq!(Running::start(&mut command).finish().lines(), ["motd:1"]);
        assert_eq!(msb_image(&home, ["inspect", "other"]).lines()[2], digest);
    }
    assert_eq!(home.left_over(), [""; 0]);
    let folder = msb_image(&home, ["save", "-o", text(home.path()), "motd:1"]);
    folder.assert_error(1, "is a directory");
    folder.assert_error(1, "hint: name a file");
    let missing = msb_image(&home, ["save", "-o", text(&saved), "motd:1", "none"]);
    missing.assert_error(1, "no image \"none\" is here");
    assert!(
        fs::metadata(&saved).unwrap().len() > 0,
        "what was there is gone"
    );
}

#[test]
fn what_cannot_be_loaded_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let load = |path: &Path| msb_image(&home, ["load", text(path)]);
    let write = |name: &str, content: &[u8]| {
        let path = home.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        path
    };
    load(&home.path().join("none")).assert_error(1, "no such file or directory");
    load(&write("text", b"no archive"))
        .assert_error(1, "neither an OCI image layout nor an archive");
    load(&write("zeros", &[0; 4096])).assert_error(1, "neither an OCI image layout nor an archive");
    load(&write("xz", b"\xfd7zXZ\0")).assert_error(1, "xz -d");
    load(&home.folder("empty")).assert_error(1, "neither an OCI image layout nor an archive");

    let layer = tar(&[("file", b"x")]);
    let good = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]}});
    let whole = fs::read(write_archive(&home, "good", "x", &layer, &good)).unwrap();
    load(&write("cut", &whole[..700])).assert_error(1, "ends early");
    let mut other = good.clone();
    other["architecture"] = json!("riscv64");
    load(&write_archive(&home, "platform", "x", &layer, &other))
        .assert_error(1, "not made for linux/amd64, only for linux/riscv64");
    let changed = tar(&[("file", b"y")]);
    load(&write_archive(&home, "digest", "x", &changed, &good)).assert_error(1, "has the digest");
    load(&write_archive(&home, "name", "A:b:c", &layer, &good))
        .assert_error(1, "no name of an image");
    msb_image(
        &home,
        ["load", "--only", "2", text(&home.path().join("good"))],
    )
    .assert_error(1, "no image \"2\"");
    assert_eq!(msb_image(&home, ["ls"]).lines(), NO_IMAGES);
    for directory in ["blobs/sha256", "layers/v1", "partial", "staging"] {
        assert_eq!(stored(&home, directory), [""; 0], "{directory}");
    }
}

#[test]
fn a_file_system_that_is_gone_is_made_again() {
    let home = Home::new();
    let path = archive(&home, "a.tar", "motd", "hello");
    msb_image(&home, ["load", text(&path)]).lines();
    let layers = home.msb_home().join("images/layers/v1");
    let names = stored(&home, "layers/v1");
    let [name] = &names[..] else {
        panic!("the layers are {names:?}");
    };
    let before = fs::read(layers.join(name)).unwrap();
    fs::remove_file(layers.join(name)).unwrap();
    msb_image(&home, ["tag", "motd", "motd:2"]).lines();
    assert!(fs::read(layers.join(name)).unwrap() == before);
}
