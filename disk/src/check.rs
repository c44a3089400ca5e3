//! Examining an image's metadata.

use std::fmt::Display;
use std::path::Path;

use crate::{DiskError, Format, OpenOptions, qcow2, vmdk};

/// Most findings that are described: a damaged image may have millions.
const MAX_MESSAGES: usize = 100;

/// What a check may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    #[default]
    Nothing,
    /// It gives back storage that nothing refers to.
    Leaks,
    /// It also corrects metadata, by which parts of the disk may become zeros.
    All,
}

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Pieces of metadata that are wrong, those that were corrected not counted.
    pub corruptions: u64,
    /// Clusters or grains that nothing refers to, those that were given back not counted.
    pub leaks: u64,
    /// Pieces of metadata that were corrected.
    pub corruptions_fixed: u64,
    /// Leaks that were given back.
    pub leaks_fixed: u64,
    /// Descriptions of the first findings.
    pub messages: Vec<String>,
}

impl CheckReport {
    /// Describes a finding.
    pub(crate) fn say(&mut self, message: impl Display) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message.to_string());
        }
    }

    /// Counts and describes a piece of metadata that is wrong.
    pub(crate) fn corruption(&mut self, message: impl Display) {
        self.corruptions = self.corruptions.saturating_add(1);
        self.say(message);
    }

    /// Counts and describes something that nothing refers to.
    pub(crate) fn leak(&mut self, message: impl Display) {
        self.leaks = self.leaks.saturating_add(1);
        self.say(message);
    }
}

/// Examines the image at `path`, and repairs it as far as `repair` permits. Nobody else may use it meanwhile.
///
/// # Errors
/// When it cannot be opened: damage in places without which nothing of the image can be read is an error, too.
pub fn check(path: &Path, options: &OpenOptions, repair: Repair) -> Result<CheckReport, DiskError> {
    let options = OpenOptions {
        read_only: repair == Repair::Nothing,
        ..options.clone()
    };
    match options.format {
        Format::Vmdk => vmdk::check(path, &options, repair),
        Format::Qcow2 => check_qcow2(path, repair),
        Format::Raw => Err(DiskError::Unsupported {
            path: path.to_owned(),
            format: Format::Raw,
            reason: "this format has nothing that could be checked".to_owned(),
        }),
    }
}

fn check_qcow2(path: &Path, repair: Repair) -> Result<CheckReport, DiskError> {
    match repair {
        Repair::Nothing => qcow2::check(path, false),
        Repair::All => qcow2::check(path, true),
        Repair::Leaks => {
            let found = qcow2::check(path, false)?;
            // Reference counts are computed anew, which would correct more than was permitted.
            if found.corruptions == 0 && found.leaks != 0 {
                qcow2::check(path, true)
            } else {
                Ok(found)
            }
        }
    }
}
