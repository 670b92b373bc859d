//! The header that every metadata block starts with, and the inode number pair.

use std::fmt;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of every metadata block.
pub const MAGIC: u32 = 0x0116_1970;

/// What a metadata block is (`mh_type`), with the format number (`mh_format`) that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum MetaType {
    Superblock = 1,
    ResourceGroup = 2,
    ResourceGroupBitmap = 3,
    Dinode = 4,
    Indirect = 5,
    Leaf = 6,
    /// Journaled data: hash tables of directories, journaled files, system files.
    JournaledData = 7,
    LogHeader = 8,
    LogDescriptor = 9,
    ExtendedAttribute = 10,
    ExtendedAttributeData = 11,
    /// Continuation of a revoke descriptor in the journal.
    LogBlock = 12,
    QuotaChange = 14,
}

impl MetaType {
    pub const ALL: [MetaType; 13] = [
        MetaType::Superblock,
        MetaType::ResourceGroup,
        MetaType::ResourceGroupBitmap,
        MetaType::Dinode,
        MetaType::Indirect,
        MetaType::Leaf,
        MetaType::JournaledData,
        MetaType::LogHeader,
        MetaType::LogDescriptor,
        MetaType::ExtendedAttribute,
        MetaType::ExtendedAttributeData,
        MetaType::LogBlock,
        MetaType::QuotaChange,
    ];

    /// The `mh_format` of this type (`GFS2_FORMAT_*`).
    pub const fn format(self) -> u32 {
        match self {
            MetaType::Superblock => 100,
            MetaType::ResourceGroup => 200,
            MetaType::ResourceGroupBitmap => 300,
            MetaType::Dinode => 400,
            MetaType::Indirect => 500,
            MetaType::Leaf => 600,
            MetaType::JournaledData => 700,
            MetaType::LogHeader => 800,
            MetaType::LogDescriptor => 900,
            MetaType::LogBlock => 1000,
            MetaType::ExtendedAttribute => 1600,
            MetaType::ExtendedAttributeData => 1700,
            MetaType::QuotaChange => 1400,
        }
    }

    /// From `mh_type`.
    pub fn from_number(number: u32) -> Option<MetaType> {
        MetaType::ALL.into_iter().find(|t| *t as u32 == number)
    }
}

/// `struct gfs2_meta_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MetaHeader {
    pub magic: U32,
    pub kind: U32,
    pub reserved0: U64,
    pub format: U32,
    /// Journal that last logged the block; informative.
    pub journal: U32,
}

const _: () = assert!(size_of::<MetaHeader>() == 24);

/// Why a block is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    TooShort { len: usize },
    Magic { found: u32 },
    Kind { expected: MetaType, found: u32 },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { len } => write!(f, "expected a metadata header, found only {len} bytes"),
            Self::Magic { found } => write!(f, "expected magic 0x{MAGIC:08x}, found 0x{found:08x}"),
            Self::Kind { expected, found } => {
                write!(f, "expected a block of type {} ({expected:?}), found type {found}", *expected as u32)
            }
        }
    }
}

impl MetaHeader {
    /// A header of the given type.
    pub fn new(kind: MetaType) -> MetaHeader {
        MetaHeader {
            magic: MAGIC.into(),
            kind: (kind as u32).into(),
            reserved0: 0.into(),
            format: kind.format().into(),
            journal: 0.into(),
        }
    }

    /// Whether `block` starts with the magic and is of type `expected`.
    pub fn check(block: &[u8], expected: MetaType) -> Result<(), HeaderError> {
        let (header, _) = MetaHeader::ref_from_prefix(block).map_err(|_| HeaderError::TooShort { len: block.len() })?;
        if header.magic.get() != MAGIC {
            return Err(HeaderError::Magic { found: header.magic.get() });
        }
        if header.kind.get() != expected as u32 {
            return Err(HeaderError::Kind { expected, found: header.kind.get() });
        }
        Ok(())
    }

    /// The type of a block that starts with the magic; `None` for anything else.
    pub fn kind_of(block: &[u8]) -> Option<MetaType> {
        let (header, _) = MetaHeader::ref_from_prefix(block).ok()?;
        (header.magic.get() == MAGIC).then(|| MetaType::from_number(header.kind.get())).flatten()
    }
}

/// `struct gfs2_inum`: the formal number tells two inodes at one address apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct InodeNumberPair {
    pub formal: U64,
    /// Block of the dinode.
    pub address: U64,
}

const _: () = assert!(size_of::<InodeNumberPair>() == 16);
