//! One request in the table: what it is for and who waits for its answer.

use base::Instant;
use block_core::completion::Completer;
use block_core::{BlockError, ByteLen, ByteOffset, Durability, ReservationChange};
use bytes::Bytes;
use iscsi_target_proto::scsi::{Completion, ScsiCommand};

/// What a request that may be sent again is for; decides what its answer changes.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Read {
        at: ByteOffset,
        len: ByteLen,
    },
    Write {
        at: ByteOffset,
        len: ByteLen,
        durability: Durability,
    },
    /// Writes zeroes without sending them.
    Zero {
        at: ByteOffset,
        len: ByteLen,
    },
    Discard {
        at: ByteOffset,
        len: ByteLen,
    },
    /// `mark`: what was answered when it was first sent.
    Flush {
        mark: u64,
    },
    /// A question that changes nothing.
    Query,
}

impl Role {
    /// What it is about.
    pub(super) fn range(self) -> (ByteOffset, ByteLen) {
        match self {
            Self::Read { at, len }
            | Self::Write { at, len, .. }
            | Self::Zero { at, len }
            | Self::Discard { at, len } => (at, len),
            Self::Flush { .. } | Self::Query => (ByteOffset(0), ByteLen(0)),
        }
    }

    /// Bytes of the caller's that it writes.
    pub(super) fn written(self) -> u64 {
        match self {
            Self::Write { len, .. } => len.0,
            Self::Read { .. } | Self::Zero { .. } | Self::Discard { .. } | Self::Flush { .. } | Self::Query => 0,
        }
    }
}

/// A request that must not be done twice; what it changes here when it was done.
#[derive(Clone, Copy, Debug)]
pub enum Once {
    CompareAndWrite { at: ByteOffset, len: ByteLen },
    Reservation(ReservationChange),
}

/// What comes of a request that is not repeated. Its caller judges the target's answer.
#[derive(Debug)]
pub enum OnceAnswer {
    Completed(Completion),
    /// It was not carried out.
    Refused(BlockError),
    /// The connection was lost after it was sent.
    Lost,
}

/// A request and its history.
pub(super) struct Request {
    pub command: ScsiCommand,
    pub waiter: Waiter,
    pub since: Instant,
    pub attempts: u32,
}

/// Who waits.
pub(super) enum Waiter {
    Caller {
        role: Role,
        completer: Completer<Result<Bytes, BlockError>>,
    },
    Once {
        once: Once,
        completer: Completer<OnceAnswer>,
    },
    /// The initiator's own flush.
    Nobody {
        role: Role,
    },
    /// The task; it judges the answer itself.
    Question(Completer<Completion>),
}

impl Waiter {
    /// Bytes of the caller's that it writes.
    pub fn written(&self) -> u64 {
        match self {
            Self::Caller { role, .. } | Self::Nobody { role } => role.written(),
            Self::Once { .. } | Self::Question(_) => 0,
        }
    }
}

/// An answer that is handed out when the lock is released.
pub(super) enum Finished {
    Caller(Completer<Result<Bytes, BlockError>>, Result<Bytes, BlockError>),
    Once(Completer<OnceAnswer>, OnceAnswer),
    Question(Completer<Completion>, Completion),
    Login(Completer<()>),
}

impl Finished {
    pub fn hand_out(self) {
        match self {
            Self::Caller(completer, result) => completer.complete(result),
            Self::Once(completer, answer) => completer.complete(answer),
            Self::Question(completer, answer) => completer.complete(answer),
            Self::Login(completer) => completer.complete(()),
        }
    }
}
