//! Serving the private layer of another root.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use files::{Layer, LayerSink};
use protocol::{FileReply, FrameWriter};

use super::{Service, Trouble, io_failed};
use crate::mount_context::MountContext;
use crate::upper::Upper;

/// Sends an archive as replies.
struct Replies<'w, W>(&'w mut FrameWriter<W>);

impl<W: Write> LayerSink for Replies<'_, W> {
    type Error = Trouble;

    fn part(&mut self, part: &[u8]) -> Result<(), Trouble> {
        Ok(self.0.write(&FileReply::Data(part))?)
    }
}

impl Service<'_> {
    /// Sends what is in the layer whose file system is mounted at `layer`. Its journal was replayed then; from here on
    /// nothing changes it, not even that it is read.
    pub(super) fn read_layer(&mut self, layer: &Path, below: &Path) -> Result<(), Trouble> {
        let place = self.files.open_directory(layer)?;
        Upper::at(place)
            .make_read_only()
            .map_err(|error| io_failed("make read-only", layer, error))?;
        let upper = self.files.open_directory(layer.join("upper"))?;
        let below = self.files.open_directory(below)?;
        let (upper, below) = (upper.as_fd(), below.as_fd());
        let merged = || MountContext::overlay([upper, below])?.mount_read_only();
        let layer = Layer {
            upper,
            below,
            merged,
        };
        layer.read(&mut Replies(&mut self.writer))
    }
}
