//! The answer to one request: may move between threads and be given at any time, exactly once.

use std::io::IoSlice;
use std::sync::Arc;

use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::device::Device;
use crate::wire::OutHeader;

/// Owed to the kernel. Dropped unanswered, it answers EIO: a caller never waits for a lost reply.
#[derive(Debug)]
#[must_use = "a dropped reply answers EIO"]
pub struct Reply {
    device: Arc<Device>,
    unique: u64,
    is_answered: bool,
}

/// Whether the kernel took an answer. It does not when the connection is gone; what an answer
/// handed out (a lookup count, a handle) is then taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Taken,
    Refused,
}

impl Reply {
    pub(crate) fn new(device: Arc<Device>, unique: u64) -> Self {
        Self { device, unique, is_answered: false }
    }

    /// The request's number.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Answers with an error.
    pub fn error(self, errno: Errno) -> Delivery {
        self.send(-(errno as i32), &[])
    }

    /// Answers success, with nothing to say.
    pub fn empty(self) -> Delivery {
        self.send(0, &[])
    }

    /// Answers with bytes.
    pub fn bytes(self, bytes: &[u8]) -> Delivery {
        self.send(0, bytes)
    }

    /// Answers with a struct of `wire`.
    pub fn value<T: IntoBytes + Immutable>(self, value: &T) -> Delivery {
        self.send(0, value.as_bytes())
    }

    /// Forgets the request unanswered: for FORGET, which has no answer.
    pub(crate) fn none(mut self) {
        self.is_answered = true;
    }

    fn send(mut self, error: i32, body: &[u8]) -> Delivery {
        self.is_answered = true;
        self.write(error, body)
    }

    fn write(&self, error: i32, body: &[u8]) -> Delivery {
        // The longest reply is a READ of max_write bytes.
        let len = (size_of::<OutHeader>() + body.len()) as u32;
        let header = OutHeader { len, error, unique: self.unique };
        let written = if body.is_empty() {
            self.device.write(&[IoSlice::new(header.as_bytes())])
        } else {
            self.device.write(&[IoSlice::new(header.as_bytes()), IoSlice::new(body)])
        };
        match written {
            Ok(()) => Delivery::Taken,
            Err(error) => {
                tracing::debug!(unique = self.unique, %error, "the kernel refused an answer");
                Delivery::Refused
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_answered {
            tracing::warn!(unique = self.unique, "a request was dropped; answering EIO");
            self.write(-(Errno::EIO as i32), &[]);
        }
    }
}
