//! The superblock, 64 KiB into the device.

use std::fmt;

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::geometry::BlockSize;
use crate::header::{HeaderError, InodeNumberPair, MetaHeader, MetaType};

/// Where the superblock lies, in bytes from the start of the device.
pub const SUPERBLOCK_OFFSET: u64 = 64 * 1024;
/// Filesystem formats that are understood (`sb_fs_format`).
pub const FORMATS: [u32; 2] = [1801, 1802];
/// `sb_multihost_format`.
pub const MULTIHOST_FORMAT: u32 = 1900;

/// `struct gfs2_sb`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Superblock {
    pub header: MetaHeader,
    pub fs_format: U32,
    pub multihost_format: U32,
    pub reserved0: [u8; 4],
    /// Bytes in a block.
    pub block_size: U32,
    pub block_size_shift: U32,
    pub reserved1: [u8; 4],
    pub master_directory: InodeNumberPair,
    pub reserved2: InodeNumberPair,
    pub root_directory: InodeNumberPair,
    /// `lock_dlm` or `lock_nolock`, NUL-terminated.
    pub lock_protocol: [u8; 64],
    /// `cluster:filesystem`, NUL-terminated.
    pub lock_table: [u8; 64],
    pub reserved3: InodeNumberPair,
    pub reserved4: InodeNumberPair,
    pub uuid: [u8; 16],
}

const _: () = assert!(size_of::<Superblock>() == 272);
const _: () = assert!(std::mem::offset_of!(Superblock, master_directory) == 48);
const _: () = assert!(std::mem::offset_of!(Superblock, lock_protocol) == 96);
const _: () = assert!(std::mem::offset_of!(Superblock, uuid) == 256);

/// Why a superblock is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockError {
    Header(HeaderError),
    Format { found: u32 },
    MultihostFormat { found: u32 },
    BlockSize { found: u32, shift: u32 },
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => write!(f, "not a GFS2 superblock: {error}"),
            Self::Format { found } => write!(f, "filesystem format {found} is unknown, expected 1801 or 1802"),
            Self::MultihostFormat { found } => {
                write!(f, "multihost format {found} is unknown, expected {MULTIHOST_FORMAT}")
            }
            Self::BlockSize { found, shift } => write!(
                f,
                "block size {found} with shift {shift}: expected a power of two from 512 to 65536 and its logarithm"
            ),
        }
    }
}

impl Superblock {
    /// Reads and validates the superblock at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, SuperblockError> {
        MetaHeader::check(bytes, MetaType::Superblock).map_err(SuperblockError::Header)?;
        let (sb, _) = Superblock::read_from_prefix(bytes)
            .map_err(|_| SuperblockError::Header(HeaderError::TooShort { len: bytes.len() }))?;
        if !FORMATS.contains(&sb.fs_format.get()) {
            return Err(SuperblockError::Format { found: sb.fs_format.get() });
        }
        if sb.multihost_format.get() != MULTIHOST_FORMAT {
            return Err(SuperblockError::MultihostFormat { found: sb.multihost_format.get() });
        }
        let (found, shift) = (sb.block_size.get(), sb.block_size_shift.get());
        match BlockSize::new(found) {
            Some(size) if size.shift() == shift => Ok(sb),
            _ => Err(SuperblockError::BlockSize { found, shift }),
        }
    }

    /// The validated block size.
    pub fn block_size(&self) -> BlockSize {
        BlockSize::new(self.block_size.get()).expect("invariant: decode() validated the block size")
    }

    /// `sb_lockproto` up to its NUL.
    pub fn lock_protocol(&self) -> &[u8] {
        until_nul(&self.lock_protocol)
    }

    /// `sb_locktable` up to its NUL.
    pub fn lock_table(&self) -> &[u8] {
        until_nul(&self.lock_table)
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or(bytes)
}
