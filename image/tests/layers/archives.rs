//! Archives as tests need them, byte by byte where no program would make such a one.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

/// Fields of a header.
#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) kind: u8,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
    pub(crate) content: Vec<u8>,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            kind: b'0',
            link: Vec::new(),
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_600_000_000,
            device: (0, 0),
            content: Vec::new(),
        }
    }
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an entry. Names beyond 100 bytes get an extended header.
    pub(crate) fn entry(mut self, path: impl AsRef<[u8]>, fields: &Fields) -> Self {
        let path = path.as_ref();
        let mut records = Vec::new();
        if path.len() > 100 {
            records.push(record("path", path));
        }
        if fields.link.len() > 100 {
            records.push(record("linkpath", &fields.link));
        }
        if !records.is_empty() {
            self = self.raw("pax", b'x', &records.concat());
        }
        self.header(path, fields, fields.content.len() as u64);
        self.content(&fields.content);
        self
    }

    pub(crate) fn file(self, path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref().to_vec();
        self.entry(
            path,
            &Fields {
                content,
                ..Fields::default()
            },
        )
    }

    pub(crate) fn directory(self, path: impl AsRef<[u8]>) -> Self {
        let fields = Fields {
            kind: b'5',
            mode: 0o750,
            ..Fields::default()
        };
        self.entry(path, &fields)
    }

    pub(crate) fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.link(b'2', path, target)
    }

    pub(crate) fn hard_link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.link(b'1', path, target)
    }

    fn link(self, kind: u8, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let link = target.as_ref().to_vec();
        self.entry(
            path,
            &Fields {
                kind,
                link,
                mode: 0o777,
                ..Fields::default()
            },
        )
    }

    /// Adds a header of any type, with content.
    pub(crate) fn raw(mut self, path: &str, kind: u8, content: &[u8]) -> Self {
        let fields = Fields {
            kind,
            ..Fields::default()
        };
        self.header(path.as_bytes(), &fields, content.len() as u64);
        self.content(content);
        self
    }

    /// Adds an extended header with these records.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let records: Vec<_> = records
            .iter()
            .map(|(name, value)| record(name, value))
            .collect();
        self.raw("pax", b'x', &records.concat())
    }

    pub(crate) fn header(&mut self, path: &[u8], fields: &Fields, size: u64) {
        let mut header = [0; 512];
        let short = &path[..path.len().min(100)];
        header[..short.len()].copy_from_slice(short);
        header[100..107].copy_from_slice(format!("{:07o}", fields.mode).as_bytes());
        header[108..115].copy_from_slice(format!("{:07o}", fields.owner.0).as_bytes());
        header[116..123].copy_from_slice(format!("{:07o}", fields.owner.1).as_bytes());
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(format!("{:011o}", fields.mtime).as_bytes());
        header[156] = fields.kind;
        let link = &fields.link[..fields.link.len().min(100)];
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..336].copy_from_slice(format!("{:07o}", fields.device.0).as_bytes());
        header[337..344].copy_from_slice(format!("{:07o}", fields.device.1).as_bytes());
        self.record(header);
    }

    /// Adds a header as it is, with the right checksum.
    pub(crate) fn record(&mut self, mut header: [u8; 512]) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
    }

    pub(crate) fn content(&mut self, content: &[u8]) {
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    /// What there is so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The archive without an end.
    pub(crate) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }
}

/// A record of an extended header.
fn record(name: &str, value: &[u8]) -> Vec<u8> {
    let rest = name.len() + value.len() + 3;
    let length = (1..)
        .map(|digits| rest + digits)
        .find(|length| rest + length.to_string().len() == *length);
    let mut record = format!("{} {name}=", length.unwrap()).into_bytes();
    record.extend(value);
    record.push(b'\n');
    record
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// What a program writes to its output, run in a directory.
#[track_caller]
pub(crate) fn output(directory: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    output.stdout
}
