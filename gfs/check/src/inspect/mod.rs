//! Looking at a filesystem from outside: the reading behind `corral fs` and the faces of other tools.
//!
//! [`Volume`] reads the superblock and the resource index, then whatever is asked for: a block with its type and
//! state, an inode with every block that it owns, a directory, a path, free space. Each block that is followed is
//! validated first, so damage ends in an [`InspectError`] that names the block, what was expected and what was found;
//! a walk reads no more blocks than the device has.
//!
//! Async over the block device port, on any executor. Never writes and never locks: what a mounted node has not
//! written yet is not seen.

mod attribute;
mod directory;
mod error;
mod space;
mod tree;
mod volume;

pub use attribute::Attribute;
pub use directory::{Entry, MASTER_PREFIX};
pub use error::InspectError;
pub use space::{FreeSpace, GroupUse};
pub use tree::{Extent, Role};
pub use volume::{Group, Inode, SYSTEM_FILES, Volume};
