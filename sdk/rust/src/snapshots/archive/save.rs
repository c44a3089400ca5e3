//! Writes a snapshot to an archive.

use std::io::{self, Read, Write};
use std::path::Path;

use image::archive::Format;
use image::progress::Silent;
use tar::{Builder, Header};

use super::frames::FrameWriter;
use super::{BLOCK, IMAGE};
use crate::images::{ImageError, Images, output};
use crate::snapshots::error::failed;
use crate::snapshots::{
    Progress, SnapshotError, SnapshotHandle, SnapshotRoot, Snapshots, artifact, integrity,
};

impl Snapshots {
    /// Writes the snapshot of this name, or at this path, to an archive, with the image that it is based on if that is
    /// wanted. One that is damaged is not written.
    ///
    /// # Errors
    /// [`SnapshotError::NotPortable`], [`SnapshotError::Damaged`], [`SnapshotError::ImageMissing`].
    pub fn save(
        &self,
        snapshot: &str,
        with_image: bool,
        output: &mut dyn Write,
        progress: Progress<'_>,
    ) -> Result<(), SnapshotError> {
        let found = self.get(snapshot)?;
        if let SnapshotRoot::Path { path, .. } = found.root() {
            return Err(SnapshotError::NotPortable { root: path.clone() });
        }
        let image = match with_image {
            true => Some(self.image_of(&found)?),
            false => None,
        };
        artifact::verify(found.path(), &found.snapshot, &mut *progress)?;
        let mut archive = Builder::new(Written {
            frames: FrameWriter::new(output),
            bytes: 0,
            total: found.size_bytes(),
            progress,
        });
        add_files(&found, &mut archive).map_err(write_failed)?;
        if let Some((images, digest)) = image {
            add_image(&images, &digest, archive.get_mut())?;
        }
        let finished = archive.into_inner();
        finished
            .and_then(|written| written.frames.finish())
            .map_err(write_failed)?;
        Ok(())
    }

    /// As [`save`](Self::save), to a file that appears when it is complete.
    ///
    /// # Errors
    /// As there.
    pub fn save_file(
        &self,
        snapshot: &str,
        with_image: bool,
        path: &Path,
        progress: Progress<'_>,
    ) -> Result<(), SnapshotError> {
        output::write(path, |output| {
            self.save(snapshot, with_image, output, progress)
        })
    }

    fn image_of(&self, found: &SnapshotHandle) -> Result<(Images, String), SnapshotError> {
        let images = Images::open(&self.home)?;
        let digest = found.snapshot.image.as_ref().map(|(_, digest)| digest);
        let digest = digest.map(ToString::to_string).unwrap_or_default();
        match images.get(&digest) {
            Ok(_) => Ok((images, digest)),
            Err(error @ ImageError::ImageNotFound { .. }) => {
                Err(found.image_missing().unwrap_or(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What is written, with account of it.
struct Written<'a> {
    frames: FrameWriter<&'a mut dyn Write>,
    bytes: u64,
    total: u64,
    progress: Progress<'a>,
}

impl Write for Written<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.frames.write(bytes)?;
        self.bytes = self.bytes.saturating_add(count as u64);
        integrity::advance(self.progress, self.bytes, self.total)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.frames.flush()
    }
}

fn add_files(found: &SnapshotHandle, archive: &mut Builder<Written<'_>>) -> io::Result<()> {
    let text = format!("{}\n", found.snapshot.to_json());
    let mut header = header(text.len() as u64);
    archive.append_data(&mut header, artifact::DESCRIPTOR, text.as_bytes())?;
    let mut upper = found.open_upper().map_err(io::Error::other)?;
    archive.append_file(artifact::UPPER, &mut upper)
}

/// Adds an image, whose size has to stand before it. So it is written twice, the first time to nowhere.
fn add_image(
    images: &Images,
    digest: &str,
    written: &mut Written<'_>,
) -> Result<(), SnapshotError> {
    let mut counter = Counted {
        output: &mut io::sink(),
        count: 0,
    };
    images.save(&[digest], Format::Oci, &mut counter, &Silent)?;
    let size = counter.count;
    let mut header = header(size);
    header
        .set_path(IMAGE)
        .map(|()| header.set_cksum())
        .and_then(|()| written.write_all(header.as_bytes()))
        .map_err(write_failed)?;
    let mut counted = Counted {
        output: written,
        count: 0,
    };
    images.save(&[digest], Format::Oci, &mut counted, &Silent)?;
    if counted.count != size {
        return Err(write_failed(io::Error::other(
            "the image was changed meanwhile",
        )));
    }
    let padding = io::repeat(0).take(size.next_multiple_of(BLOCK) - size);
    io::copy(&mut { padding }, counted.output).map_err(write_failed)?;
    Ok(())
}

fn write_failed(source: io::Error) -> SnapshotError {
    failed("write", Path::new("the archive"))(source)
}

/// Of a file of nobody's, and of no time.
fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Counts bytes on their way.
struct Counted<'w, W> {
    output: &'w mut W,
    count: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.count = self.count.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
