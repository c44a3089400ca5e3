//! The file system device, section 5.11 of the virtio specification: FUSE requests in, replies out.
//!
//! Decoding and encoding is the work of fuse-backend-rs's server, but for data (`data`) and the entries of
//! directories (`listing`), and this is the only module that knows it; the file system behind is a [`SharedFolder`] or several, [`Exports`]. A guard
//! stands before the server, because some requests must not reach it. The server gets a copy of the request, with the header that the guard
//! has seen: what the guest changes after that, nobody reads.
#![deny(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod data;
mod listing;
mod message;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::abi::fuse_abi::{InHeader, Opcode};
use fuse_backend_rs::api::server::{MAX_BUFFER_SIZE, Server};
use fuse_backend_rs::transport::{FuseBuf, Reader, VirtioFsWriter, Writer};
use virtio_queue::DescriptorChain;

use self::message::{Message, REQUEST_HEADER};
use super::{
    Chain, Completion, DeviceDescription, DeviceFailure, Executor, GuestMemory, WorkerDescription,
};
use crate::fs::{Exports, Served, SharedFolder};

/// Device type "file system".
const DEVICE_TYPE: u32 = 26;

/// Length of the field for the tag in the configuration space.
const TAG_LENGTH: usize = 36;

/// Size of the request queue. Linux sends requests of at most (queue size - 4) pages, and a request of 1 MiB is 256
/// pages and its headers.
const REQUEST_QUEUE_SIZE: u16 = 1024;

/// Size of the queue for FUSE_FORGET and FUSE_INTERRUPT, which are small and need no reply.
const HIGH_PRIORITY_QUEUE_SIZE: u16 = 128;

/// Longest request: the largest write and a page for the headers, as for the reader of /dev/fuse.
const MAX_REQUEST: u64 = MAX_BUFFER_SIZE as u64 + 4096;

/// A file system device cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum FsDeviceError {
    /// The tag does not fit.
    #[error("the tag of a shared folder is 1 to 36 bytes without a NUL, not {tag:?}")]
    Tag {
        /// As the caller gave it.
        tag: String,
    },
    /// Only a folder can be the root of a file system.
    #[error("what is shared as {tag} is a single file")]
    SingleFile {
        /// As the caller gave it.
        tag: String,
    },
}

/// Describes a device that shares `folder` under `tag`, by which the guest mounts it: 1 to 36 bytes.
///
/// # Errors
/// If the tag does not fit, or `folder` is a single file.
pub fn fs_device(tag: &str, folder: SharedFolder) -> Result<DeviceDescription, FsDeviceError> {
    if !folder.is_folder() {
        return Err(FsDeviceError::SingleFile {
            tag: tag.to_owned(),
        });
    }
    device(tag, folder)
}

/// Describes a device that shows `exports` as the entries of its root under `tag`: 1 to 36 bytes. A clone of `exports`
/// attaches and detaches while the machine runs.
///
/// # Errors
/// If the tag does not fit.
pub fn exports_device(tag: &str, exports: Exports) -> Result<DeviceDescription, FsDeviceError> {
    device(tag, exports)
}

fn device(tag: &str, served: impl Served) -> Result<DeviceDescription, FsDeviceError> {
    if tag.is_empty() || tag.len() > TAG_LENGTH || tag.contains('\0') {
        return Err(FsDeviceError::Tag {
            tag: tag.to_owned(),
        });
    }
    let mut config = tag.as_bytes().to_vec();
    config.resize(TAG_LENGTH, 0);
    // num_request_queues. There is no notify_buf_size without VIRTIO_FS_F_NOTIFICATION.
    config.extend_from_slice(&1_u32.to_le_bytes());

    let traffic = served.traffic();
    let session = Arc::new(Session::new(served));
    let worker = |name: &str, size, resets, gathers| WorkerDescription {
        name: name.to_owned(),
        queue_sizes: vec![size],
        system_calls: SharedFolder::SYSTEM_CALLS,
        executor: Box::new(Requests {
            session: Arc::clone(&session),
            resets,
        }),
        gathers,
        helpers: Vec::new(),
    };
    Ok(DeviceDescription {
        device_type: DEVICE_TYPE,
        features: 0,
        config: config.into(),
        workers: vec![
            // Nobody waits for FORGET, and each interrupt for one costs the guest as much as a request does. Who needs what
            // it gives back waits for it, see `fs::quota`.
            worker("fs-hiprio", HIGH_PRIORITY_QUEUE_SIZE, false, true),
            worker("fs-requests", REQUEST_QUEUE_SIZE, true, false),
        ],
        traffic,
    })
}

/// Serves one queue of the device.
struct Requests<F: Served> {
    session: Arc<Session<F>>,
    /// Whether a reset of the device ends the session here. One of the workers does it, lest the slower one end a
    /// session that has begun anew.
    resets: bool,
}

impl<F: Served> Executor for Requests<F> {
    fn execute(
        &mut self,
        memory: &GuestMemory,
        _queue: usize,
        chain: Chain<'_>,
    ) -> Result<Completion, DeviceFailure> {
        let written = self.session.serve(memory, chain);
        // A reply is never longer than a read, see `MAX_BUFFER_SIZE`.
        Ok(Completion::Done(u32::try_from(written).unwrap_or(u32::MAX)))
    }

    fn reset(&mut self) {
        if self.resets {
            self.session.end();
        }
    }
}

/// What the queues of a device share.
struct Session<F: Served> {
    server: Server<Arc<F>>,
    served: Arc<F>,
    /// FUSE_INIT was answered.
    begun: AtomicBool,
}

impl<F: Served> Session<F> {
    fn new(served: F) -> Session<F> {
        let served = Arc::new(served);
        Session {
            server: Server::new(Arc::clone(&served)),
            served,
            begun: AtomicBool::new(false),
        }
    }

    /// Back to before FUSE_INIT.
    fn end(&self) {
        self.begun.store(false, Ordering::Relaxed);
        self.served.reset();
    }

    /// Carries out the request in `chain` and returns the length of the reply.
    fn serve(&self, memory: &GuestMemory, chain: Chain<'_>) -> usize {
        let untouched = chain.untouched();
        match Message::of(memory, chain) {
            Some(message) => self.answer(memory, &message, &untouched),
            None => 0,
        }
    }

    /// Carries out the request `message`, which came in `chain`, and returns the length of the reply.
    fn answer(
        &self,
        memory: &GuestMemory,
        message: &Message<'_>,
        chain: &DescriptorChain<&GuestMemory>,
    ) -> usize {
        let header = &message.header;
        if let Err(error) = self.admit(header, message.readable.len()) {
            return message.reply_error(&io::Error::from_raw_os_error(error));
        }
        match Opcode::from(header.opcode) {
            Opcode::Read => data::read(&*self.served, message),
            Opcode::Write => data::write(&*self.served, message),
            Opcode::Readdir => listing::list(&*self.served, message, false),
            Opcode::Readdirplus => listing::list(&*self.served, message, true),
            Opcode::Destroy => {
                self.end();
                message.reply_with(0)
            }
            opcode => match self.answer_by_library(memory, message, chain) {
                Some(length) => {
                    if matches!(opcode, Opcode::Init) {
                        self.begun.store(true, Ordering::Relaxed);
                    }
                    length
                }
                // A request that the server could not decode.
                None => message.reply_error(&io::Error::from_raw_os_error(libc::EIO)),
            },
        }
    }

    /// Has the server of fuse-backend-rs answer a request.
    fn answer_by_library(
        &self,
        memory: &GuestMemory,
        message: &Message<'_>,
        chain: &DescriptorChain<&GuestMemory>,
    ) -> Option<usize> {
        let mut request = message.copied().ok()?;
        let request = Reader::from_fuse_buffer(FuseBuf::new(&mut request)).ok()?;
        let reply = VirtioFsWriter::new(memory, chain.clone()).ok()?;
        self.server
            .handle_message(request, Writer::VirtioFs(reply), None, None)
            .ok()
    }

    /// Decides whether a request reaches the server; if not, says which error the guest gets.
    fn admit(&self, header: &InHeader, available: u64) -> Result<(), i32> {
        let claimed = u64::from(header.len);
        // The server allocates as much as the header claims or, for some requests, as the buffers hold.
        if available > MAX_REQUEST || claimed > available || claimed < REQUEST_HEADER {
            return Err(libc::EIO);
        }
        // These have never been requests; the server takes the number for one of its enum without a look.
        if matches!(header.opcode, 0 | 7 | 19) {
            return Err(libc::ENOSYS);
        }
        if header.opcode == Opcode::Init as u32 {
            // A session begins, also if the last one was not ended.
            self.end();
            return Ok(());
        }
        if self.begun.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(libc::EIO)
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod confinement_tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod driver;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod export_tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod hostile_tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod listing_tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod quota_tests;
#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod shared_quota_tests;
#[cfg(test)]
mod writing_tests;
