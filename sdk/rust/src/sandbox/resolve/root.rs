//! The root file system of a sandbox, and what is changed in it.

use std::fs;

use super::{Circumstances, Layer, format, unusable};
use crate::error::MicrosandboxError;
use crate::images::ResolvedImage;
use crate::launch::{DiskImage, HostPath, Patch, Root, RootAccess, RootSource};
use crate::names::Name;
use crate::sandbox::{
    DEFAULT_UPPER_MIB, RootAccessConfig, SandboxConfig, check_patchable, image_patches,
    launch_patches, root_disk, upper,
};

pub(super) fn resolve_root(
    config: &SandboxConfig,
    image: Option<&ResolvedImage>,
    of: Circumstances<'_>,
) -> Result<Root, MicrosandboxError> {
    let source = root_source(config, image)?;
    let is_layered = image.is_some() || matches!(source, RootSource::Folder(_));
    let default = match is_layered {
        true => RootAccessConfig::Upper {
            mib: DEFAULT_UPPER_MIB,
        },
        false => RootAccessConfig::Writable,
    };
    let access = config.root_access().unwrap_or(default);
    if image.is_some() && access == RootAccessConfig::Writable {
        return Err(MicrosandboxError::invalid(
            "root_access",
            "an image is shared and never written; changes are kept in a layer of the sandbox",
        ));
    }
    let access = match access {
        RootAccessConfig::Writable => RootAccess::Writable,
        RootAccessConfig::ReadOnly => RootAccess::ReadOnly,
        RootAccessConfig::Tmpfs { mib } => RootAccess::Layer {
            size: mib.map(|mib| u64::from(mib) << 20),
        },
        RootAccessConfig::Upper { mib } => {
            let path = of.directory.upper();
            // A layer that is gone is not made anew behind the user's back.
            match of.layer {
                Layer::Kept => {}
                Layer::New => upper::make(of.home, &path, mib)?,
                Layer::CopyOf(base) => upper::copy(base, &path)?,
            }
            RootAccess::DiskLayer(DiskImage {
                path: HostPath(path),
                format: disk::Format::Raw,
                cache: disk::Cache::Writeback,
                partition: None,
                fstype: Some("ext4".to_owned()),
            })
        }
    };
    Ok(Root { source, access })
}

/// What lies at the bottom of a root.
///
/// # Errors
/// [`MicrosandboxError::InvalidConfig`] when it cannot be one.
pub(super) fn root_source(
    config: &SandboxConfig,
    image: Option<&ResolvedImage>,
) -> Result<RootSource, MicrosandboxError> {
    match image {
        Some(image) => Ok(RootSource::Disk(root_disk(&image.root))),
        None => path_source(config),
    }
}

/// The root at a path.
fn path_source(config: &SandboxConfig) -> Result<RootSource, MicrosandboxError> {
    let kind = fs::metadata(&config.image)
        .map_err(|error| unusable("image", &config.image, &error))?
        .file_type();
    Ok(if kind.is_dir() {
        if config.image_format.is_some() || config.image_fstype.is_some() {
            return Err(MicrosandboxError::invalid(
                "image",
                "it is a folder, and has neither a format nor a type of file system",
            ));
        }
        fs::read_dir(&config.image).map_err(|error| unusable("image", &config.image, &error))?;
        RootSource::Folder(HostPath(config.image.clone()))
    } else {
        RootSource::Disk(DiskImage {
            path: HostPath(config.image.clone()),
            format: format("image", &config.image, config.image_format.as_deref())?,
            cache: config.image_cache.into(),
            partition: config.image_partition,
            fstype: config.image_fstype.clone(),
        })
    })
}

/// The changes that are still to be made: a layer on disk has them since the sandbox was created.
pub(super) fn patches(
    config: &SandboxConfig,
    image: Option<&ResolvedImage>,
    root: &Root,
    of: Circumstances<'_>,
) -> Result<Vec<Patch>, MicrosandboxError> {
    if !config.patches.is_empty() {
        check_patchable(root, image.is_some())?;
    }
    match root.access {
        RootAccess::DiskLayer(_) if !of.layer.is_new() => return Ok(Vec::new()),
        RootAccess::DiskLayer(_) | RootAccess::Layer { .. } | RootAccess::ReadOnly => {}
        RootAccess::Writable => return Ok(Vec::new()),
    }
    let mut patches = image.map_or(Vec::new(), |image| {
        let hostname = hostname(config, of.name);
        image_patches(&image.config.config, &hostname, config.workdir.as_deref())
    });
    patches.extend(launch_patches(&config.patches)?);
    Ok(patches)
}

pub(super) fn hostname(config: &SandboxConfig, name: &Name) -> String {
    let given = config.hostname.clone();
    given.unwrap_or_else(|| name.to_hostname())
}
