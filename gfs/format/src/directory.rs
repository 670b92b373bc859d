//! Directory entries, hash leaves and the name hash.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{InodeNumberPair, MetaHeader};

/// `struct gfs2_dirent`: followed by the name, padded so that records are multiples of 8 bytes. A
/// record whose `inode.address` is 0 holds no entry.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Dirent {
    pub inode: InodeNumberPair,
    pub hash: U32,
    /// Bytes from this record to the next; the last reaches the end of its block.
    pub record_len: U16,
    pub name_len: U16,
    /// `DT_*` of dirent.h.
    pub kind: U16,
    pub read_ahead: U16,
    pub reserved: [u8; 12],
}

const _: () = assert!(size_of::<Dirent>() == 40);

/// Bytes of a record's fixed part.
pub const DIRENT_BYTES: usize = size_of::<Dirent>();

/// Bytes that a record with a name of `name_len` bytes needs.
pub const fn dirent_size(name_len: usize) -> usize {
    (DIRENT_BYTES + name_len + 7) & !7
}

/// `struct gfs2_leaf`: header of a leaf block; records follow to the end of the block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Leaf {
    pub header: MetaHeader,
    /// Bits of the hash that all names in it share.
    pub depth: U16,
    pub entries: U16,
    /// `GFS2_FORMAT_DE`.
    pub dirent_format: U32,
    /// Next leaf of an overflow chain; 0 is none.
    pub next: U64,
    /// Directory that it belongs to.
    pub inode: U64,
    /// Its place in the chain, from 1.
    pub distance: U32,
    pub changed_nanos: U32,
    pub changed_seconds: U64,
    pub reserved: [u8; 40],
}

const _: () = assert!(size_of::<Leaf>() == 104);

/// Bytes of a leaf's header.
pub const LEAF_BYTES: usize = size_of::<Leaf>();
/// `dirent_format` of a leaf.
pub const DIRENT_FORMAT: u32 = 1200;

/// The hash that places a name in a directory (CRC-32, IEEE).
pub fn name_hash(name: &[u8]) -> u32 {
    crc32fast::hash(name)
}
