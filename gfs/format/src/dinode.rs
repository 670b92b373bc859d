//! The dinode: one block per inode; behind the header come stuffed data or pointers.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::{InodeNumberPair, MetaHeader};

/// Flags of `di_flags`.
pub mod flags {
    pub const JDATA: u32 = 0x0000_0001;
    pub const EXHASH: u32 = 0x0000_0002;
    pub const EA_INDIRECT: u32 = 0x0000_0008;
    pub const DIRECT_IO: u32 = 0x0000_0010;
    pub const IMMUTABLE: u32 = 0x0000_0020;
    pub const APPEND_ONLY: u32 = 0x0000_0040;
    pub const NO_ATIME: u32 = 0x0000_0080;
    pub const SYNC: u32 = 0x0000_0100;
    pub const SYSTEM: u32 = 0x0000_0200;
    pub const TOP_DIRECTORY: u32 = 0x0000_0400;
    pub const TRUNCATE_IN_PROGRESS: u32 = 0x2000_0000;
    pub const INHERIT_DIRECT_IO: u32 = 0x4000_0000;
    pub const INHERIT_JDATA: u32 = 0x8000_0000;

    /// Every flag with its name, by rising bit.
    pub const NAMES: [(u32, &str); 13] = [
        (JDATA, "jdata"),
        (EXHASH, "exhash"),
        (EA_INDIRECT, "ea_indirect"),
        (DIRECT_IO, "directio"),
        (IMMUTABLE, "immutable"),
        (APPEND_ONLY, "appendonly"),
        (NO_ATIME, "noatime"),
        (SYNC, "sync"),
        (SYSTEM, "system"),
        (TOP_DIRECTORY, "topdir"),
        (TRUNCATE_IN_PROGRESS, "trunc_in_prog"),
        (INHERIT_DIRECT_IO, "inherit_directio"),
        (INHERIT_JDATA, "inherit_jdata"),
    ];

    /// The names of the flags that are set.
    pub fn names(flags: u32) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(flag, _)| flags & flag != 0).map(|(_, name)| name)
    }
}

/// `di_payload_format` of a directory whose content is directory entries (`GFS2_FORMAT_DE`).
pub const PAYLOAD_DIRECTORY: u32 = 1200;
/// Of the rindex file (`GFS2_FORMAT_RI`).
pub const PAYLOAD_RESOURCE_INDEX: u32 = 1100;
/// Of the quota file (`GFS2_FORMAT_QU`).
pub const PAYLOAD_QUOTA: u32 = 1500;

/// `struct gfs2_dinode`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Dinode {
    pub header: MetaHeader,
    pub number: InodeNumberPair,
    pub mode: U32,
    pub uid: U32,
    pub gid: U32,
    pub link_count: U32,
    /// Bytes.
    pub size: U64,
    /// Filesystem blocks in use, this one included.
    pub blocks: U64,
    /// Seconds since 1970.
    pub atime: U64,
    pub mtime: U64,
    pub ctime: U64,
    pub device_major: U32,
    pub device_minor: U32,
    /// Where the next metadata block would best go.
    pub goal_meta: U64,
    /// Where the next data block would best go.
    pub goal_data: U64,
    pub generation: U64,
    pub flags: U32,
    pub payload_format: U32,
    pub reserved1: [u8; 2],
    /// Levels of pointers; 0 is stuffed.
    pub height: U16,
    pub reserved2: [u8; 4],
    pub reserved3: [u8; 2],
    /// Directories: log2 of the hash table's size.
    pub depth: U16,
    /// Directories: number of entries, `.` and `..` included.
    pub entries: U32,
    pub reserved4: InodeNumberPair,
    /// Block of extended attributes; 0 is none.
    pub eattr: U64,
    pub atime_nanos: U32,
    pub mtime_nanos: U32,
    pub ctime_nanos: U32,
    pub reserved5: [u8; 44],
}

const _: () = assert!(size_of::<Dinode>() == 232);
const _: () = assert!(std::mem::offset_of!(Dinode, size) == 56);
const _: () = assert!(std::mem::offset_of!(Dinode, flags) == 128);
const _: () = assert!(std::mem::offset_of!(Dinode, height) == 138);
const _: () = assert!(std::mem::offset_of!(Dinode, depth) == 146);
const _: () = assert!(std::mem::offset_of!(Dinode, eattr) == 168);

/// Bytes of the dinode's fixed part.
pub const DINODE_BYTES: usize = size_of::<Dinode>();
