//! All extended attributes of an inode in memory, as they are spread over its blocks.
//!
//! A change happens here first. Blocks that it makes free are used again before new ones are
//! asked for; what is then still needed or left over is for `disk` to allocate or to free.

use gfs_format::BlockSize;
use gfs_format::eattr::{self, VALUE_MAX};

use super::name::XattrName;
use crate::error::{Error, Result};

/// A block of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// One that the inode has.
    At(u64),
    /// The n-th that is still to be allocated.
    New(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Inline(Vec<u8>),
    Blocks { value_len: usize, at: Vec<Slot> },
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub kind: u8,
    pub name: Vec<u8>,
    pub content: Content,
    pub reserved: [u8; 4],
}

impl Record {
    pub fn is_named(&self, name: &XattrName) -> bool {
        self.kind == name.space.kind() && self.name == name.name
    }

    fn encoded_len(&self) -> usize {
        match &self.content {
            Content::Inline(value) => eattr::inline_len(self.name.len(), value.len()),
            Content::Blocks { at, .. } => eattr::pointers_len(self.name.len(), at.len()),
        }
    }
}

/// A block of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordBlock {
    pub at: Slot,
    pub records: Vec<Record>,
    pub has_changed: bool,
}

impl RecordBlock {
    fn used(&self) -> usize {
        self.records.iter().map(Record::encoded_len).sum()
    }
}

/// The attributes of an inode.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(super) size: BlockSize,
    /// The block of pointers to blocks of records; without it there is at most one of these.
    pub(super) index: Option<Slot>,
    pub(super) index_has_changed: bool,
    pub(super) blocks: Vec<RecordBlock>,
    /// Values to write, a block's worth each.
    pub(super) values: Vec<(Slot, Vec<u8>)>,
    /// The inode's blocks that hold nothing any more.
    pub(super) spare: Vec<u64>,
    /// Blocks to allocate.
    pub(super) new_count: usize,
}

impl Store {
    pub fn new(size: BlockSize) -> Store {
        Store {
            size,
            index: None,
            index_has_changed: false,
            blocks: Vec::new(),
            values: Vec::new(),
            spare: Vec::new(),
            new_count: 0,
        }
    }

    /// Bytes of records, or of a value, in a block.
    pub(super) fn area(&self) -> usize {
        area(self.size)
    }

    pub fn has(&self, name: &XattrName) -> bool {
        self.find(name).is_some()
    }

    /// The blocks that the inode has.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        let values = self.blocks.iter().flat_map(|block| &block.records).flat_map(|record| match &record.content {
            Content::Inline(_) => &[][..],
            Content::Blocks { at, .. } => &at[..],
        });
        let records = self.blocks.iter().map(|block| &block.at);
        self.index.iter().chain(records).chain(values).copied().filter_map(number)
    }

    fn find(&self, name: &XattrName) -> Option<(usize, usize)> {
        self.blocks.iter().enumerate().find_map(|(block, records)| {
            Some((block, records.records.iter().position(|record| record.is_named(name))?))
        })
    }

    /// Blocks that change, values included.
    pub fn changed_count(&self) -> usize {
        usize::from(self.index_has_changed)
            + self.blocks.iter().filter(|block| block.has_changed).count()
            + self.values.len()
    }

    /// Removes an attribute; false if there is none.
    pub fn remove(&mut self, name: &XattrName) -> bool {
        let Some((block, record)) = self.find(name) else { return false };
        let removed = self.blocks[block].records.remove(record);
        self.blocks[block].has_changed = true;
        if let Content::Blocks { at, .. } = removed.content {
            self.values.retain(|(slot, _)| !at.contains(slot));
            at.into_iter().for_each(|slot| self.release(slot));
        }
        if self.blocks[block].records.is_empty() {
            let empty = self.blocks.remove(block);
            self.release(empty.at);
            self.index_has_changed = self.index.is_some();
            if self.blocks.len() < 2
                && let Some(index) = self.index.take()
            {
                self.release(index);
                self.index_has_changed = false;
            }
        }
        true
    }

    /// Sets an attribute, old or new. On an error the store is not to be used any more.
    pub fn set(&mut self, name: &XattrName, value: &[u8]) -> Result<()> {
        let pieces = self.check(name, value)?;
        let place = self.find(name);
        let reserved = place.map_or([0; 4], |(block, record)| self.blocks[block].records[record].reserved);
        let before = place.map(|(block, _)| self.blocks[block].at);
        self.remove(name);
        let content = match pieces {
            0 => Content::Inline(value.to_vec()),
            pieces => {
                let at: Vec<Slot> = (0..pieces).map(|_| self.take()).collect();
                let chunks = value.chunks(self.area()).map(<[u8]>::to_vec);
                self.values.extend(at.iter().copied().zip(chunks));
                Content::Blocks { value_len: value.len(), at }
            }
        };
        self.insert(Record { kind: name.space.kind(), name: name.name.clone(), content, reserved }, before)
    }

    /// How many blocks the value needs of its own; 0 if it fits into its record.
    fn check(&self, name: &XattrName, value: &[u8]) -> Result<usize> {
        if value.len() > VALUE_MAX {
            return Err(Error::XattrTooLarge);
        }
        if eattr::inline_len(name.name.len(), value.len()) <= self.area() {
            return Ok(0);
        }
        let pieces = value.len().div_ceil(self.area());
        // Only with blocks of 512 bytes.
        if eattr::pointers_len(name.name.len(), pieces) > self.area() || pieces > usize::from(u8::MAX) {
            return Err(Error::XattrTooLarge);
        }
        Ok(pieces)
    }

    /// Puts a record where there is room: in the block it was in if it can be.
    fn insert(&mut self, record: Record, before: Option<Slot>) -> Result<()> {
        let needed = record.encoded_len();
        let area = self.area();
        let has_room = |block: &RecordBlock| block.used() + needed <= area;
        let same = self.blocks.iter().position(|block| Some(block.at) == before && has_room(block));
        if let Some(number) = same.or_else(|| self.blocks.iter().position(has_room)) {
            let block = &mut self.blocks[number];
            block.records.push(record);
            block.has_changed = true;
            return Ok(());
        }
        let pointers_max = usize::try_from(self.size.indirect_pointers()).unwrap_or(usize::MAX);
        if self.blocks.len() >= pointers_max {
            return Err(Error::NoSpace);
        }
        if !self.blocks.is_empty() && self.index.is_none() {
            self.index = Some(self.take());
        }
        self.index_has_changed = self.index.is_some();
        let at = self.take();
        self.blocks.push(RecordBlock { at, records: vec![record], has_changed: true });
        Ok(())
    }

    /// Takes about `most` blocks out of the store, last attributes first; for an inode that is
    /// being freed. At least one if there is any.
    pub fn cut(&mut self, most: usize) {
        while self.spare.len() < most {
            let Some(block) = self.blocks.last_mut() else { break };
            let Some(record) = block.records.last_mut() else {
                self.spare.extend(number(block.at));
                self.blocks.pop();
                self.index_has_changed = self.index.is_some();
                continue;
            };
            block.has_changed = true;
            match &mut record.content {
                Content::Blocks { value_len, at } if at.len() > 1 => {
                    let area = area(self.size);
                    self.spare.extend(at.pop().and_then(number));
                    *value_len = (*value_len).min(at.len() * area);
                }
                Content::Blocks { at, .. } => {
                    self.spare.extend(at.iter().copied().filter_map(number));
                    block.records.pop();
                }
                Content::Inline(_) => drop(block.records.pop()),
            }
        }
        if self.blocks.is_empty()
            && let Some(index) = self.index.take()
        {
            self.spare.extend(number(index));
            self.index_has_changed = false;
        }
    }

    fn take(&mut self) -> Slot {
        if self.spare.is_empty() {
            self.new_count += 1;
            return Slot::New(self.new_count - 1);
        }
        Slot::At(self.spare.remove(0))
    }

    /// Only blocks that the inode has are ever given back: what was set is not removed before it was
    /// written.
    fn release(&mut self, slot: Slot) {
        self.spare.extend(number(slot));
    }
}

fn number(slot: Slot) -> Option<u64> {
    match slot {
        Slot::At(number) => Some(number),
        Slot::New(_) => None,
    }
}

/// Bytes of records, or of a value, in a block.
pub(super) fn area(size: BlockSize) -> usize {
    usize::try_from(size.journaled_bytes()).expect("invariant: at most 65536")
}
