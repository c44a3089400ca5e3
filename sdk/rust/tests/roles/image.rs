//! An image that is made for a test.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use microsandbox::home::Home;
use microsandbox::images::Images;
use microsandbox::images::image::Digest;
use microsandbox::images::image::archive::Input;
use microsandbox::images::image::progress::Silent;
use serde_json::json;

/// Loads an image with this layer, which is called `base:1`. The archive that it is loaded from is made in `folder`.
pub(crate) fn load(home: &Home, folder: &Path, layer: &[u8]) -> Digest {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer).to_string()]},
    });
    let list = json!([{"Config": "config.json", "RepoTags": ["base:1"], "Layers": ["layer.tar"]}]);
    let path = folder.join("base.tar");
    let mut archive = tar::Builder::new(File::create(&path).unwrap());
    append(&mut archive, "layer.tar", layer);
    append(&mut archive, "config.json", config.to_string().as_bytes());
    append(&mut archive, "manifest.json", list.to_string().as_bytes());
    archive.finish().unwrap();
    let images = Images::open(home).unwrap();
    let loaded = images.load(Input::Path(&path), None, &[], &Silent);
    *loaded.unwrap()[0].digest()
}

/// The archive of a layer with a file that does not compress well.
pub(crate) fn layer<W: Write>(output: W, name: &str, size: usize) -> W {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let content: Vec<u8> = noise.take(size).collect();
    let mut layer = tar::Builder::new(output);
    append(&mut layer, name, &content);
    layer.into_inner().unwrap()
}

fn append<W: Write>(archive: &mut tar::Builder<W>, name: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).unwrap();
}
