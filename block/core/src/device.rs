//! The block device port.
//!
//! Buffers are owned (`Bytes`), so that a request outlives the caller that gave up on it: an
//! abandoned future never leaves the kernel or the network writing into freed memory. A read
//! future that is dropped is forgotten; a write future that is dropped may or may not take effect,
//! like a write whose answer was lost.

use std::fmt;

use base::BoxFuture;
use bytes::Bytes;

use crate::reservation::{HeldReservation, RegisteredKeys, ReservationChange, ReservationOutcome, ReservationStatus};
use crate::units::{ByteLen, ByteOffset};

/// Result of a request, later.
pub type IoFuture<T> = BoxFuture<'static, Result<T, BlockError>>;

/// Size and granularity of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Smallest addressable unit in bytes: a power of two, 512 to 65536. Every offset and length
    /// is a multiple of it.
    pub sector: u32,
    /// Number of sectors.
    pub sectors: u64,
}

impl Geometry {
    /// The device's size in bytes.
    pub fn size(&self) -> ByteLen {
        ByteLen(self.sectors * u64::from(self.sector))
    }

    /// Refuses a range that is not whole sectors or that leaves the device.
    pub fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), BlockError> {
        let sector = u64::from(self.sector);
        if !at.0.is_multiple_of(sector) || !len.0.is_multiple_of(sector) {
            return Err(BlockError::Misaligned { at, len, sector: self.sector });
        }
        match at.0.checked_add(len.0) {
            Some(end) if end <= self.size().0 => Ok(()),
            _ => Err(BlockError::OutOfRange { at, len, size: self.size() }),
        }
    }
}

/// A piece of a device that takes space throughout, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub len: ByteLen,
    pub takes_space: bool,
}

/// When a write may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the device has it; it may be lost with the power until the next flush.
    Cached,
    /// When it would survive a loss of power (FUA).
    Forced,
}

/// What a compare-and-write found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The bytes were as expected and are replaced; that is durable.
    Written,
    /// They differ, first at this byte of the device, and nothing was changed.
    Differs { at: ByteOffset },
    /// The path to the device was lost meanwhile, and asking again could do it twice. The caller looks at the bytes.
    Unknown { what: String },
}

/// Why a request failed, by whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The caller's: not whole sectors.
    Misaligned { at: ByteOffset, len: ByteLen, sector: u32 },
    /// The caller's: beyond the end.
    OutOfRange { at: ByteOffset, len: ByteLen, size: ByteLen },
    /// The device was opened for reading only, or is write-protected.
    ReadOnly,
    /// This node has been fenced off the device (RESERVATION CONFLICT, or its gate is closed).
    Fenced,
    /// The device does not have this operation.
    Unsupported { operation: &'static str },
    /// The device is full (a thin device whose backing store has no room).
    NoSpace,
    /// The device or the path to it is gone for longer than its limit.
    Unavailable { what: String },
    /// The device answered that it failed.
    Io { at: ByteOffset, what: String },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned { at, len, sector } => {
                write!(f, "{len} at {at} are not whole sectors of {sector} bytes")
            }
            Self::OutOfRange { at, len, size } => write!(f, "{len} at {at} reach beyond the device's {size}"),
            Self::ReadOnly => write!(f, "the device is read-only"),
            Self::Fenced => write!(f, "this node has been fenced off the device (RESERVATION CONFLICT)"),
            Self::Unsupported { operation } => write!(f, "the device does not support {operation}"),
            Self::NoSpace => write!(f, "the device's backing store is full"),
            Self::Unavailable { what } => write!(f, "the device is unavailable: {what}"),
            Self::Io { at, what } => write!(f, "I/O error at {at}: {what}"),
        }
    }
}

impl std::error::Error for BlockError {}

/// A disk; what it cannot do, it answers with `Unsupported`. Requests run concurrently and in no order; two that overlap and are in flight together
/// leave either's bytes, sector by sector.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size and sector; may grow while the device is open.
    fn geometry(&self) -> Geometry;
    /// Reads `len` bytes at `at`.
    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes>;
    /// Writes the buffers one after the other from `at` on. Each buffer is whole sectors.
    fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> IoFuture<()>;
    /// Makes every write that was answered before this call durable.
    fn flush(&self) -> IoFuture<()>;
    /// Says that the bytes are not needed; they read as zeroes or as before.
    fn discard(&self, _at: ByteOffset, _len: ByteLen) -> IoFuture<()> {
        unsupported("discard")
    }
    /// How much from `at` on, at most `len`, is alike, and whether it takes space; what does not reads as zeroes.
    /// A device that cannot tell says that all of it does.
    fn extent(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Extent> {
        let answer = self.geometry().check(at, len).map(|()| Extent { len, takes_space: true });
        Box::pin(async { answer })
    }
    /// Makes the bytes read as zeroes.
    fn write_zeroes(&self, _at: ByteOffset, _len: ByteLen) -> IoFuture<()> {
        unsupported("write zeroes")
    }
    /// Replaces bytes by others if they are what the caller believes, in one step that nobody else's write comes in
    /// between. Both buffers are equally long whole sectors; a device takes at least one sector, and says
    /// `Unsupported` for more than it can.
    fn compare_and_write(&self, _at: ByteOffset, _expected: Bytes, _new: Bytes) -> IoFuture<Compared> {
        unsupported("compare and write")
    }
    /// Registers, reserves, releases, preempts. Never repeated by the device: an answer that was lost is
    /// [`ReservationOutcome::Unknown`].
    fn change_reservation(&self, _change: ReservationChange) -> IoFuture<ReservationOutcome> {
        unsupported("persistent reservations")
    }
    /// The keys that are registered; one that several nodes registered is there as often.
    fn reservation_keys(&self) -> IoFuture<RegisteredKeys> {
        unsupported("persistent reservations")
    }
    /// The reservation, if there is one.
    fn reservation(&self) -> IoFuture<HeldReservation> {
        unsupported("persistent reservations")
    }
    /// Who has registered what, and who holds the reservation.
    fn reservation_status(&self) -> IoFuture<ReservationStatus> {
        unsupported("reading the full status of persistent reservations")
    }
}

fn unsupported<T: Send + 'static>(operation: &'static str) -> IoFuture<T> {
    Box::pin(async move { Err(BlockError::Unsupported { operation }) })
}
