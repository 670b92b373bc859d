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
pub mod shared;
pub mod units;

pub use crash::CrashDevice;
pub use dev::{DevName, DevNameError, IscsiUrl, Secret};
pub use device::{BlockDevice, BlockError, Durability, Extent, Geometry, IoFuture};
pub use held::{HeldDevice, Request, RequestKind};
pub use image::Image;
pub use latency::{Latency, LatencyDevice};
pub use memory::MemoryDevice;
pub use shared::SharedDisk;
pub use units::{ByteLen, ByteOffset};
