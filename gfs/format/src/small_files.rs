//! Contents of the small system files.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::MetaHeader;

/// `struct gfs2_statfs_change`: the master's totals, or a node's difference in two's complement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct StatfsChange {
    pub total: U64,
    pub free: U64,
    pub dinodes: U64,
}

const _: () = assert!(size_of::<StatfsChange>() == 24);

/// Formal inode numbers that a machine took from the `inum` file at once.
pub const INUM_QUANTUM: u64 = 1_048_576;
/// `qc_flags`: the id is a user's and not a group's.
pub const QUOTA_CHANGE_USER: u32 = 0x0000_0001;

/// `struct gfs2_inum_range`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InumRange {
    pub start: U64,
    pub length: U64,
}

const _: () = assert!(size_of::<InumRange>() == 16);

/// `struct gfs2_quota`: one per user and group in the quota file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Quota {
    pub limit: U64,
    pub warn: U64,
    pub value: U64,
    pub reserved: [u8; 64],
}

const _: () = assert!(size_of::<Quota>() == 88);

/// `struct gfs2_quota_change`: an unsynced change of a quota value.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct QuotaChange {
    pub change: U64,
    pub flags: U32,
    pub id: U32,
}

const _: () = assert!(size_of::<QuotaChange>() == 16);

/// `struct gfs2_ea_header`: followed by the name, and by the value or pointers to it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ExtendedAttribute {
    pub record_len: U32,
    pub value_len: U32,
    pub name_len: u8,
    pub kind: u8,
    pub flags: u8,
    pub pointer_count: u8,
    pub reserved: [u8; 4],
}

const _: () = assert!(size_of::<ExtendedAttribute>() == 16);

/// Header of a quota_change block.
pub type QuotaChangeHeader = MetaHeader;
