//! GFS2 on disk, format 1801 and 1802: the structures, their checksums and their arithmetic.
//!
//! A struct is its layout: big-endian field types, explicit reserved bytes, and assertions of every
//! size and of the offsets that `linux/gfs2_ondisk.h` implies. Knows no device and no policy.

#![forbid(unsafe_code)]

pub mod bitmap;
pub mod checksum;
pub mod describe;
pub mod dinode;
pub mod directory;
pub mod eattr;
pub mod geometry;
pub mod header;
pub mod log;
pub mod resource_group;
pub mod small_files;
pub mod superblock;
pub mod validate;
pub mod value_blocks;

pub use bitmap::BlockState;
pub use dinode::Dinode;
pub use directory::{Dirent, Leaf};
pub use geometry::BlockSize;
pub use header::{InodeNumberPair, MetaHeader, MetaType};
pub use log::{LogDescriptor, LogHeader};
pub use resource_group::{ResourceGroup, ResourceIndexEntry};
pub use superblock::Superblock;
