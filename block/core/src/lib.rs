//! The only way to touch a disk: the block device port, and the devices that need no operating
//! system (memory, crash-simulating, shared with a gate per node).
//!
//! Knows bytes and sectors; never files, sockets, runtimes or what is stored in the blocks.

pub mod device;
pub mod units;

pub use device::{BlockDevice, BlockError, Durability, Geometry, IoFuture};
pub use units::{ByteLen, ByteOffset};
