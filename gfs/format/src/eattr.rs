//! Extended attributes: records in their blocks, one behind the other.

use zerocopy::FromBytes;

use crate::small_files::ExtendedAttribute;

/// `kind` of a record.
pub mod kind {
    pub const UNUSED: u8 = 0;
    pub const USER: u8 = 1;
    pub const SYSTEM: u8 = 2;
    pub const SECURITY: u8 = 3;
    pub const TRUSTED: u8 = 4;
}

/// `flags`: the last record of its block.
pub const FLAG_LAST: u8 = 0x01;
/// Longest name in bytes.
pub const NAME_MAX: usize = 255;
/// Longest value in bytes.
pub const VALUE_MAX: usize = 65536;
/// Bytes of a record's fixed part.
pub const HEADER_BYTES: usize = size_of::<ExtendedAttribute>();

/// A record of an attribute block.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Bytes from the start of the records.
    pub offset: usize,
    pub header: &'a ExtendedAttribute,
    pub name: &'a [u8],
    /// The value, when it is in the record.
    pub value: &'a [u8],
    /// Block numbers of the value, big-endian, when it is not.
    pointers: &'a [u8],
}

impl<'a> Record<'a> {
    /// Whether the record holds no attribute.
    pub fn is_unused(&self) -> bool {
        self.header.kind == kind::UNUSED
    }

    /// Blocks of the value.
    pub fn pointers(&self) -> impl Iterator<Item = u64> + 'a {
        self.pointers.chunks_exact(8).map(|p| u64::from_be_bytes(p.try_into().unwrap_or_default()))
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
    /// Shorter than the fixed part or longer than what is left.
    Length { found: usize, left: usize },
    /// Name and value, or name and pointers, do not fit the record.
    Content { needed: usize, record_len: usize },
    /// A value longer than any may be, or than its blocks have room for.
    Value { found: usize, max: usize },
    /// A record without an attribute still has pointers.
    Unused { pointers: u8 },
    /// Not one of the kinds.
    Kind { found: u8 },
    /// The last record does not reach the block's end, or the one that does is not marked as the last.
    Last { end: usize, block: usize },
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "attribute record at byte {}: ", self.offset)?;
        match self.fault {
            RecordFault::Length { found, left } => {
                write!(f, "expected a length from {HEADER_BYTES} to {left}, found {found}")
            }
            RecordFault::Content { needed, record_len } => {
                write!(f, "expected content that fits {record_len} bytes, found {needed} bytes")
            }
            RecordFault::Value { found, max } => write!(f, "expected a value up to {max} bytes, found {found}"),
            RecordFault::Unused { pointers } => {
                write!(f, "expected no pointers in an unused record, found {pointers}")
            }
            RecordFault::Kind { found } => write!(f, "expected a kind from 0 to 4, found {found}"),
            RecordFault::Last { end, block } => {
                write!(f, "expected the last record to end at byte {block}, found its end at {end}")
            }
        }
    }
}

/// The records of `area`: an attribute block behind its header. Ends behind the first error.
pub fn records(area: &[u8]) -> Records<'_> {
    Records { area, offset: 0, ended: false }
}

/// See [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    area: &'a [u8],
    offset: usize,
    ended: bool,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let rest = self.area.get(self.offset..).unwrap_or_default();
        let record = record(rest, self.offset, self.area.len());
        match &record {
            Ok(record) => {
                self.ended = record.header.flags & FLAG_LAST != 0;
                self.offset += record.header.record_len.get() as usize;
            }
            Err(_) => self.ended = true,
        }
        Some(record)
    }
}

fn record(rest: &[u8], offset: usize, block: usize) -> Result<Record<'_>, RecordError> {
    let fail = |fault| RecordError { offset, fault };
    let (header, behind) = ExtendedAttribute::ref_from_prefix(rest)
        .map_err(|_| fail(RecordFault::Length { found: rest.len(), left: rest.len() }))?;
    let record_len = header.record_len.get() as usize;
    if record_len < HEADER_BYTES || record_len > rest.len() {
        return Err(fail(RecordFault::Length { found: record_len, left: rest.len() }));
    }
    if header.kind > kind::TRUSTED {
        return Err(fail(RecordFault::Kind { found: header.kind }));
    }
    let end = offset + record_len;
    if (header.flags & FLAG_LAST != 0) != (end == block) {
        return Err(fail(RecordFault::Last { end, block }));
    }
    if header.kind == kind::UNUSED {
        if header.pointer_count != 0 {
            return Err(fail(RecordFault::Unused { pointers: header.pointer_count }));
        }
        return Ok(Record { offset, header, name: &[], value: &[], pointers: &[] });
    }
    let name_len = usize::from(header.name_len);
    let pointer_bytes = usize::from(header.pointer_count) * 8;
    // Pointers start at a multiple of 8 behind the name.
    let (value, pointers) = match header.pointer_count {
        0 => (name_len..name_len.saturating_add(header.value_len.get() as usize), 0..0),
        _ => (0..0, name_len.next_multiple_of(8)..name_len.next_multiple_of(8) + pointer_bytes),
    };
    let value_len = header.value_len.get() as usize;
    // A value block has as many bytes as the records of a block have.
    let room = usize::from(header.pointer_count) * block;
    if value_len > VALUE_MAX || header.pointer_count != 0 && room < value_len {
        let max = if header.pointer_count == 0 { VALUE_MAX } else { room.min(VALUE_MAX) };
        return Err(fail(RecordFault::Value { found: value_len, max }));
    }
    let needed = HEADER_BYTES + value.end.max(pointers.end).max(name_len);
    let content = fail(RecordFault::Content { needed, record_len });
    if needed > record_len {
        return Err(content);
    }
    let name = behind.get(..name_len).ok_or(content)?;
    let value = behind.get(value).ok_or(content)?;
    let pointers = behind.get(pointers).ok_or(content)?;
    Ok(Record { offset, header, name, value, pointers })
}
