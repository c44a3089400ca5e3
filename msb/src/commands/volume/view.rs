//! A volume as it is printed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use microsandbox::volumes::{VolumeError, VolumeHandle, VolumeKind};
use serde::Serialize;

use super::advice::advise;
use crate::options::{display_rounded_size, display_size};
use crate::utc::rfc3339;

/// What is known of a volume, as `--format json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) kind: &'static str,
    path: PathBuf,
    quota_mib: Option<u32>,
    capacity_bytes: Option<u64>,
    /// None if its directory is gone.
    used_bytes: Option<u64>,
    disk_format: Option<&'static str>,
    disk_fstype: Option<&'static str>,
    labels: BTreeMap<String, String>,
    created_at: String,
}

impl View {
    /// Examines the volume.
    ///
    /// # Errors
    /// When what it takes up cannot be told, though it is there.
    pub(super) fn of(volume: &VolumeHandle) -> anyhow::Result<View> {
        let used_bytes = match volume.used_bytes() {
            Ok(used) => Some(used),
            Err(VolumeError::DirectoryMissing { .. }) => None,
            Err(error) => return Err(advise(error)),
        };
        Ok(View {
            name: volume.name().to_string(),
            kind: volume.kind().name(),
            path: volume.path(),
            quota_mib: volume.quota_mib(),
            capacity_bytes: volume.capacity_bytes(),
            used_bytes,
            disk_format: volume.disk_format(),
            disk_fstype: volume.disk_fstype(),
            labels: volume.labels().clone(),
            created_at: rfc3339(volume.created_at()),
        })
    }

    /// Its limit: of a disk the size, of a directory the quota.
    pub(super) fn size(&self) -> String {
        let quota = self.quota_mib.map(|quota| u64::from(quota) << 20);
        self.capacity_bytes
            .or(quota)
            .map_or_else(|| "-".to_owned(), display_size)
    }

    /// What it takes up.
    pub(super) fn used(&self) -> String {
        self.used_bytes
            .map_or_else(|| "missing".to_owned(), display_rounded_size)
    }

    /// When it was made, to the second.
    pub(super) fn created(&self) -> &str {
        &self.created_at
    }

    /// All of it, for people.
    pub(super) fn describe(&self) -> String {
        let labels: Vec<_> = self
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let limit = match self.kind {
            kind if kind == VolumeKind::Disk.name() => "size",
            _ => "quota",
        };
        format!(
            "name: {}\nkind: {}\npath: {}\n{limit}: {}\nused: {}\nlabels: {}\ncreated: {}\n",
            self.name,
            self.kind,
            self.path.display(),
            self.size(),
            self.used(),
            labels.join(", "),
            self.created_at,
        )
    }
}
