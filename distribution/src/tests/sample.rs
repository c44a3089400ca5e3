//! An image, and a registry that serves it as it should.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::server::{Answer, Request};
use image::digest::Digest;
use image::manifest::{Descriptor, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

/// An image of a few layers.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Vec<u8>>,
}

impl Image {
    /// With so many layers, each with a file of its own of some 100 KiB.
    pub(super) fn new(layers: usize) -> Image {
        let layers: Vec<_> = (0..layers).map(layer).collect();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| Descriptor::of(layer, OCI_LAYER))
            .collect();
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": Descriptor::of(&config, OCI_CONFIG), "layers": descriptors,
        });
        Image {
            manifest: manifest.to_string().into_bytes(),
            config,
            layers,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// An index that leads to it for this architecture.
    pub(super) fn index(&self, architecture: &str) -> Vec<u8> {
        let descriptor = Descriptor::of(&self.manifest, OCI_MANIFEST);
        let mut entry = serde_json::to_value(&descriptor).unwrap();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        index.to_string().into_bytes()
    }

    /// Answers as a registry does in whose repository `x` this is, as `latest`.
    pub(super) fn serve(self) -> impl Fn(&Request) -> Answer + Clone + Send + Sync + 'static {
        let mut blobs: HashMap<String, Vec<u8>> = HashMap::new();
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            blobs.insert(Digest::of(blob).to_string(), blob.clone());
        }
        let latest = self.digest().to_string();
        let blobs = Arc::new(blobs);
        move |request| {
            let Some(rest) = request.target.strip_prefix("/v2/x/") else {
                return Answer::status(if request.target == "/v2/" { 200 } else { 404 });
            };
            let digest = match rest.rsplit('/').next() {
                Some("latest") => latest.as_str(),
                other => other.unwrap_or_default(),
            };
            let Some(blob) = blobs.get(digest) else {
                return Answer::status(404);
            };
            match request.range() {
                Some(from) => {
                    let range = format!("bytes {from}-{}/{}", blob.len() - 1, blob.len());
                    let part = &blob[from..];
                    Answer {
                        status: 206,
                        ..Answer::ok(part)
                    }
                    .with("content-range", range)
                }
                None if rest.starts_with("manifests/") => {
                    Answer::ok(blob.clone()).with("content-type", OCI_MANIFEST)
                }
                None => Answer::ok(blob.clone()),
            }
        }
    }
}

/// A tar archive of one file, whose content is the number's own and does not repeat itself.
fn layer(number: usize) -> Vec<u8> {
    let mut content = Vec::new();
    while content.len() < 100_000 {
        content.extend_from_slice(
            Digest::of(format!("{number} {}", content.len()).as_bytes())
                .hex()
                .as_bytes(),
        );
    }
    let mut header = tar::Header::new_ustar();
    header.set_path(format!("file{number}")).unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &content[..]).unwrap();
    archive.into_inner().unwrap()
}
