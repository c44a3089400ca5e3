//! The entries of an archive, with everything that the headers in front of them say.
//!
//! Where programs differ, this follows what Docker's and containerd's does (Go's `archive/tar`), so that a layer means
//! here what it means there.

use super::header::{self, Header, RECORD, Stretch};
use super::pax::{Extended, Records};
use super::sparse::{self, MapLines, PaxSparse};
use super::stream::Stream;
use super::{LayerError, Limits};
use crate::erofs::Time;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A file of this size, of which only stretches are stored if there is a map.
    File {
        size: u64,
        map: Option<Vec<Stretch>>,
    },
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// An entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: EntryKind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u64,
    pub uid: u64,
    pub gid: u64,
    pub mtime: Time,
    pub major: u64,
    pub minor: u64,
    /// Names and values as the archive has them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads an archive.
pub(super) struct Archive<'limits> {
    stream: Stream,
    limits: &'limits Limits,
    global: Records,
    /// Where the header that is being read begins.
    header_offset: u64,
    /// What is left of the entry's content, and what it is padded with.
    content: u64,
    padding: u64,
}

/// Headers that belong to the entry behind them.
#[derive(Default)]
struct Preceding {
    records: Records,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    any: bool,
}

impl<'limits> Archive<'limits> {
    pub(super) fn new(stream: Stream, limits: &'limits Limits) -> Self {
        Self {
            stream,
            limits,
            global: Records::default(),
            header_offset: 0,
            content: 0,
            padding: 0,
        }
    }

    /// The stream, to be read to its end.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// The next entry, or `None` at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, LayerError> {
        let mut preceding = Preceding::default();
        loop {
            self.stream.pieces(self.content, |_| Ok(()))?;
            self.skip_padding()?;
            (self.content, self.padding) = (0, 0);
            let Some(record) = self.header_record()? else {
                if preceding.any {
                    return Err(self.damaged("nothing follows a header that says more of an entry"));
                }
                return Ok(None);
            };
            let header = header::parse(&record).map_err(|reason| self.damaged(reason))?;
            match header.kind {
                b'x' | b'g' => {
                    let content = self.special(header.size)?;
                    let records = match header.kind {
                        b'x' => &mut preceding.records,
                        _ => &mut self.global,
                    };
                    let parsed = records.parse(&content);
                    let bytes = records.bytes();
                    parsed.map_err(|reason| self.damaged(reason))?;
                    if bytes > self.limits.header_bytes {
                        return Err(self.headers_too_large());
                    }
                    preceding.any |= header.kind == b'x';
                }
                b'L' | b'K' => {
                    let mut name = self.special(header.size)?;
                    let end = name.iter().position(|byte| *byte == 0);
                    name.truncate(end.unwrap_or(name.len()));
                    preceding.any = true;
                    match header.kind {
                        b'L' => preceding.path = Some(name),
                        _ => preceding.link = Some(name),
                    }
                }
                _ => return self.entry(&record, header, preceding).map(Some),
            }
        }
    }

    /// Nothing is lost where the last file is not padded, as umoci leaves it and Go's and GNU's readers accept.
    fn skip_padding(&mut self) -> Result<(), LayerError> {
        let mut padding = [0; RECORD];
        let length = usize::try_from(self.padding).unwrap_or(RECORD);
        if let Some(padding) = padding.get_mut(..length) {
            self.stream.read(padding)?;
        }
        Ok(())
    }

    /// The next header, or `None` at the end: two empty ones, or nothing more.
    fn header_record(&mut self) -> Result<Option<[u8; RECORD]>, LayerError> {
        self.header_offset = self.stream.offset();
        let Some(record) = self.record()? else {
            return Ok(None);
        };
        if record.iter().any(|byte| *byte != 0) {
            return Ok(Some(record));
        }
        match self.record()? {
            Some(second) if second.iter().any(|byte| *byte != 0) => {
                Err(self.damaged("something follows an empty header"))
            }
            _ => Ok(None),
        }
    }

    fn record(&mut self) -> Result<Option<[u8; RECORD]>, LayerError> {
        let mut record = [0; RECORD];
        match self.stream.read(&mut record)? {
            0 => Ok(None),
            RECORD => Ok(Some(record)),
            _ => Err(LayerError::Truncated {
                offset: self.stream.offset(),
            }),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> LayerError {
        LayerError::Damaged {
            offset: self.header_offset,
            reason: reason.into(),
        }
    }

    /// The content of a header that says more of an entry.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, LayerError> {
        if size > self.limits.header_bytes {
            return Err(self.headers_too_large());
        }
        self.expect(size);
        let mut content = Vec::new();
        self.stream.pieces(size, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        self.content = 0;
        Ok(content)
    }

    fn headers_too_large(&self) -> LayerError {
        LayerError::Limit {
            what: "longer headers of one entry",
            limit: self.limits.header_bytes,
        }
    }

    /// What follows is content of this size.
    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(RECORD as u64) - size;
    }

    fn entry(
        &mut self,
        record: &[u8; RECORD],
        header: Header,
        preceding: Preceding,
    ) -> Result<Entry, LayerError> {
        let global = std::mem::take(&mut self.global);
        let records = Extended {
            own: &preceding.records,
            global: &global,
        };
        let entry = self.described(record, header, &preceding, records);
        self.global = global;
        entry
    }

    fn described(
        &mut self,
        record: &[u8; RECORD],
        header: Header,
        preceding: &Preceding,
        records: Extended<'_>,
    ) -> Result<Entry, LayerError> {
        let number = |name| records.number(name).map_err(|reason| self.damaged(reason));
        let sparse_name = records.get("GNU.sparse.name");
        let path = sparse_name
            .or(records.get("path"))
            .or(preceding.path.as_deref())
            .unwrap_or(&header.path)
            .to_vec();
        let link = records
            .get("linkpath")
            .or(preceding.link.as_deref())
            .unwrap_or(&header.link)
            .to_vec();
        let uid = number("uid")?.unwrap_or(header.uid);
        let gid = number("gid")?.unwrap_or(header.gid);
        let size = number("size")?.unwrap_or(header.size);
        let from_header = Time {
            seconds: header.mtime,
            nanoseconds: 0,
        };
        let mtime = records
            .time("mtime")
            .map_err(|reason| self.damaged(reason))?
            .unwrap_or(from_header);
        let xattrs = records
            .xattrs()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        let kind = match header.kind {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            b'0' | 0 | b'7' => self.file(records, size)?,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            b'S' => self.gnu_sparse(record, size)?,
            other => {
                let shown = char::from(other).escape_default();
                return Err(self.damaged(format!("the entry's type '{shown}' is unknown")));
            }
        };
        Ok(Entry {
            kind,
            path,
            link,
            mode: header.mode,
            uid,
            gid,
            mtime,
            major: header.major,
            minor: header.minor,
            xattrs,
        })
    }

    /// A file whose content has this size in the archive.
    fn file(&mut self, records: Extended<'_>, stored: u64) -> Result<EntryKind, LayerError> {
        self.check_content(stored)?;
        self.expect(stored);
        let declared = sparse::declared(records).map_err(|reason| self.damaged(reason))?;
        let map = match declared {
            None => {
                return Ok(EntryKind::File {
                    size: stored,
                    map: None,
                });
            }
            Some(PaxSparse::Map(map)) => map,
            Some(PaxSparse::InContent) => self.map_in_content()?,
        };
        let sizes = ["GNU.sparse.realsize", "GNU.sparse.size"];
        let mut size = None;
        for name in sizes {
            let found = records.number(name);
            size = size.or(found.map_err(|reason| self.damaged(reason))?);
        }
        let size = size.ok_or_else(|| self.damaged("the size of a sparse file is missing"))?;
        self.sparse(map, size)
    }

    /// Reads the map in front of a file's content.
    fn map_in_content(&mut self) -> Result<Vec<Stretch>, LayerError> {
        let mut lines = MapLines::default();
        let mut bytes = 0;
        loop {
            bytes += RECORD as u64;
            if bytes > self.limits.header_bytes {
                return Err(self.headers_too_large());
            }
            let rest = self.content.checked_sub(RECORD as u64);
            self.content =
                rest.ok_or_else(|| self.damaged("the map of a sparse file has no end"))?;
            let record = self.record()?.ok_or_else(|| LayerError::Truncated {
                offset: self.stream.offset(),
            })?;
            if lines.add(&record).map_err(|reason| self.damaged(reason))? {
                return Ok(lines.stretches());
            }
        }
    }

    /// A sparse file in GNU's own form, whose map may go on in records of its own.
    fn gnu_sparse(&mut self, record: &[u8; RECORD], stored: u64) -> Result<EntryKind, LayerError> {
        self.check_content(stored)?;
        let (mut map, mut more, size) =
            header::gnu_sparse(record).map_err(|reason| self.damaged(reason))?;
        let mut bytes = 0;
        while more {
            bytes += RECORD as u64;
            if bytes > self.limits.header_bytes {
                return Err(self.headers_too_large());
            }
            let record = self.record()?.ok_or_else(|| LayerError::Truncated {
                offset: self.stream.offset(),
            })?;
            let (stretches, again) =
                header::gnu_sparse_more(&record).map_err(|reason| self.damaged(reason))?;
            map.extend(stretches);
            more = again;
        }
        self.expect(stored);
        self.sparse(map, size)
    }

    /// Content beyond the limit of the whole archive will not come; and sums stay small.
    fn check_content(&self, stored: u64) -> Result<(), LayerError> {
        if stored > self.limits.tar_bytes {
            return Err(LayerError::Limit {
                what: "more bytes when it is decompressed",
                limit: self.limits.tar_bytes,
            });
        }
        Ok(())
    }

    fn sparse(&self, map: Vec<Stretch>, size: u64) -> Result<EntryKind, LayerError> {
        sparse::check(&map, size, self.content).map_err(|reason| self.damaged(reason))?;
        Ok(EntryKind::File {
            size,
            map: Some(map),
        })
    }

    /// Hands out the next bytes of the entry's content.
    pub(super) fn content(
        &mut self,
        count: u64,
        take: impl FnMut(&[u8]) -> Result<(), LayerError>,
    ) -> Result<(), LayerError> {
        self.stream.pieces(count, take)?;
        self.content = self.content.saturating_sub(count);
        Ok(())
    }
}
