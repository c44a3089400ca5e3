//! What says which image is meant and what it consists of: names, manifests, indices, configurations.
#![no_main]

use image::manifest::Document;
use image::{ImageConfig, Manifest, Reference};

/// A manifest of one layer, which configurations are to fit.
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}"#;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else {
        return;
    };
    match kind % 3 {
        0 => name(rest),
        1 => {
            if let Ok(Document::Index(index)) = Document::parse(rest, None) {
                let _ = index.choose();
            }
        }
        _ => {
            let manifest = Manifest::parse(MANIFEST).expect("it is a manifest");
            if let Ok(config) = ImageConfig::parse(rest, &manifest) {
                assert_eq!(config.diff_ids.len(), manifest.layers.len());
            }
        }
    }
});

/// Whatever is a name is the same one when it is written and read again, in full and as people write it.
fn name(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(reference) = text.parse::<Reference>() else {
        return;
    };
    for written in [reference.to_string(), reference.familiar_tagged()] {
        let again: Reference = written.parse().expect("what is written can be read");
        assert_eq!(again, reference, "{written}");
    }
}
