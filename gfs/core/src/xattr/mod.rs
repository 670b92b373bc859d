//! Extended attributes, access control lists and inode flags.
//!
//! - `name`: namespaces and names, as callers spell them.
//! - `store`: all attributes of an inode in memory, and changing them there; no I/O.
//! - `disk`: a store from and to its blocks.
//! - `ops`: get, list, set, remove.
//! - `acl`: what an access control list says; `access`: lists on inodes.
//! - `flags`: the flags of `chattr`.
//!
//! An inode's attributes are read and cached under its glock. An attribute changes in one
//! transaction: a change takes the blocks that it makes free before it asks for new ones, so it
//! never needs one resource group to allocate and others to free.

mod access;
mod acl;
mod disk;
mod flags;
mod name;
mod ops;
mod store;

pub(crate) use disk::Allotment;
pub use flags::InodeFlags;
pub use name::{XattrName, XattrSpace};
pub use ops::XattrWrite;
pub(crate) use store::Store;
