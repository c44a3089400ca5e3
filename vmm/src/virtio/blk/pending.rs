//! Requests that are answered later.

use std::sync::Arc;

use super::config::QUEUE_SIZE;
use super::request::{Answer, Status};
use super::slot::Occupant;
use crate::virtio::{Finished, GuestMemory};

/// A request under way. Its buffers are guest memory: that stays mapped, and the files of its image stay open, for as long
/// as it is here.
pub(super) struct Pending {
    pub(super) head: u16,
    pub(super) answer: Answer<'static>,
    /// Bytes that were written to the guest's memory when it is done.
    pub(super) data: u64,
    /// Parts that are not over yet.
    pub(super) parts: usize,
    pub(super) status: Status,
    pub(super) _occupant: Arc<Occupant>,
    pub(super) _memory: Arc<GuestMemory>,
}

/// All requests under way of one queue, by number. There are never more than a queue has entries: a driver that makes
/// chains available again before they came back is not followed.
pub(super) struct PendingRequests {
    requests: Vec<Option<Pending>>,
    free: Vec<usize>,
}

impl PendingRequests {
    pub(super) fn new() -> PendingRequests {
        let count = usize::from(QUEUE_SIZE);
        PendingRequests {
            requests: (0..count).map(|_| None).collect(),
            free: (0..count).collect(),
        }
    }

    /// Whether one more can be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Keeps a request and returns its number; gives it back if there is no room.
    pub(super) fn insert(&mut self, request: Pending) -> Result<usize, Pending> {
        let Some(number) = self.free.pop() else {
            return Err(request);
        };
        if let Some(place) = self.requests.get_mut(number) {
            *place = Some(request);
        }
        Ok(number)
    }

    /// A part of the request is over; returns the request's answer if it was the last.
    pub(super) fn part_is_over(&mut self, number: usize, status: Status) -> Option<Finished> {
        let place = self.requests.get_mut(number)?;
        let request = place.as_mut()?;
        if status != Status::Done {
            request.status = status;
        }
        request.parts = request.parts.saturating_sub(1);
        if request.parts > 0 {
            return None;
        }
        let Pending {
            head,
            answer,
            data,
            status,
            ..
        } = place.take()?;
        self.free.push(number);
        let data = if status == Status::Done { data } else { 0 };
        Some(Finished {
            head,
            length: answer.give(status, data),
        })
    }

    /// Forgets all of them, on which nobody works any more.
    pub(super) fn clear(&mut self) {
        *self = PendingRequests::new();
    }
}
