use serde_json::{Value, json};

use super::*;
use crate::digest::Digest;

fn descriptor(media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(b"").to_string(), "size": 7})
}

fn manifest(layers: &[&str]) -> Value {
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(OCI_CONFIG), "layers": layers})
}

fn entry(platform: Value) -> Value {
    let mut entry = descriptor(OCI_MANIFEST);
    entry["platform"] = platform;
    entry
}

fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

fn config(diff_ids: usize) -> Value {
    let diff_ids = vec![Digest::of(b"").to_string(); diff_ids];
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

fn parse(value: &Value) -> Result<Document, ManifestError> {
    Document::parse(value.to_string().as_bytes(), None)
}

fn parse_manifest(value: &Value) -> Manifest {
    Manifest::parse(value.to_string().as_bytes()).unwrap()
}

fn chosen(value: &Value) -> Result<Option<Platform>, ManifestError> {
    let Document::Index(index) = parse(value)? else {
        panic!("no index: {value}");
    };
    index.choose().map(|entry| entry.platform.clone())
}

#[test]
fn manifests_of_both_kinds_are_read() {
    let oci = parse_manifest(&manifest(&[OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD]));
    let compressions: Vec<_> = oci.layers.iter().map(|layer| layer.compression).collect();
    assert_eq!(
        compressions,
        [Compression::None, Compression::Gzip, Compression::Zstd]
    );
    assert_eq!(oci.total_bytes(), 28);

    let mut docker = manifest(&[DOCKER_LAYER_GZIP]);
    docker["mediaType"] = json!(DOCKER_MANIFEST);
    docker["config"] = descriptor(DOCKER_CONFIG);
    assert_eq!(
        parse_manifest(&docker).layers[0].compression,
        Compression::Gzip
    );
}

#[test]
fn a_manifest_that_is_written_is_read_again() {
    let mut written = parse_manifest(&manifest(&[OCI_LAYER, OCI_LAYER_GZIP]));
    for (config, manifest) in [(OCI_CONFIG, OCI_MANIFEST), (DOCKER_CONFIG, DOCKER_MANIFEST)] {
        written.config.media_type = config.to_owned();
        let bytes = written.write();
        let read = Document::parse(&bytes, Some(manifest)).unwrap();
        assert_eq!(read, Document::Manifest(written.clone()));
        assert_eq!(written.media_type(), manifest);
    }
}

#[test]
fn schema_1_is_refused_by_name() {
    let by_version = json!({"schemaVersion": 1, "name": "x", "fsLayers": [], "config": 3});
    assert!(matches!(parse(&by_version), Err(ManifestError::Schema1)));
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    assert!(matches!(
        Document::parse(b"{}", Some(signed)),
        Err(ManifestError::Schema1)
    ));
}

#[test]
fn what_is_no_image_is_refused() {
    let mut chart = manifest(&[OCI_LAYER_GZIP]);
    chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
    assert!(matches!(
        parse(&chart),
        Err(ManifestError::NotAnImage { .. })
    ));
    let foreign = manifest(&["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"]);
    assert!(matches!(
        parse(&foreign),
        Err(ManifestError::ForeignLayer { .. })
    ));
    let foreign = manifest(&["application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"]);
    assert!(matches!(
        parse(&foreign),
        Err(ManifestError::ForeignLayer { .. })
    ));
    let encrypted = manifest(&["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]);
    assert!(matches!(
        parse(&encrypted),
        Err(ManifestError::LayerType { .. })
    ));
    let mut both = manifest(&[OCI_LAYER]);
    both["manifests"] = json!([]);
    assert!(matches!(parse(&both), Err(ManifestError::Incomplete)));
    let nothing = json!({"schemaVersion": 2});
    assert!(matches!(parse(&nothing), Err(ManifestError::Incomplete)));
    let later = json!({"schemaVersion": 3});
    assert!(matches!(
        parse(&later),
        Err(ManifestError::SchemaVersion { version: 3 })
    ));
    for text in ["", "null", "[]", "<html>", "{\"schemaVersion\": -1}"] {
        assert!(Document::parse(text.as_bytes(), None).is_err(), "{text}");
    }
}

#[test]
fn a_document_is_what_it_was_sent_as() {
    let bytes = index(&[]).to_string();
    assert!(Document::parse(bytes.as_bytes(), Some(OCI_INDEX)).is_ok());
    assert!(Document::parse(bytes.as_bytes(), Some("application/json")).is_ok());
    let error = Document::parse(bytes.as_bytes(), Some(OCI_MANIFEST)).unwrap_err();
    assert!(
        matches!(error, ManifestError::Contradiction { .. }),
        "{error}"
    );
    let mut untyped = index(&[]);
    untyped.as_object_mut().unwrap().remove("mediaType");
    let error = Document::parse(untyped.to_string().as_bytes(), Some(OCI_MANIFEST)).unwrap_err();
    assert!(matches!(error, ManifestError::Incomplete), "{error}");
}

#[test]
fn the_image_for_this_machine_is_chosen() {
    let arm = entry(json!({"architecture": "arm64", "os": "linux", "variant": "v8"}));
    let v3 = entry(json!({"architecture": "amd64", "os": "linux", "variant": "v3"}));
    let plain = entry(json!({"architecture": "amd64", "os": "linux"}));
    let windows = entry(json!({"architecture": "amd64", "os": "windows"}));
    let attestation = entry(json!({"architecture": "unknown", "os": "unknown"}));
    let found = chosen(&index(&[arm.clone(), windows.clone(), v3.clone(), plain])).unwrap();
    assert_eq!(found.unwrap().to_string(), "linux/amd64");
    let found = chosen(&index(&[arm.clone(), v3])).unwrap();
    assert_eq!(found.unwrap().to_string(), "linux/amd64/v3");
    let error = chosen(&index(&[arm, windows, attestation])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "The image is not made for linux/amd64, only for linux/arm64/v8, windows/amd64"
    );
    assert_eq!(chosen(&index(&[descriptor(OCI_MANIFEST)])).unwrap(), None);
    let two = index(&[descriptor(OCI_MANIFEST), descriptor(OCI_MANIFEST)]);
    assert!(chosen(&two).is_err());
}

#[test]
fn sizes_and_counts_are_bounded() {
    let mut large = manifest(&[OCI_LAYER]);
    large["layers"][0]["size"] = json!(MAX_BLOB_BYTES + 1);
    assert!(matches!(parse(&large), Err(ManifestError::Json { .. })));
    let mut large = manifest(&[]);
    large["config"]["size"] = json!(MAX_CONFIG_BYTES + 1);
    assert!(matches!(parse(&large), Err(ManifestError::TooLarge { .. })));
    assert!(parse(&manifest(&[OCI_LAYER; MAX_LAYERS])).is_ok());
    let error = parse(&manifest(&[OCI_LAYER; MAX_LAYERS + 1])).unwrap_err();
    assert!(
        matches!(error, ManifestError::TooMany { what: "layers", .. }),
        "{error}"
    );
    let entries = vec![descriptor(OCI_MANIFEST); MAX_INDEX_ENTRIES + 1];
    assert!(matches!(
        parse(&index(&entries)),
        Err(ManifestError::TooMany { .. })
    ));
    let spaces = vec![b' '; MAX_MANIFEST_BYTES + 1];
    assert!(matches!(
        Document::parse(&spaces, None),
        Err(ManifestError::TooLarge { .. })
    ));
    let deep = "[".repeat(100_000);
    assert!(Document::parse(deep.as_bytes(), None).is_err());
}

#[test]
fn a_configuration_is_read() {
    let image = parse_manifest(&manifest(&[OCI_LAYER, OCI_LAYER]));
    let mut value = config(2);
    value["created"] = json!("2024-01-02T03:04:05Z");
    value["config"] = json!({
        "User": "www-data:www-data", "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin", "A=b=c"],
        "Entrypoint": ["/entry"], "Cmd": ["a", ""], "Volumes": {"/data": {}}, "WorkingDir": "/srv",
        "Labels": {"k": "v"}, "StopSignal": "SIGQUIT", "Shell": ["/bin/sh", "-c"],
        "Healthcheck": {
            "Test": ["CMD", "true"], "Interval": 5_000_000_000_i64, "Timeout": 4, "StartPeriod": 2,
            "StartInterval": 1, "Retries": 3,
        },
        "OnBuild": null, "AttachStdin": false,
    });
    value["history"] =
        json!([{"created_by": "ADD rootfs"}, {"created_by": "CMD", "empty_layer": true}]);
    let read = ImageConfig::parse(value.to_string().as_bytes(), &image).unwrap();
    assert_eq!(read.diff_ids.len(), 2);
    assert_eq!(read.config.user, "www-data:www-data");
    assert!(read.config.exposed_ports.contains("80/tcp"));
    assert_eq!(read.config.env, ["PATH=/bin", "A=b=c"]);
    assert_eq!(read.config.entrypoint, ["/entry"]);
    assert_eq!(read.config.cmd, ["a", ""]);
    assert!(read.config.volumes.contains("/data"));
    assert_eq!(read.config.working_dir, "/srv");
    assert_eq!(read.config.labels["k"], "v");
    assert_eq!(read.config.stop_signal.as_deref(), Some("SIGQUIT"));
    let expected = Healthcheck {
        test: vec!["CMD".to_owned(), "true".to_owned()],
        interval: 5_000_000_000,
        timeout: 4,
        start_period: 2,
        start_interval: 1,
        retries: 3,
    };
    assert_eq!(read.config.healthcheck, Some(expected));
    assert!(read.history[1].empty_layer);

    // What Docker writes for an image that says nothing.
    let mut nulls = config(2);
    nulls["config"] = json!({"Env": null, "Cmd": null, "Entrypoint": null, "Labels": null,
        "Volumes": null, "ExposedPorts": null, "User": "", "WorkingDir": ""});
    nulls["history"] = json!(null);
    let read = ImageConfig::parse(nulls.to_string().as_bytes(), &image).unwrap();
    assert_eq!(read.config, ContainerConfig::default());
    let mut none = config(2);
    none["config"] = json!(null);
    ImageConfig::parse(none.to_string().as_bytes(), &image).unwrap();
}

#[test]
fn a_configuration_that_fits_nothing_is_refused() {
    let image = parse_manifest(&manifest(&[OCI_LAYER]));
    let refused =
        |value: &Value| ImageConfig::parse(value.to_string().as_bytes(), &image).unwrap_err();
    for layers in [0, 2] {
        assert!(matches!(
            refused(&config(layers)),
            ManifestError::LayerCount { .. }
        ));
    }
    let mut other = config(1);
    other["architecture"] = json!("s390x");
    assert!(
        refused(&other)
            .to_string()
            .ends_with("only for linux/s390x")
    );
    let mut other = config(1);
    other["rootfs"]["diff_ids"] = json!(["sha512:00"]);
    assert!(matches!(refused(&other), ManifestError::Json { .. }));
    let mut other = config(1);
    other["rootfs"]["type"] = json!("windows");
    assert!(matches!(refused(&other), ManifestError::Json { .. }));
    for (field, value) in [
        ("Cmd", json!(["a\0b"])),
        ("Env", json!(["A=\0"])),
        ("WorkingDir", json!("/\0")),
        ("Volumes", json!({"/\0": {}})),
    ] {
        let mut other = config(1);
        other["config"] = json!({field: value});
        assert!(
            matches!(refused(&other), ManifestError::Config { .. }),
            "{field}"
        );
    }
}
