//! The filesystem: async over three ports (block device, lock manager, host), with no runtime of
//! its own. The same code runs in the mount process and in the simulator.
//!
//! Knows nothing of FUSE, sockets, node names or how a lock travels.

pub mod api;
pub mod glock;
pub mod ports;

pub use api::*;
pub use ports::KernelCaches;
