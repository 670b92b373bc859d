//! What the kernel keeps in the value blocks of its locks (`struct gfs2_*_lvb`), and the numbers of the locks that
//! belong to no block.
//!
//! Corral's own mounts do not depend on these layouts; they are here so that a lock dump of a kernel's lockspace can
//! be read by field name like everything else of the format.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Numbers of the locks of type "nondisk".
pub mod nondisk {
    pub const MOUNT: u64 = 0;
    pub const LIVE: u64 = 1;
    pub const FREEZE: u64 = 2;
    pub const RENAME: u64 = 3;
    pub const CONTROL: u64 = 4;
    pub const MOUNTED: u64 = 5;
}

/// `struct gfs2_inode_lvb`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InodeValue {
    pub magic: U32,
    pub reserved0: U32,
    /// Generation of the inode that was last deleted at this block.
    pub generation_deleted: U64,
}

const _: () = assert!(size_of::<InodeValue>() == 16);

/// `struct gfs2_rgrp_lvb`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResourceGroupValue {
    pub magic: U32,
    pub flags: U32,
    /// Blocks.
    pub free: U32,
    pub dinodes: U32,
    pub inode_generation: U64,
    /// Dinodes without a name that wait for being reclaimed.
    pub unlinked: U32,
    pub reserved0: U32,
}

const _: () = assert!(size_of::<ResourceGroupValue>() == 32);
const _: () = assert!(std::mem::offset_of!(ResourceGroupValue, unlinked) == 24);

/// `struct gfs2_quota_lvb`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct QuotaValue {
    pub magic: U32,
    pub reserved0: U32,
    /// Blocks; 0 is no limit.
    pub limit: U64,
    pub warn: U64,
    pub value: U64,
}

const _: () = assert!(size_of::<QuotaValue>() == 32);
const _: () = assert!(std::mem::offset_of!(QuotaValue, limit) == 8);
