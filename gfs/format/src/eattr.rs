//! Extended attributes: records in their blocks, one behind the other.

use zerocopy::{FromBytes, IntoBytes};

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
/// Records start, and pointers in them lie, at multiples of this.
const ALIGNMENT: usize = 8;

/// What a record says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// The value's length and the blocks that it fills one after the other, each behind its header.
    Blocks { value_len: usize, pointers: &'a [u64] },
}

/// A record to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Of `kind`.
    pub kind: u8,
    pub name: &'a [u8],
    pub content: Content<'a>,
    /// As it was read; zero in a new record.
    pub reserved: [u8; 4],
}

/// Bytes that a record with its value inside takes.
pub fn inline_len(name_len: usize, value_len: usize) -> usize {
    (HEADER_BYTES + name_len + value_len).next_multiple_of(ALIGNMENT)
}

/// Bytes that a record with pointers takes.
pub fn pointers_len(name_len: usize, pointers: usize) -> usize {
    HEADER_BYTES + name_len.next_multiple_of(ALIGNMENT) + pointers * size_of::<u64>()
}

impl NewRecord<'_> {
    /// Bytes that it takes.
    pub fn encoded_len(&self) -> usize {
        match self.content {
            Content::Inline(value) => inline_len(self.name.len(), value.len()),
            Content::Blocks { pointers, .. } => pointers_len(self.name.len(), pointers.len()),
        }
    }
}

/// Why records cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A name, a value or a number of pointers that its field cannot hold.
    Field,
    /// More than the block holds.
    Room { needed: usize, room: usize },
}

/// Fills `area`, an attribute block behind its header, with records; the last takes what is left.
/// Without a record it is one unused record.
pub fn encode(records: &[NewRecord<'_>], area: &mut [u8]) -> Result<(), EncodeError> {
    let needed: usize = records.iter().map(NewRecord::encoded_len).sum();
    let room = area.len();
    if needed > room {
        return Err(EncodeError::Room { needed, room });
    }
    area.fill(0);
    let unused = NewRecord { kind: kind::UNUSED, name: &[], content: Content::Inline(&[]), reserved: [0; 4] };
    let all = if records.is_empty() { std::slice::from_ref(&unused) } else { records };
    let mut at = 0;
    for (number, record) in all.iter().enumerate() {
        let is_last = number + 1 == all.len();
        let end = if is_last { room } else { at + record.encoded_len() };
        encode_one(record, is_last, &mut area[at..end])?;
        at = end;
    }
    Ok(())
}

fn encode_one(record: &NewRecord<'_>, is_last: bool, into: &mut [u8]) -> Result<(), EncodeError> {
    let field = |_| EncodeError::Field;
    let (value_len, pointers) = match record.content {
        Content::Inline(value) => (value.len(), &[][..]),
        Content::Blocks { value_len, pointers } => (value_len, pointers),
    };
    let header = ExtendedAttribute {
        record_len: u32::try_from(into.len()).map_err(field)?.into(),
        value_len: u32::try_from(value_len).map_err(field)?.into(),
        name_len: u8::try_from(record.name.len()).map_err(field)?,
        kind: record.kind,
        flags: if is_last { FLAG_LAST } else { 0 },
        pointer_count: u8::try_from(pointers.len()).map_err(field)?,
        reserved: record.reserved,
    };
    into[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    let behind = &mut into[HEADER_BYTES..];
    behind[..record.name.len()].copy_from_slice(record.name);
    match record.content {
        Content::Inline(value) => behind[record.name.len()..][..value.len()].copy_from_slice(value),
        Content::Blocks { pointers, .. } => {
            let places = behind[record.name.len().next_multiple_of(ALIGNMENT)..].chunks_exact_mut(size_of::<u64>());
            for (place, pointer) in places.zip(pointers) {
                place.copy_from_slice(&pointer.to_be_bytes());
            }
        }
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back_and_fills_the_block() {
        let pointers = [70, 71, 90];
        let written = [
            NewRecord { kind: kind::USER, name: b"a", content: Content::Inline(b"value"), reserved: [1, 2, 3, 4] },
            NewRecord {
                kind: kind::SECURITY,
                name: b"long-one",
                content: Content::Blocks { value_len: 1400, pointers: &pointers },
                reserved: [0; 4],
            },
            NewRecord { kind: kind::TRUSTED, name: &[b'n'; 255], content: Content::Inline(b""), reserved: [0; 4] },
        ];
        let mut area = vec![0xee; 488];
        encode(&written, &mut area).expect("fits");
        let read: Vec<_> = records(&area).map(|record| record.expect("valid")).collect();
        assert_eq!(read.len(), 3);
        assert_eq!((read[0].name, read[0].value, read[0].header.reserved), (&b"a"[..], &b"value"[..], [1, 2, 3, 4]));
        assert_eq!(read[1].pointers().collect::<Vec<_>>(), pointers);
        assert_eq!(read[1].header.value_len.get(), 1400);
        assert_eq!((read[2].name.len(), read[2].value.len(), read[2].header.kind), (255, 0, kind::TRUSTED));
    }

    #[test]
    fn an_empty_block_is_one_unused_record() {
        let mut area = vec![0xee; 488];
        encode(&[], &mut area).expect("fits");
        let read: Vec<_> = records(&area).collect::<Result<_, _>>().expect("valid");
        assert!(read.len() == 1 && read[0].is_unused());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = NewRecord { kind: kind::USER, name: b"n", content: Content::Inline(&[0; 480]), reserved: [0; 4] };
        assert_eq!(encode(&[long], &mut [0; 488]), Err(EncodeError::Room { needed: 504, room: 488 }));
        let named = NewRecord { name: &[b'n'; 256], content: Content::Inline(&[]), ..long };
        assert_eq!(encode(&[named], &mut [0; 488]), Err(EncodeError::Field));
    }
}
