//! Examining an image, and setting its reference counts right.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::Path;

use super::damaged;
use super::entry::{self, COPIED, Host, Mapping};
use super::header::{Header, incompatible};
use super::opening::{failed, invalid, read_header, read_words, unsupported};
use super::snapshots::Snapshots;
use crate::open::{open_file, size_of};
use crate::{CheckReport, DiskError};

mod counts;
mod rebuild;

use counts::Counts;

/// Bytes of L1 tables that are looked at, those of all snapshots together.
const L1_BYTES_MAX: u64 = 512 << 20;

/// Examines the image at `path`, and with `repair` makes reference counts and the flags that go with them right. Nobody
/// else may have it open for writing, and for a repair nobody at all. Its backing file is not looked at.
///
/// # Errors
/// When the file cannot be opened or read, or is no qcow2 image, or one that cannot be examined.
pub fn check(path: &Path, repair: bool) -> Result<CheckReport, DiskError> {
    let file = open_file(path, !repair)?;
    let header = read_header(path, &file)?;
    run(path, &file, &header, repair)
}

/// The same for a file that is open.
pub(super) fn run(
    path: &Path,
    file: &File,
    header: &Header,
    repair: bool,
) -> Result<CheckReport, DiskError> {
    let translated = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => invalid(path, error.to_string()),
        _ => failed("check", path, error),
    };
    if header.bitmaps.is_some() {
        return Err(unsupported(path, "it has persistent bitmaps"));
    }
    let found = Examination::new(file, header)
        .and_then(Examination::finish)
        .map_err(translated)?;
    let report = found.report.clone();
    let marked = header.incompatible & (incompatible::DIRTY | incompatible::CORRUPT) != 0;
    if !repair || (report == CheckReport::default() && !marked) {
        return Ok(report);
    }
    found.rebuild().map_err(translated)?;
    // What is still wrong now cannot be repaired.
    let header = read_header(path, file)?;
    let left = Examination::new(file, &header)
        .and_then(Examination::finish)
        .map_err(translated)?
        .report;
    if marked && left.corruptions == 0 {
        rebuild::clear_marks(file, &header).map_err(translated)?;
    }
    Ok(CheckReport {
        corruptions_fixed: report.corruptions.saturating_sub(left.corruptions),
        leaks_fixed: report.leaks.saturating_sub(left.leaks),
        messages: report.messages,
        ..left
    })
}

/// An image that is looked through.
struct Examination<'f> {
    file: &'f File,
    header: &'f Header,
    length: u64,
    /// References that were found, those to the refcount structures excepted.
    counts: Counts,
    /// The refcount structures.
    refcount_clusters: Counts,
    report: CheckReport,
    /// How often L1 tables refer to each L2 table.
    l2: BTreeMap<u64, u64>,
}

impl<'f> Examination<'f> {
    fn new(file: &'f File, header: &'f Header) -> io::Result<Examination<'f>> {
        Ok(Examination {
            file,
            header,
            length: size_of(file)?,
            counts: Counts::default(),
            refcount_clusters: Counts::default(),
            report: CheckReport::default(),
            l2: BTreeMap::new(),
        })
    }

    fn finish(mut self) -> io::Result<Examination<'f>> {
        let header = self.header;
        self.count("the header", 0, header.geometry.cluster_size(), 1)?;
        self.count("the L1 table", header.l1_offset, header.l1_bytes(), 1)?;
        let l1 = read_words(self.file, self.length, header.l1_offset, header.l1_bytes())?;
        self.count_l1(header.l1_offset, &l1)?;
        self.count_snapshots()?;
        for (offset, times) in std::mem::take(&mut self.l2) {
            self.count_l2(offset, times)?;
        }
        self.examine_counts()?;
        self.examine_flags(&l1)?;
        Ok(self)
    }

    /// Counts references to the clusters that a range is in.
    fn count(
        &mut self,
        what: impl Display,
        offset: u64,
        length: u64,
        times: u64,
    ) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        if !self.is_in_file(offset, length) {
            let end = offset.saturating_add(length);
            self.report.corruption(format_args!(
                "{what} lies from {offset:#x} to {end:#x}, which is not in the file"
            ));
            return Ok(());
        }
        let geometry = self.header.geometry;
        let last = geometry.cluster(offset.saturating_add(length).saturating_sub(1));
        for cluster in geometry.cluster(offset)..=last {
            self.counts.add(cluster, times)?;
        }
        Ok(())
    }

    /// The last cluster may be cut short.
    fn is_in_file(&self, offset: u64, length: u64) -> bool {
        let geometry = self.header.geometry;
        let end = geometry.offset(geometry.clusters(self.length));
        offset.checked_add(length).is_some_and(|last| last <= end)
    }

    fn count_snapshots(&mut self) -> io::Result<()> {
        let snapshots = Snapshots::read(self.file, self.header)?;
        let start = self.header.snapshots_offset;
        self.count("the snapshot table", start, snapshots.length, 1)?;
        let bytes = snapshots
            .l1
            .iter()
            .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if bytes > L1_BYTES_MAX {
            return Err(damaged("the snapshots have too many L1 entries"));
        }
        for (offset, bytes) in snapshots.l1 {
            if !self.header.geometry.is_aligned(offset) || !self.is_in_file(offset, bytes) {
                self.report.corruption(format_args!(
                    "the L1 table of a snapshot cannot be at {offset:#x}"
                ));
                continue;
            }
            self.count("the L1 table of a snapshot", offset, bytes, 1)?;
            let l1 = read_words(self.file, self.length, offset, bytes)?;
            self.count_l1(offset, &l1)?;
        }
        Ok(())
    }

    fn count_l1(&mut self, start: u64, l1: &[u64]) -> io::Result<()> {
        let geometry = self.header.geometry;
        for (index, word) in l1.iter().enumerate() {
            let offset = word & entry::OFFSET;
            if offset == 0 {
                continue;
            }
            if !geometry.is_aligned(offset) || !self.is_in_file(offset, geometry.cluster_size()) {
                self.report.corruption(format_args!(
                    "entry {index} of the L1 table at {start:#x} is for an L2 table at {offset:#x}, where none can be"
                ));
                continue;
            }
            self.count("an L2 table", offset, geometry.cluster_size(), 1)?;
            let times = self.l2.entry(offset).or_default();
            *times = times.saturating_add(1);
        }
        Ok(())
    }

    fn count_l2(&mut self, table: u64, times: u64) -> io::Result<()> {
        let geometry = self.header.geometry;
        for (index, mapping) in self.read_l2(table)?.into_iter().enumerate() {
            let entry = format_args!("entry {index} of the L2 table at {table:#x}");
            match mapping {
                None => {
                    let message = format_args!("{entry} makes no sense");
                    self.report.corruption(message);
                }
                Some(Mapping::Normal(host) | Mapping::Zero { kept: Some(host) }) => {
                    if self.header.data_file.is_none() {
                        let what = format_args!("the cluster of {entry}");
                        self.count(what, host.offset, geometry.cluster_size(), times)?;
                    }
                }
                Some(Mapping::Compressed(cluster)) => {
                    let (first, count) = cluster.host_clusters(geometry);
                    let (offset, length) = (geometry.offset(first), geometry.offset(count));
                    let what = format_args!("the compressed cluster of {entry}");
                    self.count(what, offset, length, times)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// What each entry says; nothing if it makes no sense.
    fn read_l2(&self, table: u64) -> io::Result<Vec<Option<Mapping>>> {
        let header = self.header;
        let geometry = header.geometry;
        let end = table.saturating_add(geometry.cluster_size());
        // A table that is cut short has nothing in the part that is missing.
        let there = end.min(self.length).saturating_sub(table) & !15;
        let words = read_words(self.file, self.length, table, there)?;
        let step = if geometry.extended_l2 { 2 } else { 1 };
        let decode = |entry: &[u64]| {
            // The host cluster matters, and not which subclusters of it are used.
            let word = entry.first().copied().unwrap_or(0);
            let version = if geometry.extended_l2 {
                2
            } else {
                header.version
            };
            Mapping::decode(geometry, version, word, None).ok()
        };
        Ok(words.chunks(step).map(decode).collect())
    }

    /// Compares what was counted with the refcount blocks.
    fn examine_counts(&mut self) -> io::Result<()> {
        let header = self.header;
        let geometry = header.geometry;
        let (start, bytes) = (header.refcount_table_offset, header.refcount_table_bytes());
        for cluster in 0..u64::from(header.refcount_table_clusters) {
            let first = geometry.cluster(start);
            self.refcount_clusters
                .add(first.saturating_add(cluster), 1)?;
        }
        let table = read_words(self.file, self.length, start, bytes)?;
        let mut blocks = BTreeMap::new();
        for (index, entry) in table.iter().enumerate() {
            let offset = entry & super::refcounts::OFFSET;
            if offset == 0 {
                continue;
            }
            let cluster = geometry.cluster(offset);
            if !geometry.is_aligned(offset)
                || !self.is_in_file(offset, geometry.cluster_size())
                || self.refcount_clusters.get(cluster) > 0
            {
                self.report.corruption(format_args!(
                    "entry {index} of the refcount table is for a block at {offset:#x}, where none can be"
                ));
                continue;
            }
            self.refcount_clusters.add(cluster, 1)?;
            blocks.insert(index as u64, offset);
        }
        self.compare(&blocks)
    }

    fn compare(&mut self, blocks: &BTreeMap<u64, u64>) -> io::Result<()> {
        let geometry = self.header.geometry;
        let per_block = geometry.refcounts_per_block();
        for (index, offset) in blocks {
            let end = offset
                .saturating_add(geometry.cluster_size())
                .min(self.length);
            let there = end.saturating_sub(*offset);
            let bytes = super::opening::read_part(self.file, *offset, there)?;
            let first = index.saturating_mul(per_block);
            for at in 0..per_block {
                let stored = super::refcounts::get_in(&bytes, geometry.refcount_order, at);
                let cluster = first.saturating_add(at);
                self.compare_count(cluster, stored);
            }
        }
        // Clusters that no block has a count for.
        let block_of = |cluster: u64| cluster.wrapping_shr(geometry.refcount_block_bits());
        let used = self.counts.clusters();
        for cluster in used.chain(self.refcount_clusters.clusters()) {
            if !blocks.contains_key(&block_of(cluster)) {
                let offset = geometry.offset(cluster);
                self.report.corruption(format_args!(
                    "the cluster at {offset:#x} is used, and has no reference count"
                ));
            }
        }
        Ok(())
    }

    fn compare_count(&mut self, cluster: u64, stored: u64) {
        let found = self.found(cluster);
        let offset = self.header.geometry.offset(cluster);
        let message = format_args!(
            "the cluster at {offset:#x} has the reference count {stored}, and is referred to {found} times"
        );
        match stored.cmp(&found) {
            Ordering::Less => self.report.corruption(message),
            Ordering::Equal => {}
            Ordering::Greater => self.report.leak(message),
        }
    }

    fn found(&self, cluster: u64) -> u64 {
        let others = self.counts.get(cluster);
        others.saturating_add(self.refcount_clusters.get(cluster))
    }

    /// COPIED says that a count is 1, in what the disk itself uses.
    fn examine_flags(&mut self, l1: &[u64]) -> io::Result<()> {
        let geometry = self.header.geometry;
        for (index, word) in l1.iter().enumerate() {
            let table = word & entry::OFFSET;
            let readable = geometry.is_aligned(table) && self.is_in_file(table, 1);
            if table == 0 || !readable {
                continue;
            }
            if (self.found(geometry.cluster(table)) == 1) != (word & COPIED != 0) {
                self.report.corruption(format_args!(
                    "the flag of entry {index} of the L1 table contradicts a reference count"
                ));
            }
            for (index, mapping) in self.read_l2(table)?.into_iter().enumerate() {
                if mapping.is_some_and(|mapping| self.is_flag_wrong(mapping)) {
                    self.report.corruption(format_args!(
                        "the flag of entry {index} of the L2 table at {table:#x} contradicts a reference count"
                    ));
                }
            }
        }
        Ok(())
    }

    fn is_flag_wrong(&self, mapping: Mapping) -> bool {
        match mapping {
            Mapping::Normal(host) | Mapping::Zero { kept: Some(host) } => {
                self.right_flag(host) != host.copied
            }
            _ => false,
        }
    }

    fn right_flag(&self, host: Host) -> bool {
        if self.header.data_file.is_some() {
            return true;
        }
        self.found(self.header.geometry.cluster(host.offset)) == 1
    }
}
