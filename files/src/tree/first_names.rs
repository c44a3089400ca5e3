//! Files with more than one name, by the first of them that was told.

use std::collections::HashMap;

use nix::sys::stat::FileStat;

/// Bytes of paths that are remembered of files with several names. What comes when they are used up is told as files of
/// their own.
const MAX_PATHS: usize = 16 << 20;

/// The first names of files with several.
#[derive(Debug, Default)]
pub(crate) struct FirstNames {
    /// By device and inode: the first path, and how many names are still to come.
    files: HashMap<(u64, u64), (Vec<u8>, u64)>,
    paths: usize,
}

impl FirstNames {
    /// The path under which a file came before. If there is none and it has other names, it is remembered by this one.
    pub(crate) fn of(&mut self, stat: &FileStat, path: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        let id = (stat.st_dev, stat.st_ino);
        if let Some((first, left)) = self.files.get_mut(&id) {
            let first = first.clone();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.files.remove(&id);
                self.paths = self.paths.saturating_sub(first.len());
            }
            return Some(first);
        }
        let with_this = self.paths.saturating_add(path.len());
        if with_this <= MAX_PATHS {
            self.paths = with_this;
            let left = stat.st_nlink.saturating_sub(1);
            self.files.insert(id, (path.to_vec(), left));
        }
        None
    }
}
