//! The only way to touch a disk: the block device port, and the devices that need no operating
//! system (memory, crash-simulating, shared with a gate per node, held by a test, slow).
//!
//! Knows bytes and sectors; never files, sockets, runtimes or what is stored in the blocks.

pub mod completion;
pub mod crash;
pub mod dev;
pub mod device;
pub mod held;
pub mod image;
pub mod latency;
pub mod memory;
pub mod reservation;
mod reserved;
pub mod shared;
pub mod units;
pub mod url;

pub use crash::CrashDevice;
pub use dev::{DevName, DevNameError};
pub use device::{BlockDevice, BlockError, Compared, Durability, Extent, Geometry, IoFuture};
pub use held::{HeldDevice, Request, RequestKind};
pub use image::Image;
pub use latency::{Latency, LatencyDevice};
pub use memory::MemoryDevice;
pub use reservation::{
    HeldReservation, Persistence, RegisteredKeys, Registration, Reservation, ReservationChange, ReservationKey,
    ReservationKind, ReservationOutcome, ReservationStatus,
};
pub use shared::SharedDisk;
pub use units::{ByteLen, ByteOffset};
pub use url::{IscsiLogin, IscsiPortal, IscsiUrl, Secret};
