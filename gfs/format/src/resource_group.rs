//! Resource groups: the index file's entries and the group's header block.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::MetaHeader;

/// Flags of `rg_flags`.
pub mod flags {
    pub const JOURNAL: u32 = 0x0000_0001;
    pub const METADATA_ONLY: u32 = 0x0000_0002;
    pub const DATA_ONLY: u32 = 0x0000_0004;
    pub const NOALLOC: u32 = 0x0000_0008;
    pub const TRIMMED: u32 = 0x0000_0010;

    /// Every flag with its name, by rising bit.
    pub const NAMES: [(u32, &str); 5] = [
        (JOURNAL, "JOURNAL"),
        (METADATA_ONLY, "METAONLY"),
        (DATA_ONLY, "DATAONLY"),
        (NOALLOC, "NOALLOC"),
        (TRIMMED, "TRIMMED"),
    ];
}

/// `struct gfs2_rindex`: one entry of the rindex file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResourceIndexEntry {
    /// Block of the group's header.
    pub address: U64,
    /// Blocks of header and bitmaps.
    pub length: U32,
    pub reserved0: [u8; 4],
    /// First block that the bitmap describes.
    pub data_start: U64,
    /// Number of blocks that the bitmap describes.
    pub data_blocks: U32,
    /// Bytes of bitmap: a quarter of `data_blocks`.
    pub bitmap_bytes: U32,
    pub reserved1: [u8; 64],
}

const _: () = assert!(size_of::<ResourceIndexEntry>() == 96);

/// `struct gfs2_rgrp`: the first block of a group starts with it, then comes the bitmap.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ResourceGroup {
    pub header: MetaHeader,
    pub flags: U32,
    /// Free blocks.
    pub free: U32,
    /// Dinodes in use.
    pub dinodes: U32,
    /// Blocks from this header to the next; 0 in the last group and in old filesystems.
    pub skip: U32,
    /// The next formal number to give to an inode made in this group.
    pub inode_generation: U64,
    pub data_start: U64,
    pub data_blocks: U32,
    pub bitmap_bytes: U32,
    /// CRC-32 of this structure with this field zero; 0 in filesystems made before it existed.
    pub crc: U32,
    pub reserved: [u8; 60],
}

const _: () = assert!(size_of::<ResourceGroup>() == 128);
const _: () = assert!(std::mem::offset_of!(ResourceGroup, crc) == 64);

impl ResourceGroup {
    /// Sets `crc` from the other fields.
    pub fn seal(&mut self) {
        self.crc = 0.into();
        self.crc = crc32fast::hash(self.as_bytes()).into();
    }

    /// Whether `crc` fits, or is the 0 of an old filesystem.
    pub fn is_sealed(&self) -> bool {
        let mut copy = *self;
        copy.seal();
        self.crc.get() == 0 || self.crc == copy.crc
    }
}
