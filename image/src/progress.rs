//! How far the making of an image is.

use crate::digest::Digest;

/// Told how far an image is, from several threads.
pub trait Progress: Sync {
    /// Of a blob, `done` of `total` bytes are here.
    fn blob(&self, digest: &Digest, done: u64, total: u64);

    /// A layer has come to another state.
    fn layer(&self, diff_id: &Digest, state: LayerState);

    /// Of the archive of a layer that is made here, so many bytes are.
    fn archive(&self, done: u64);
}

/// What becomes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// A file system is being made of it.
    Converting,
    /// Guests can mount it.
    Ready,
}

/// Nobody wants to know.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn blob(&self, _: &Digest, _: u64, _: u64) {}

    fn layer(&self, _: &Digest, _: LayerState) {}

    fn archive(&self, _: u64) {}
}
