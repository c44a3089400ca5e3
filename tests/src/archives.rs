//! Images as `docker save` writes them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use microsandbox::images::image::Digest;
use serde_json::json;
use tar::{Builder, EntryType, Header};

/// An image in the making.
pub struct DockerImage {
    name: String,
    layers: Vec<Vec<u8>>,
    config: serde_json::Value,
}

/// A layer in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    /// Adds everything in a folder.
    pub fn folder(mut self, folder: &Path) -> Layer {
        self.0.follow_symlinks(false);
        self.0.append_dir_all(".", folder).unwrap();
        self
    }

    /// Adds a file; a name that begins with `.wh.` is a whiteout.
    pub fn file(mut self, name: &str, contents: &str) -> Layer {
        append(&mut self.0, name, contents.as_bytes());
        self
    }

    /// Adds a symbolic link.
    pub fn link(mut self, name: &str, target: &str) -> Layer {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.0.append_link(&mut header, name, target).unwrap();
        self
    }

    /// Gives the file that is added next an extended attribute.
    pub fn attribute(mut self, name: &str, value: &[u8]) -> Layer {
        let name = format!("SCHILY.xattr.{name}");
        let records = [(&*name, value)];
        self.0.append_pax_extensions(records).unwrap();
        self
    }
}

impl DockerImage {
    /// An image with this name, and with how it is run: the `config` of its configuration.
    pub fn new(name: &str, config: serde_json::Value) -> DockerImage {
        DockerImage {
            name: name.to_owned(),
            layers: Vec::new(),
            config,
        }
    }

    /// Puts a layer on top of the others.
    pub fn layer(mut self, fill: impl FnOnce(Layer) -> Layer) -> DockerImage {
        let layer = fill(Layer(Builder::new(Vec::new())));
        self.layers.push(layer.0.into_inner().unwrap());
        self
    }

    /// Writes it into `folder`, and returns its path.
    pub fn write(self, folder: &Path) -> PathBuf {
        let path = folder.join(format!("{}.tar", self.name));
        let diff_ids: Vec<_> = self
            .layers
            .iter()
            .map(|layer| Digest::of(layer).to_string())
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string();
        let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
        let names: Vec<_> = (0..self.layers.len())
            .map(|number| format!("{number}/layer.tar"))
            .collect();
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [format!("{}:latest", self.name)],
            "Layers": names,
        }]);
        let mut archive = Builder::new(File::create(&path).unwrap());
        append(&mut archive, &config_name, config.as_bytes());
        for (name, layer) in names.iter().zip(&self.layers) {
            append(&mut archive, name, layer);
        }
        append(
            &mut archive,
            "manifest.json",
            manifest.to_string().as_bytes(),
        );
        archive.finish().unwrap();
        path
    }
}

/// A tar archive of regular files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (name, contents) in files {
        append(&mut archive, name, contents);
    }
    archive.into_inner().unwrap()
}

fn append(archive: &mut Builder<impl Write>, name: &str, contents: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, contents).unwrap();
}
