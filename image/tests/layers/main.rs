//! Layers of all kinds become images, which are read again here, judged by fsck.erofs, and compared with what the
//! archives say.
// What fails in a helper fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod bad_luck;
mod formats;
mod hostile;
mod images;
mod limits;
mod merging;
mod random;
mod storm;
mod whiteouts;
