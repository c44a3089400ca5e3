//! VMware's format: a disk is a row of extents, which a descriptor lists.
//!
//! Source: VMware, "Virtual Disk Format 5.0" (2011).

mod check;
mod compressed;
mod create;
mod descriptor;
mod flat;
mod header;
mod refusal;
mod sparse;
mod tables;

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use compressed::Compressed;
use descriptor::{Descriptor, ExtentLine, ExtentPlace};
use flat::{Flat, Zeros};
use header::{Header, MAGIC};
use refusal::Refusal;
use sparse::{Purpose, Sparse};

pub(crate) use check::check;
pub(crate) use create::create;
pub use descriptor::Subformat;

use crate::open::{LockedFile, open_file};
use crate::raw::Raw;
use crate::reference::resolve;
use crate::{Access, Buffers, Cache, DiskError, Format, Image, Info, OpenOptions, Place, SECTOR};

/// A disk in VMware's format.
#[derive(Debug)]
pub(crate) struct Vmdk {
    size: u64,
    read_only: bool,
    /// In the order of the sectors. They cover the disk.
    extents: Vec<Extent>,
    subformat: Subformat,
    descriptor: DescriptorFile,
    content_id: Option<Range<u64>>,
    /// The content id is new since this image was opened.
    changed: AtomicBool,
    changing: Mutex<()>,
}

/// A stretch of the disk.
#[derive(Debug)]
struct Extent {
    /// Where it begins and ends on the disk, in bytes.
    range: Range<u64>,
    image: Kind,
}

#[derive(Debug)]
enum Kind {
    Flat(Flat),
    Sparse(Sparse),
    Compressed(Compressed),
    Zeros(Zeros),
}

/// Where the descriptor stands.
#[derive(Debug)]
enum DescriptorFile {
    /// In the one extent, from this byte on.
    Embedded(Arc<Raw>, u64),
    /// In a file of its own, which is kept open because it is locked.
    Separate(LockedFile),
}

impl Vmdk {
    pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Vmdk, DiskError> {
        Vmdk::open_for(Purpose::Use, path, options)
    }

    fn open_for(purpose: Purpose, path: &Path, options: &OpenOptions) -> Result<Vmdk, DiskError> {
        if is_sparse_extent(path)? {
            Vmdk::open_monolithic(purpose, path, options)
        } else {
            Vmdk::open_described(purpose, path, options)
        }
    }

    /// One file that holds everything.
    fn open_monolithic(
        purpose: Purpose,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Vmdk, DiskError> {
        let (file, header) = open_sparse_file(path, options.read_only)?;
        let descriptor_at = header.descriptor_at.saturating_mul(SECTOR);
        let descriptor =
            read_embedded_descriptor(&file, &header).map_err(|refusal| refusal.of(path))?;
        let kind = Kind::sparse(path, Arc::clone(&file), &header, options.cache, purpose)?;
        let size = kind.image().size();
        Ok(Vmdk {
            size,
            read_only: options.read_only,
            extents: vec![Extent {
                range: 0..size,
                image: kind,
            }],
            subformat: descriptor.subformat,
            content_id: descriptor.content_id,
            descriptor: DescriptorFile::Embedded(file, descriptor_at),
            changed: AtomicBool::new(false),
            changing: Mutex::new(()),
        })
    }

    /// A descriptor and the files that it names.
    fn open_described(
        purpose: Purpose,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Vmdk, DiskError> {
        let file = open_file(path, options.read_only)?;
        let descriptor = read_descriptor(&file)
            .and_then(|text| Descriptor::parse(&text))
            .map_err(|refusal| refusal.of(path))?;
        let sectors = descriptor.sectors().map_err(|refusal| refusal.of(path))?;
        let mut extents = Vec::new();
        let mut start = 0_u64;
        for line in &descriptor.extents {
            let end = start.saturating_add(line.sectors.saturating_mul(SECTOR));
            extents.push(Extent {
                range: start..end,
                image: Kind::open(purpose, path, line, options)?,
            });
            start = end;
        }
        Ok(Vmdk {
            size: sectors.saturating_mul(SECTOR),
            read_only: options.read_only,
            extents,
            subformat: descriptor.subformat,
            content_id: descriptor.content_id,
            descriptor: DescriptorFile::Separate(file),
            changed: AtomicBool::new(false),
            changing: Mutex::new(()),
        })
    }

    /// What there is to say about it.
    pub(crate) fn info(&self) -> io::Result<Info> {
        let sparse = |kind: &Kind| match kind {
            Kind::Sparse(sparse) => (Some(sparse.grain()), sparse.unclean()),
            Kind::Compressed(compressed) => (Some(compressed.grain_size()), false),
            Kind::Flat(_) | Kind::Zeros(_) => (None, false),
        };
        let details = self.extents.iter().map(|extent| sparse(&extent.image));
        let (grains, unclean): (Vec<_>, Vec<_>) = details.unzip();
        Ok(Info {
            subformat: Some(self.subformat.name()),
            cluster_size: grains.into_iter().flatten().next(),
            dirty: unclean.contains(&true),
            ..Info::new(Format::Vmdk, self)?
        })
    }

    /// Does `step` to each part of the range, with the extent where it lies, the offset in it, where in the range it begins and
    /// its length.
    fn for_each_part(
        &self,
        offset: u64,
        length: u64,
        mut step: impl FnMut(&dyn Image, u64, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = match offset.checked_add(length) {
            Some(end) if end <= self.size => end,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let first = self
            .extents
            .partition_point(|extent| extent.range.end <= offset);
        for extent in self.extents.get(first..).unwrap_or_default() {
            if extent.range.start >= end {
                break;
            }
            let from = extent.range.start.max(offset);
            let to = extent.range.end.min(end);
            step(
                extent.image.image(),
                from.saturating_sub(extent.range.start),
                from.saturating_sub(offset),
                to.saturating_sub(from),
            )?;
        }
        Ok(())
    }

    /// Gives the contents a new id before they change the first time: disks that hold the differences to this one find
    /// out by it that they are void. It is durable before any change is, which the host may make durable at any time.
    fn before_change(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if self.changed.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.changed.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(digits) = &self.content_id {
            let mut text = format!("{:08x}", new_content_id()).into_bytes();
            text.truncate(digits.end.saturating_sub(digits.start) as usize);
            match &self.descriptor {
                DescriptorFile::Embedded(file, at) => {
                    let at = at.saturating_add(digits.start);
                    file.write(at, &Buffers::of_slice(&mut text))?;
                    file.flush()?;
                }
                DescriptorFile::Separate(file) => {
                    file.write_all_at(&text, digits.start)?;
                    file.sync_data()?;
                }
            }
        }
        self.changed.store(true, Ordering::Release);
        Ok(())
    }
}

impl Kind {
    /// Opens the file of a descriptor's line.
    fn open(
        purpose: Purpose,
        image: &Path,
        line: &ExtentLine,
        options: &OpenOptions,
    ) -> Result<Kind, DiskError> {
        let find = |name: &str| resolve(image, name.as_ref(), &options.allowed);
        if !options.read_only && (!line.writable || line.place == ExtentPlace::Zero) {
            let refusal = Refusal::unsupported("parts of it can only be read");
            return Err(refusal.of(image));
        }
        match &line.place {
            ExtentPlace::Zero => Ok(Kind::Zeros(Zeros {
                size: line.sectors.saturating_mul(SECTOR),
            })),
            ExtentPlace::Flat { name, offset } => {
                let path = find(name)?;
                let file = Raw::open(&path, &extent_options(options.read_only, options.cache))?;
                let flat = Flat::new(&path, file, *offset, line.sectors)?;
                Ok(Kind::Flat(flat))
            }
            ExtentPlace::Sparse { name } => {
                let path = find(name)?;
                let (file, header) = open_sparse_file(&path, options.read_only)?;
                if header.capacity < line.sectors {
                    let refusal = Refusal::invalid(format!(
                        "the descriptor wants {} sectors, the extent has {}",
                        line.sectors, header.capacity
                    ));
                    return Err(refusal.of(&path));
                }
                Kind::sparse(&path, file, &header, options.cache, purpose)
            }
        }
    }

    fn sparse(
        path: &Path,
        file: Arc<Raw>,
        header: &Header,
        cache: Cache,
        purpose: Purpose,
    ) -> Result<Kind, DiskError> {
        if header.compressed {
            Ok(Kind::Compressed(Compressed::open(path, file, header)?))
        } else {
            Ok(Kind::Sparse(Sparse::open(
                path, file, header, cache, purpose,
            )?))
        }
    }

    fn image(&self) -> &dyn Image {
        match self {
            Kind::Flat(flat) => flat,
            Kind::Sparse(sparse) => sparse,
            Kind::Compressed(compressed) => compressed,
            Kind::Zeros(zeros) => zeros,
        }
    }
}

/// Whether the file begins as sparse extents do. It does not matter if it is another file when it is opened
/// for good: all of it is examined then.
fn is_sparse_extent(path: &Path) -> Result<bool, DiskError> {
    let read = || -> io::Result<bool> {
        let mut magic = Vec::new();
        let file = File::options()
            .read(true)
            // Opening a named pipe would wait for somebody at its other end.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        file.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        Ok(magic == MAGIC)
    };
    read().map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })
}

fn open_sparse_file(path: &Path, read_only: bool) -> Result<(Arc<Raw>, Header), DiskError> {
    // Tables have an order of their own, which a flush of every write would not keep.
    let file = Raw::open(path, &extent_options(read_only, Cache::Writeback))?;
    let mut sector = [0; SECTOR as usize];
    let header = file
        .read(0, &Buffers::of_slice(&mut sector))
        .map_err(Refusal::from)
        .and_then(|()| Header::decode(&sector))
        .map_err(|refusal| refusal.of(path))?;
    Ok((Arc::new(file), header))
}

fn extent_options(read_only: bool, cache: Cache) -> OpenOptions {
    OpenOptions {
        format: Format::Raw,
        read_only,
        cache,
        allowed: Vec::new(),
    }
}

fn read_embedded_descriptor(file: &Raw, header: &Header) -> Result<Descriptor, Refusal> {
    if header.descriptor_at == 0 || header.descriptor_size == 0 {
        return Err(Refusal::invalid(
            "it has no descriptor: it is a part of a disk, open the descriptor instead",
        ));
    }
    let size = header.descriptor_size.saturating_mul(SECTOR);
    let at = header.descriptor_at.saturating_mul(SECTOR);
    if size > descriptor::MAX_BYTES {
        return Err(Refusal::unsupported(too_large(size)));
    }
    if at.checked_add(size).is_none_or(|end| end > file.size()) {
        return Err(Refusal::invalid("its descriptor does not lie in the file"));
    }
    let mut text = vec![0; size as usize];
    file.read(at, &Buffers::of_slice(&mut text))?;
    Descriptor::parse(&text)
}

fn read_descriptor(mut file: &File) -> Result<Vec<u8>, Refusal> {
    let size = file.metadata()?.len();
    if size > descriptor::MAX_BYTES {
        return Err(Refusal::unsupported(too_large(size)));
    }
    let mut text = Vec::new();
    Read::by_ref(&mut file)
        .take(descriptor::MAX_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

fn too_large(size: u64) -> String {
    format!(
        "a descriptor of {size} bytes is larger than {} KiB",
        descriptor::MAX_BYTES >> 10
    )
}

/// A number that is likely another one each time.
fn new_content_id() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    // The last two mean that there is none.
    (random as u32).min(u32::MAX - 2)
}

impl Image for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.for_each_part(offset, buffers.len(), |extent, at, start, length| {
            extent.read(at, &buffers.part(start, length))
        })
    }

    fn write(&self, offset: u64, buffers: &Buffers<'_>) -> io::Result<()> {
        self.before_change()?;
        self.for_each_part(offset, buffers.len(), |extent, at, start, length| {
            extent.write(at, &buffers.part(start, length))
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.before_change()?;
        self.for_each_part(offset, length, |extent, at, _, length| {
            extent.write_zeroes(at, length, unmap)
        })
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before_change()?;
        self.for_each_part(offset, length, |extent, at, _, length| {
            extent.discard(at, length)
        })
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let flushed: Vec<_> = self
            .extents
            .iter()
            .map(|extent| extent.image.image().flush())
            .collect();
        flushed.into_iter().collect()
    }

    fn place(&self, offset: u64, length: u64, access: Access) -> Option<Place<'_>> {
        // The first change has an id to change before.
        if access == Access::Write && (self.read_only || !self.changed.load(Ordering::Acquire)) {
            return None;
        }
        let extent = self.extents.get(
            self.extents
                .partition_point(|extent| extent.range.end <= offset),
        )?;
        let at = offset.checked_sub(extent.range.start)?;
        let left = extent.range.end.checked_sub(offset)?;
        extent.image.image().place(at, length.min(left), access)
    }

    fn resize(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        let descriptor = match &self.descriptor {
            DescriptorFile::Embedded(..) => 0,
            DescriptorFile::Separate(file) => file.metadata()?.blocks().saturating_mul(512),
        };
        self.extents.iter().try_fold(descriptor, |sum, extent| {
            Ok(sum.saturating_add(extent.image.image().allocated()?))
        })
    }
}
