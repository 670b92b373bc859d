//! File contents: the pointer tree, reading, writing, truncation, and the data that waits in
//! memory for its place on the disk.

mod allocate;
mod data;
mod read;
mod seek;
mod tree;
mod truncate;
mod write;

pub use data::{DataCache, write_back};
pub use tree::TreeEdit;
