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

/// A record of a block of directory entries.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Bytes from the start of the records.
    pub offset: usize,
    pub dirent: &'a Dirent,
    /// Empty for a record without an entry.
    pub name: &'a [u8],
}

impl Record<'_> {
    /// Whether it holds an entry; the kernel takes a zero in either half for none.
    pub fn is_entry(&self) -> bool {
        self.dirent.inode.address.get() != 0 && self.dirent.inode.formal.get() != 0
    }
}

/// Why a record is refused; what follows it cannot be found any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Bytes from the start of the records.
    pub offset: usize,
    pub fault: RecordFault,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// `record_len` is not a multiple of 8, less than a record's fixed part, or more than is left.
    Length { found: usize, left: usize },
    /// The name does not fit the record, or is empty.
    NameLength { found: usize, record_len: usize },
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "directory record at byte {}: ", self.offset)?;
        match self.fault {
            RecordFault::Length { found, left } => {
                write!(f, "expected a length from {DIRENT_BYTES} to {left} in steps of 8, found {found}")
            }
            RecordFault::NameLength { found, record_len } => {
                write!(f, "expected a name that fits a record of {record_len} bytes, found {found} bytes")
            }
        }
    }
}

/// The records that fill `area`: behind a dinode or behind a leaf's header. Ends behind the first
/// error.
pub fn records(area: &[u8]) -> Records<'_> {
    Records { area, offset: 0 }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    area: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.area.get(self.offset..).filter(|rest| !rest.is_empty())?;
        let record = record(rest, self.offset);
        self.offset = match &record {
            Ok(record) => self.offset + usize::from(record.dirent.record_len.get()),
            Err(_) => self.area.len(),
        };
        Some(record)
    }
}

fn record(rest: &[u8], offset: usize) -> Result<Record<'_>, RecordError> {
    let length = |found| RecordError { offset, fault: RecordFault::Length { found, left: rest.len() } };
    let (dirent, behind) = Dirent::ref_from_prefix(rest).map_err(|_| length(rest.len()))?;
    let record_len = usize::from(dirent.record_len.get());
    if record_len < DIRENT_BYTES || record_len % 8 != 0 || record_len > rest.len() {
        return Err(length(record_len));
    }
    let whole = Record { offset, dirent, name: &[] };
    if !whole.is_entry() {
        return Ok(whole);
    }
    let found = usize::from(dirent.name_len.get());
    match behind.get(..found) {
        Some(name) if found > 0 && DIRENT_BYTES + found <= record_len => Ok(Record { name, ..whole }),
        _ => Err(RecordError { offset, fault: RecordFault::NameLength { found, record_len } }),
    }
}
