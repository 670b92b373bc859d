//! One resource group under its exclusive glock: what is free, and changing it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gfs_format::resource_group::flags;
use gfs_format::{BlockSize, BlockState, MetaHeader, ResourceGroup, ResourceIndexEntry, bitmap};
use zerocopy::FromBytes;

use super::search::free_run;
use crate::error::{Error, Result};
use crate::glock::{Glock, Guard};
use crate::journal::{Log, Transaction};

/// A resource group as the index describes it.
#[derive(Debug)]
pub struct Group {
    /// Block of the header.
    pub address: u64,
    /// Blocks of header and bitmaps.
    pub length: u64,
    pub data_start: u64,
    pub data_blocks: u64,
    /// Free blocks when it was last seen; a hint for the choice between groups.
    pub free_hint: AtomicU64,
}

impl Group {
    /// From an entry of the index; `None` if it cannot be within `device_blocks`.
    pub fn decode(entry: &ResourceIndexEntry, size: BlockSize, device_blocks: u64) -> Option<Group> {
        let group = Group {
            address: entry.address.get(),
            length: u64::from(entry.length.get()),
            data_start: entry.data_start.get(),
            data_blocks: u64::from(entry.data_blocks.get()),
            free_hint: AtomicU64::new(u64::MAX),
        };
        let bitmap = size.group_header_bitmap_bytes() + group.length.checked_sub(1)? * size.group_bitmap_bytes();
        // Longer than its bitmap needs by more than rounding: nothing makes such a group.
        let spare = bitmap.saturating_sub(group.data_blocks.div_ceil(bitmap::BLOCKS_PER_BYTE));
        let fits = spare <= 2 * size.bytes()
            && group.data_start >= group.address.checked_add(group.length)?
            && group.data_start.checked_add(group.data_blocks)? <= device_blocks
            && bitmap * bitmap::BLOCKS_PER_BYTE >= group.data_blocks
            && group.data_blocks > 0;
        fits.then_some(group)
    }

    /// Whether the group's bitmap describes `block`.
    pub fn contains(&self, block: u64) -> bool {
        (self.data_start..self.data_start + self.data_blocks).contains(&block)
    }
}

/// Changes of one group within a transaction.
pub struct GroupEdit {
    group: Arc<Group>,
    guard: Guard,
    size: BlockSize,
    /// Header and bitmap blocks, by number in the group.
    blocks: Vec<Bytes>,
    changed: BTreeMap<usize, Vec<u8>>,
    head: ResourceGroup,
    allocated: u64,
    freed: Vec<u64>,
    dinodes: i64,
}

impl GroupEdit {
    /// `blocks` are the group's header and bitmaps as they are under `guard`.
    pub fn new(group: Arc<Group>, guard: Guard, blocks: Vec<Bytes>, size: BlockSize) -> Result<GroupEdit> {
        let (head, _) = ResourceGroup::read_from_prefix(&blocks[0]).map_err(|_| Error::Corrupt {
            block: group.address,
            expected: "a resource group header".into(),
            found: "a short block".into(),
        })?;
        if !head.is_sealed() {
            return Err(Error::Corrupt {
                block: group.address,
                expected: "a resource group header with a correct checksum".into(),
                found: format!("checksum 0x{:08x}", head.crc.get()),
            });
        }
        if u64::from(head.free.get()) > group.data_blocks {
            return Err(Error::Corrupt {
                block: group.address,
                expected: format!("at most {} free blocks", group.data_blocks),
                found: head.free.to_string(),
            });
        }
        group.free_hint.store(u64::from(head.free.get()), Ordering::Relaxed);
        let changed = BTreeMap::new();
        Ok(GroupEdit { group, guard, size, blocks, changed, head, allocated: 0, freed: Vec::new(), dinodes: 0 })
    }

    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Free blocks that may be used now: not those whose freeing is not yet committed.
    pub fn usable(&self, log: &Log) -> u64 {
        let group = &self.group;
        let free = u64::from(self.head.free.get());
        free.saturating_sub(log.blocks_being_freed(group.data_start, group.data_start + group.data_blocks))
    }

    /// Log blocks that changes of this group take at most.
    pub fn log_blocks(&self) -> u64 {
        self.group.length
    }

    /// Takes a run of at most `max` free blocks, near `goal` if it can be; `None` if nothing is
    /// left.
    pub fn allocate(&mut self, log: &Log, goal: u64, max: u64, state: BlockState) -> Option<(u64, u64)> {
        let from = if self.group.contains(goal) { goal - self.group.data_start } else { 0 };
        let (start, count) = self.search(log, from, max).or_else(|| self.search(log, 0, max))?;
        for block in start..start + count {
            self.set(block, state);
        }
        let free = u64::from(self.head.free.get()) - count;
        self.head.free = u32::try_from(free).expect("invariant: it was a u32").into();
        self.allocated += count;
        Some((start, count))
    }

    /// Takes a block for a dinode and the formal number that goes with it.
    pub fn allocate_dinode(&mut self, log: &Log, goal: u64) -> Option<(u64, u64)> {
        let (block, _) = self.allocate(log, goal, 1, BlockState::Dinode)?;
        // 0 would be taken for "no inode".
        let generation = self.head.inode_generation.get().max(1);
        self.head.inode_generation = (generation + 1).into();
        self.head.dinodes = (self.head.dinodes.get() + 1).into();
        self.dinodes += 1;
        Some((block, generation))
    }

    /// State of a block of this group.
    pub fn state(&self, block: u64) -> BlockState {
        let (index, byte_offset, bit) = self.locate(block);
        let bytes = self.changed.get(&index).map_or(&self.blocks[index][..], |changed| &changed[..]);
        bitmap::get(&bytes[byte_offset..], bit)
    }

    /// Marks the dinode at `block` as one without a name.
    pub fn mark_unlinked(&mut self, block: u64) {
        self.set(block, BlockState::Unlinked);
    }

    /// Marks an unlinked dinode as one with a name again.
    pub fn mark_linked(&mut self, block: u64) {
        self.set(block, BlockState::Dinode);
    }

    /// Frees a block of data or metadata.
    pub fn free(&mut self, block: u64) {
        self.set(block, BlockState::Free);
        self.head.free = (self.head.free.get() + 1).into();
        self.head.flags = (self.head.flags.get() & !flags::TRIMMED).into();
        self.freed.push(block);
    }

    /// Frees a dinode.
    pub fn free_dinode(&mut self, block: u64) {
        self.free(block);
        self.head.dinodes = self.head.dinodes.get().saturating_sub(1).into();
        self.dinodes -= 1;
    }

    /// Puts the changes into the transaction.
    pub fn finish(mut self, transaction: &mut Transaction<'_>) {
        let has_changed = !self.changed.is_empty();
        if !has_changed {
            return;
        }
        let glock: &Arc<Glock> = self.guard.glock();
        self.head.seal();
        let mut first = self.changed.remove(&0).unwrap_or_else(|| self.blocks[0].to_vec());
        first[..size_of::<ResourceGroup>()].copy_from_slice(zerocopy::IntoBytes::as_bytes(&self.head));
        transaction.put(glock, self.group.address, first.into());
        for (index, block) in std::mem::take(&mut self.changed) {
            transaction.put(glock, self.group.address + index as u64, block.into());
        }
        transaction.note_allocated(self.allocated);
        for block in &self.freed {
            transaction.note_freed(glock, *block);
        }
        transaction.note_dinodes(self.dinodes);
        self.group.free_hint.store(u64::from(self.head.free.get()), Ordering::Relaxed);
    }

    /// Searches from block `from` of the group; runs end at the end of a bitmap block.
    fn search(&self, log: &Log, from: u64, max: u64) -> Option<(u64, u64)> {
        let (start, end) = (self.group.data_start, self.group.data_start + self.group.data_blocks);
        let has_freeing = log.blocks_being_freed(start, end) > 0;
        let mut base = 0;
        for index in 0..self.blocks.len() {
            let (skip, in_block) = self.bitmap_of(index);
            let in_block = in_block.min(self.group.data_blocks - base);
            if from < base + in_block {
                let bytes = self.changed.get(&index).map_or(&self.blocks[index][..], |changed| &changed[..]);
                let is_usable = |bit: usize| !has_freeing || !log.is_being_freed(start + base + bit as u64);
                let first = usize::try_from(from.saturating_sub(base)).expect("invariant: within a block");
                let blocks = usize::try_from(in_block).expect("invariant: within a block");
                let most = usize::try_from(max).unwrap_or(usize::MAX);
                if let Some((bit, count)) = free_run(&bytes[skip..], blocks, first, most, is_usable) {
                    return Some((start + base + bit as u64, count as u64));
                }
            }
            base += in_block;
            if base == self.group.data_blocks {
                break;
            }
        }
        None
    }

    /// Where the bitmap starts in a block of the group, and how many blocks it describes.
    fn bitmap_of(&self, index: usize) -> (usize, u64) {
        if index == 0 {
            (size_of::<ResourceGroup>(), self.size.group_header_bitmap_bytes() * bitmap::BLOCKS_PER_BYTE)
        } else {
            (size_of::<MetaHeader>(), self.size.group_bitmap_bytes() * bitmap::BLOCKS_PER_BYTE)
        }
    }

    /// Block of the group, byte where its bitmap starts, and bit pair within it.
    fn locate(&self, block: u64) -> (usize, usize, usize) {
        let mut rest = block - self.group.data_start;
        let mut index = 0;
        loop {
            let (skip, in_block) = self.bitmap_of(index);
            if rest < in_block {
                return (index, skip, usize::try_from(rest).expect("invariant: within a block"));
            }
            rest -= in_block;
            index += 1;
        }
    }

    fn set(&mut self, block: u64, state: BlockState) {
        let (index, skip, bit) = self.locate(block);
        let blocks = &self.blocks;
        let bytes = self.changed.entry(index).or_insert_with(|| blocks[index].to_vec());
        bitmap::set(&mut bytes[skip..], bit, state);
    }
}
