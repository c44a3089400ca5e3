//! Writing a log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};

use super::error::failed;
use super::format::{ENTRY_HEADER, EntryHeader, MAX_DATA, SEGMENT_HEADER, seal, segment_header};
use super::reader;
use super::segment::{self, SegmentReader};
use super::{LogBatch, LogError};

/// Segments that a log of full size consists of.
const SEGMENTS: u64 = 8;

/// Least size of a segment: the largest entry fits.
const LEAST_SEGMENT: u64 = (SEGMENT_HEADER + ENTRY_HEADER + MAX_DATA) as u64;

/// Name of the file that the writer keeps locked (fcntl(2), open file description locks) as long as it lives, and that holds
/// its process id.
pub(super) const LOCK: &str = "writer";

/// The one writer of a log.
#[derive(Debug)]
pub struct LogWriter {
    directory: PathBuf,
    /// Identity of the log.
    identity: u64,
    /// Most bytes of all segments.
    limit: u64,
    number: u64,
    file: File,
    /// Bytes of the last segment; a failed write may have left more in the file.
    length: u64,
    _lock: File,
}

/// Entries that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes could not be written to the log")]
pub struct Unwritten {
    /// Bytes of their data.
    pub bytes: u64,
    /// The reason.
    pub source: LogError,
}

impl LogWriter {
    /// Opens the log in `directory`, which exists, or begins one there. It will take up `limit` bytes at most, but at least
    /// half a mebibyte. A torn entry at its end, which the last writer left, is cut off.
    ///
    /// # Errors
    /// [`LogError::InUse`] when there is another writer; [`LogError::Io`].
    pub fn open(directory: &Path, limit: u64) -> Result<LogWriter, LogError> {
        let lock = lock(directory)?;
        let limit = limit.max(LEAST_SEGMENT.saturating_mul(SEGMENTS));
        let last = segment::list(directory)?.last().copied();
        let found = match last {
            Some(number) => reopen(directory, number)?,
            None => None,
        };
        if let Some((identity, file, length)) = found {
            return Ok(LogWriter {
                directory: directory.to_owned(),
                identity,
                limit,
                number: last.unwrap_or_default(),
                file,
                length,
                _lock: lock,
            });
        }
        // A segment that was torn before its header was whole follows others, whose cursors stay good.
        let identity = match reader::identity(directory)? {
            Some(identity) => identity,
            None => random_identity()?,
        };
        let number = last.unwrap_or_default().saturating_add(1);
        let path = segment::path(directory, number);
        Ok(LogWriter {
            directory: directory.to_owned(),
            identity,
            limit,
            number,
            file: begin_segment(new_file(&path)?, &path, identity)?,
            length: SEGMENT_HEADER as u64,
            _lock: lock,
        })
    }

    /// Appends the entries of `batch`, which is empty afterwards. They are in the file when this returns, so that they
    /// survive this process, but not necessarily on the disk.
    ///
    /// # Errors
    /// When some could not be written, most often because the disk is full: they are lost, those before are not.
    pub fn write(&mut self, batch: &mut LogBatch) -> Result<(), Unwritten> {
        let mut rest = batch.bytes.as_mut_slice();
        let mut result = Ok(());
        while !rest.is_empty() {
            let run = seal_run(rest, self.number, self.room());
            let (entries, behind) = rest.split_at_mut(run);
            let (written, outcome) = match run {
                0 => (0, self.rotate()),
                _ => self.append(entries),
            };
            if let Err(source) = outcome {
                let lost = entries.get(written..).unwrap_or_default();
                let bytes = data_in(lost).saturating_add(data_in(behind));
                result = Err(Unwritten { bytes, source });
                break;
            }
            rest = behind;
        }
        batch.clear();
        result
    }

    /// Bytes that the segment still takes.
    fn room(&self) -> usize {
        let room = (self.limit / SEGMENTS).saturating_sub(self.length);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Returns how many bytes were written, which are whole entries: readers may have seen them already.
    fn append(&mut self, entries: &[u8]) -> (usize, Result<(), LogError>) {
        let (written, outcome) = write_at(&self.file, entries, self.length);
        let kept = whole_entries(entries, written);
        self.length = self.length.saturating_add(kept as u64);
        let outcome = outcome.map_err(|error| {
            // What cannot be cut off is written over.
            let _ = self.file.set_len(self.length);
            failed("write", &segment::path(&self.directory, self.number))(error)
        });
        (kept, outcome)
    }

    /// Begins the next segment, after those that it leaves no room for have been removed.
    ///
    /// The last of these becomes the new one. Its pages are in memory and its blocks on the disk: to write over them takes a
    /// sixth of the time that a new file of ext4 takes, whose pages and blocks have to be found one by one.
    fn rotate(&mut self) -> Result<(), LogError> {
        let mut segments = Vec::new();
        let mut total = self.limit / SEGMENTS;
        for number in segment::list(&self.directory)? {
            let path = segment::path(&self.directory, number);
            let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
            total = total.saturating_add(bytes);
            segments.push((path, bytes));
        }
        let mut old: Option<PathBuf> = None;
        for (path, bytes) in segments {
            if total <= self.limit {
                break;
            }
            total = total.saturating_sub(bytes);
            if let Some(older) = old.replace(path) {
                fs::remove_file(&older).map_err(failed("remove a part of", &older))?;
            }
        }
        let number = self.number.saturating_add(1);
        let path = segment::path(&self.directory, number);
        let recycled = old.and_then(|old| recycle(&old, &path, self.limit / SEGMENTS));
        let file = recycled.map_or_else(|| new_file(&path), Ok)?;
        self.file = begin_segment(file, &path, self.identity)?;
        self.number = number;
        self.length = SEGMENT_HEADER as u64;
        Ok(())
    }
}

/// Enters the checksums of as many entries at the beginning of `bytes` as fit into `room` of this segment; returns how many
/// bytes they are.
fn seal_run(bytes: &mut [u8], segment: u64, room: usize) -> usize {
    let mut run = 0;
    while let Some(header) = header_at(bytes, run) {
        let end = run + header.entry_length();
        let Some(entry) = bytes.get_mut(run..end).filter(|_| end <= room) else {
            break;
        };
        seal(entry, segment);
        run = end;
    }
    run
}

/// Writes as much of `bytes` as possible; returns how much that was.
fn write_at(file: &File, bytes: &[u8], place: u64) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, place.saturating_add(written as u64)) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Bytes of the entries that lie within the first `length` bytes as a whole.
fn whole_entries(entries: &[u8], length: usize) -> usize {
    let mut whole = 0;
    while let Some(header) = header_at(entries, whole) {
        match whole + header.entry_length() {
            end if end <= length => whole = end,
            _ => break,
        }
    }
    whole
}

/// Bytes of data in entries.
fn data_in(entries: &[u8]) -> u64 {
    let mut place = 0;
    let mut data = 0;
    while let Some(header) = header_at(entries, place) {
        place += header.entry_length();
        data += header.length as u64;
    }
    data
}

fn header_at(bytes: &[u8], place: usize) -> Option<EntryHeader> {
    EntryHeader::parse(bytes.get(place..)?.first_chunk()?)
}

fn lock(directory: &Path) -> Result<File, LogError> {
    let path = directory.join(LOCK);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(failed("open", &path))?;
    match fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => {}
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => {
            return Err(LogError::InUse {
                path: directory.to_owned(),
            });
        }
        Err(error) => return Err(failed("lock", &path)(error.into())),
    }
    // A full disk is no reason not to try to write: who follows the log finds no process id and does not follow it.
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{}", std::process::id());
    Ok(lock)
}

/// A lock of this type on all of a file.
pub(super) fn whole_file(lock_type: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: lock_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// The last segment, to be continued: identity of the log, file, and its length without a torn entry. `None` if it has no whole
/// header.
fn reopen(directory: &Path, number: u64) -> Result<Option<(u64, File, u64)>, LogError> {
    let Some(mut reader) = SegmentReader::open(directory, number)? else {
        return Ok(None);
    };
    while reader.next()?.is_some() {}
    let Some(identity) = reader.log() else {
        return Ok(None);
    };
    let path = segment::path(directory, number);
    let file = old_file(&path).map_err(failed("open", &path))?;
    file.set_len(reader.offset())
        .map_err(failed("write", &path))?;
    Ok(Some((identity, file, reader.offset())))
}

/// Opens the file of a segment that there is.
fn old_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        // Whatever a stranger has put there, see `SegmentReader::open`.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Makes the file of a segment that there is none of.
fn new_file(path: &Path) -> Result<File, LogError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("begin a part of", path))
}

/// Makes a segment without entries of `file`, which is at `path`.
fn begin_segment(file: File, path: &Path, identity: u64) -> Result<File, LogError> {
    if let Err(error) = file.write_all_at(&segment_header(identity), 0) {
        let _ = fs::remove_file(path);
        return Err(failed("write", path)(error));
    }
    Ok(file)
}

/// Puts the file of an old segment in the place of a new one, of at most `size` bytes, and opens it. What cannot be used is removed.
fn recycle(old: &Path, new: &Path, size: u64) -> Option<File> {
    let recycled = fs::rename(old, new).and_then(|()| {
        let file = old_file(new)?;
        if file.metadata()?.len() > size {
            file.set_len(size)?;
        }
        Ok(file)
    });
    if recycled.is_err() {
        // What cannot be removed keeps the segment from being made, which is told then.
        let _ = fs::remove_file(old);
        let _ = fs::remove_file(new);
    }
    recycled.ok()
}

fn random_identity() -> Result<u64, LogError> {
    let path = Path::new("/dev/urandom");
    let mut random = [0; 8];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(failed("name", path))?;
    Ok(u64::from_ne_bytes(random))
}

/// Process id of the writer, if there is one that told it.
pub(super) fn writer_of(directory: &Path) -> Result<Option<libc::pid_t>, LogError> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed("open", &path))?,
    };
    let mut test = whole_file(libc::F_RDLCK);
    // SAFETY: the call reads and writes `test`, which lives longer; it only asks.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut test) } != 0 {
        return Err(failed("ask for the writer of", &path)(
            io::Error::last_os_error(),
        ));
    }
    if test.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(32)
        .read_to_string(&mut text)
        .map_err(failed("read", &path))?;
    Ok(text.trim().parse().ok().filter(|&pid| pid > 0))
}
