//! The filesystem: async over three ports (block device, lock manager, host), with no runtime of
//! its own. The same code runs in the mount process and in the simulator.
//!
//! Knows nothing of FUSE, sockets, node names or how a lock travels.

#![forbid(unsafe_code)]

pub mod alloc;
pub mod api;
mod dir;
pub mod error;
mod file;
mod fs;
pub mod glock;
mod inode;
pub mod journal;
mod mount;
pub mod ports;
mod statfs;
mod xattr;

pub use api::*;
pub use error::{Error, Result};
pub use fs::{Fs, Ports};
pub use journal::Faults;
pub use mount::MountOptions;
pub use ports::{KernelCaches, NoKernelCaches};
pub use xattr::{InodeFlags, XattrName, XattrSpace, XattrWrite};
