//! Log headers and descriptors of a journal.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::header::MetaHeader;

/// Flags of `lh_flags`.
pub mod flags {
    /// The log is clean: nothing behind this header needs replaying.
    pub const UNMOUNT: u32 = 0x0000_0001;
    pub const FLUSH_NORMAL: u32 = 0x0000_0002;
    pub const FLUSH_SYNC: u32 = 0x0000_0004;
    pub const FLUSH_SHUTDOWN: u32 = 0x0000_0008;
    pub const FLUSH_FREEZE: u32 = 0x0000_0010;
    pub const RECOVERY: u32 = 0x0000_0020;
    pub const USERSPACE: u32 = 0x8000_0000;
    /// Why it was flushed (`GFS2_LFC_*`); informative.
    pub const CAUSE_SHUTDOWN: u32 = 0x0000_0100;
    pub const CAUSE_DEMOTE: u32 = 0x0000_0800;
    pub const CAUSE_SYNC: u32 = 0x0004_0000;

    /// Every flag with its name, as `gfs2_edit` spells it, by rising bit.
    pub const NAMES: [(u32, &str); 26] = [
        (UNMOUNT, "UNMOUNT"),
        (FLUSH_NORMAL, "NORMAL"),
        (FLUSH_SYNC, "SYNC"),
        (FLUSH_SHUTDOWN, "SHUTDOWN"),
        (FLUSH_FREEZE, "FREEZE"),
        (RECOVERY, "RECOVERY"),
        (USERSPACE, "USERSPACE"),
        (CAUSE_SHUTDOWN, "SHUTDOWN"),
        (0x0000_0200, "JDATA_WPAGES"),
        (0x0000_0400, "SET_FLAGS"),
        (CAUSE_DEMOTE, "AIL_EMPTY_GL"),
        (0x0000_1000, "AIL_FLUSH"),
        (0x0000_2000, "RGRP_GO_SYNC"),
        (0x0000_4000, "INODE_GO_SYNC"),
        (0x0000_8000, "INODE_GO_INVAL"),
        (0x0001_0000, "FREEZE_GO_SYNC"),
        (0x0002_0000, "KILL_SB"),
        (CAUSE_SYNC, "DO_SYNC"),
        (0x0008_0000, "INPLACE_RESERVE"),
        (0x0010_0000, "WRITE_INODE"),
        (0x0020_0000, "MAKE_FS_RO"),
        (0x0040_0000, "SYNC_FS"),
        (0x0080_0000, "EVICT_INODE"),
        (0x0100_0000, "TRANS_END"),
        (0x0200_0000, "LOGD_JFLUSH_REQD"),
        (0x0400_0000, "LOGD_AIL_FLUSH_REQD"),
    ];

    /// The names of the flags that are set; what has no name is left out.
    pub fn names(flags: u32) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(flag, _)| flags & flag != 0).map(|(_, name)| name)
    }
}

/// `struct gfs2_log_header`: one per commit. Version 1 ends with `hash`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogHeader {
    pub header: MetaHeader,
    pub sequence: U64,
    pub flags: U32,
    /// Block within the journal where the oldest needed entry starts.
    pub tail: U32,
    /// Block within the journal of this header.
    pub block: U32,
    /// CRC-32 up to here with this field zero.
    pub hash: U32,
    /// CRC-32C from the next field to the end of the block.
    pub crc: U32,
    pub nanos: U32,
    pub seconds: U64,
    /// Block address of this header.
    pub address: U64,
    /// Address of the journal's dinode.
    pub journal_inode: U64,
    /// Address of the node's statfs_change dinode.
    pub statfs_inode: U64,
    /// Address of the node's quota_change dinode.
    pub quota_inode: U64,
    /// The node's unsynced difference to the master statfs, in two's complement.
    pub local_total: U64,
    pub local_free: U64,
    pub local_dinodes: U64,
}

const _: () = assert!(size_of::<LogHeader>() == 120);
const _: () = assert!(std::mem::offset_of!(LogHeader, crc) == 48);

/// Bytes that `hash` covers.
pub const LOG_HEADER_V1_BYTES: usize = 48;

/// Why a block is not a log header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogHeaderError {
    NotALogHeader,
    Hash,
    Crc,
    Block { expected: u32, found: u32 },
}

impl LogHeader {
    /// Puts `self` at the start of `block` (the rest zero) with both checksums.
    pub fn encode(mut self, block: &mut [u8]) {
        block.fill(0);
        self.hash = 0.into();
        self.crc = 0.into();
        self.hash = crc32fast::hash(&self.as_bytes()[..LOG_HEADER_V1_BYTES]).into();
        block[..size_of::<LogHeader>()].copy_from_slice(self.as_bytes());
        self.crc = crate::checksum::log_crc(&block[LOG_HEADER_V1_BYTES + 4..]).into();
        block[LOG_HEADER_V1_BYTES..LOG_HEADER_V1_BYTES + 4].copy_from_slice(self.crc.as_bytes());
    }

    /// Reads a header at journal block `expected_block` and checks both checksums; a zero crc is
    /// a version 1 header.
    pub fn decode(block: &[u8], expected_block: u32) -> Result<LogHeader, LogHeaderError> {
        use crate::header::MetaType;
        MetaHeader::check(block, MetaType::LogHeader).map_err(|_| LogHeaderError::NotALogHeader)?;
        let (header, _) = LogHeader::read_from_prefix(block).map_err(|_| LogHeaderError::NotALogHeader)?;
        let mut unhashed = header;
        unhashed.hash = 0.into();
        if crc32fast::hash(&unhashed.as_bytes()[..LOG_HEADER_V1_BYTES]) != header.hash.get() {
            return Err(LogHeaderError::Hash);
        }
        if header.crc.get() != 0 && crate::checksum::log_crc(&block[LOG_HEADER_V1_BYTES + 4..]) != header.crc.get() {
            return Err(LogHeaderError::Crc);
        }
        if header.block.get() != expected_block {
            return Err(LogHeaderError::Block { expected: expected_block, found: header.block.get() });
        }
        Ok(header)
    }
}

/// `ld_type` of a descriptor.
pub mod descriptor {
    pub const METADATA: u32 = 300;
    pub const REVOKE: u32 = 301;
    pub const JOURNALED_DATA: u32 = 302;
}

/// `struct gfs2_log_descriptor`: block numbers or revokes follow in the same block.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogDescriptor {
    pub header: MetaHeader,
    /// One of `descriptor::*`.
    pub kind: U32,
    /// Blocks of this chunk, this one included.
    pub length: U32,
    /// Number of blocks, or of revokes.
    pub count: U32,
    pub reserved0: U32,
    pub reserved1: [u8; 32],
}

const _: () = assert!(size_of::<LogDescriptor>() == 72);

impl std::fmt::Display for LogHeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotALogHeader => write!(f, "not a log header"),
            Self::Hash => write!(f, "the checksum of its first {LOG_HEADER_V1_BYTES} bytes is wrong"),
            Self::Crc => write!(f, "the checksum of the rest of its block is wrong"),
            Self::Block { expected, found } => write!(f, "expected log block {expected}, found {found}"),
        }
    }
}
