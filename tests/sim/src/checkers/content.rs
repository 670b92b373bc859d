//! The model of one file's bytes: extents by offset, each filled by one write with a pattern that
//! says which write and which byte of it. So a lost, torn, misplaced or stale write shows.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;

use super::history::By;
use super::linear::Model;

/// Number of a write, unique in a run.
pub type Tag = u32;

/// What was done with a file's bytes, and what came of it.
pub enum ContentOperation {
    /// A read of up to `len` bytes gave these.
    Read { offset: u64, len: u64, bytes: Bytes },
    /// A page of a cache holds these; beyond the file's end it holds zeroes.
    Page { offset: u64, bytes: Bytes },
    /// The size was seen.
    Size(u64),
    /// `len` bytes of pattern `tag` were written; `None` is the end of the file.
    Write { offset: Option<u64>, len: u64, tag: Tag },
    /// The file was cut or extended.
    Truncate(u64),
    /// A range was made a hole; the size stays.
    Punch { offset: u64, len: u64 },
    /// The file is at least so long.
    Extend { to: u64 },
}

/// An operation with who did it, for reports.
pub struct ContentEvent {
    pub by: By,
    pub operation: ContentOperation,
}

/// Bytes of a file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    /// Keyed by offset; never overlapping; holes read as zeroes.
    extents: Rc<BTreeMap<u64, Extent>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Extent {
    end: u64,
    tag: Tag,
    /// Offset at which the write began, of which this may be a part.
    base: u64,
}

/// Byte `index` of the pattern of `tag`: never 0, which is a hole's.
pub fn pattern_byte(tag: Tag, index: u64) -> u8 {
    let mixed = (u64::from(tag) << 20 | index >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (8 * (index & 7))) as u8 | 1
}

/// The first `len` bytes of the pattern of `tag`.
pub fn pattern(tag: Tag, len: u64) -> Bytes {
    (0..len).map(|index| pattern_byte(tag, index)).collect()
}

impl Content {
    fn write(&mut self, offset: u64, len: u64, tag: Tag) {
        let end = offset + len;
        self.clear(offset, end);
        Rc::make_mut(&mut self.extents).insert(offset, Extent { end, tag, base: offset });
        self.size = self.size.max(end);
    }

    fn truncate(&mut self, size: u64) {
        self.clear(size, u64::MAX);
        self.size = size;
    }

    /// Takes `from..to` out of all extents.
    fn clear(&mut self, from: u64, to: u64) {
        let extents = Rc::make_mut(&mut self.extents);
        let touched: Vec<_> =
            extents.range(..to).filter(|(_, extent)| extent.end > from).map(|(at, extent)| (*at, *extent)).collect();
        for (at, extent) in touched {
            extents.remove(&at);
            if at < from {
                extents.insert(at, Extent { end: from, ..extent });
            }
            if extent.end > to {
                extents.insert(to, extent);
            }
        }
    }

    /// The first position at which `bytes`, read at `offset`, differ from what is there.
    fn differs_at(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let end = offset + bytes.len() as u64;
        let slice = |from: u64, to: u64| &bytes[(from - offset) as usize..(to - offset) as usize];
        let hole = |from: u64, to: u64| slice(from, to).iter().position(|byte| *byte != 0).map(|at| from + at as u64);
        let mut position = offset;
        for (at, extent) in self.extents.range(..end).filter(|(_, extent)| extent.end > offset) {
            let (from, to) = ((*at).max(offset), extent.end.min(end));
            if let Some(wrong) = hole(position, from) {
                return Some(wrong);
            }
            let wrong = slice(from, to)
                .iter()
                .zip(from..)
                .find(|(byte, place)| **byte != pattern_byte(extent.tag, place - extent.base));
            if let Some((_, place)) = wrong {
                return Some(place);
            }
            position = to;
        }
        hole(position, end)
    }

    /// What is at `offset`, in words.
    fn describe(&self, offset: u64) -> String {
        if offset >= self.size {
            return format!("nothing: the file ends at {}", self.size);
        }
        match self.extents.range(..=offset).next_back().filter(|(_, extent)| extent.end > offset) {
            Some((_, extent)) => format!("byte {} of write #{}", offset - extent.base, extent.tag),
            None => "a hole".into(),
        }
    }
}

impl Model for Content {
    type Operation = ContentEvent;

    fn step(&self, event: &ContentEvent) -> Option<Content> {
        let mut next = self.clone();
        let is_right = match &event.operation {
            ContentOperation::Read { offset, len, bytes } => {
                let expected = self.size.saturating_sub(*offset).min(*len);
                bytes.len() as u64 == expected && self.differs_at(*offset, bytes).is_none()
            }
            ContentOperation::Page { offset, bytes } => self.differs_at(*offset, bytes).is_none(),
            ContentOperation::Size(size) => *size == self.size,
            ContentOperation::Write { offset, len, tag } => {
                next.write(offset.unwrap_or(self.size), *len, *tag);
                true
            }
            ContentOperation::Truncate(size) => {
                next.truncate(*size);
                true
            }
            ContentOperation::Punch { offset, len } => {
                next.clear(*offset, offset + len);
                true
            }
            ContentOperation::Extend { to } => {
                next.size = next.size.max(*to);
                true
            }
        };
        is_right.then_some(next)
    }

    fn is_pure(event: &ContentEvent) -> bool {
        match event.operation {
            ContentOperation::Read { .. } | ContentOperation::Page { .. } | ContentOperation::Size(_) => true,
            ContentOperation::Write { .. }
            | ContentOperation::Truncate(_)
            | ContentOperation::Punch { .. }
            | ContentOperation::Extend { .. } => false,
        }
    }

    fn explain(&self, event: &ContentEvent) -> String {
        match &event.operation {
            ContentOperation::Read { offset, bytes, .. } | ContentOperation::Page { offset, bytes } => {
                match self.differs_at(*offset, bytes) {
                    Some(at) => {
                        let from = (at - offset) as usize;
                        let found = &bytes[from..bytes.len().min(from + 8)];
                        format!("size {}; at {at} has {}, the read has {found:02x?}", self.size, self.describe(at))
                    }
                    None => format!("size {}", self.size),
                }
            }
            ContentOperation::Size(_)
            | ContentOperation::Write { .. }
            | ContentOperation::Truncate(_)
            | ContentOperation::Punch { .. }
            | ContentOperation::Extend { .. } => {
                format!("size {}", self.size)
            }
        }
    }
}

impl fmt::Display for ContentEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.by)?;
        match &self.operation {
            ContentOperation::Read { offset, len, bytes } => {
                write!(f, "read of {len} at {offset} gave {} bytes", bytes.len())
            }
            ContentOperation::Page { offset, bytes } => {
                write!(f, "a cached page gave {} bytes at {offset}", bytes.len())
            }
            ContentOperation::Size(size) => write!(f, "saw size {size}"),
            ContentOperation::Write { offset: Some(offset), len, tag } => {
                write!(f, "write #{tag} of {len} at {offset}")
            }
            ContentOperation::Write { offset: None, len, tag } => write!(f, "write #{tag} of {len} at the end"),
            ContentOperation::Truncate(size) => write!(f, "truncate to {size}"),
            ContentOperation::Punch { offset, len } => write!(f, "a hole of {len} at {offset}"),
            ContentOperation::Extend { to } => write!(f, "blocks allocated, and a size of at least {to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_write_shows_over_an_earlier_one_and_a_cut_takes_both() {
        let mut content = Content::default();
        content.write(0, 100, 1);
        content.write(40, 20, 2);
        let mut expected = pattern(1, 100).to_vec();
        expected[40..60].copy_from_slice(&pattern(2, 20));
        assert_eq!(content.differs_at(0, &expected), None);
        expected[70] ^= 2;
        assert_eq!(content.differs_at(0, &expected), Some(70));
        content.truncate(50);
        content.truncate(55);
        assert_eq!(content.differs_at(45, &[&pattern(2, 10)[5..], &[0; 5]].concat()), None);
        assert_eq!(content.size, 55);
    }
}
