//! The filesystem as it will be: its groups with what is taken and freed, blocks with new content, blocks that change.
//!
//! Blocks that are freed stay taken in the draft until the end: new content must not go where the old filesystem still
//! has something.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::inspect::{Inode, Volume};
use gfs_check::journal::{Journals, Log};
use gfs_format::{
    BlockSize, BlockState, InodeNumberPair, MetaHeader, MetaType, ResourceGroup, ResourceIndexEntry, bitmap,
    resource_group,
};
use zerocopy::{FromZeros, IntoBytes};

use super::error::ChangeError;
use super::{NewJournals, totals};
use crate::directory::Entry;
use crate::geometry::Group;
use crate::tree::TreeShape;

/// Blocks with new content, in places that are free so far.
pub(super) enum Fresh {
    Bytes(u64, Vec<u8>),
    /// Consecutive empty blocks of a quota change file.
    QuotaChanges {
        start: u64,
        count: u64,
    },
    /// Consecutive headers of a clean log: `count` blocks from its block `index` on.
    Log {
        start: u64,
        count: u64,
        index: u64,
        length: u64,
        inode: u64,
    },
}

/// A group in the draft.
pub(super) struct Space {
    pub(super) entry: ResourceIndexEntry,
    pub(super) header: ResourceGroup,
    pub(super) map: Vec<u8>,
    pub(super) is_new: bool,
    pub(super) is_changed: bool,
    /// No block before this one (by index) is free.
    from: usize,
}

impl Space {
    fn end(&self) -> u64 {
        self.entry.data_start.get() + u64::from(self.entry.data_blocks.get())
    }
}

/// See the module.
pub(super) struct Draft {
    pub(super) volume: Volume,
    pub(super) journals: Journals,
    /// The log that takes the transaction.
    pub(super) log: Log,
    pub(super) groups: Vec<Space>,
    freed: Vec<u64>,
    pub(super) fresh: Vec<Fresh>,
    pub(super) changed: BTreeMap<u64, Vec<u8>>,
    pub(super) seconds: u64,
}

impl Draft {
    /// Reads a filesystem that nobody has mounted.
    pub(super) async fn open(device: &Arc<dyn BlockDevice>, seconds: u64) -> Result<Draft, ChangeError> {
        let volume = Volume::open(device.clone()).await?;
        let journals = Journals::open(device.clone()).await?;
        if let Some(finding) = journals.findings.first() {
            return Err(ChangeError::Journals { found: journals.list.len(), finding: finding.to_string() });
        }
        let mut first = None;
        for journal in &journals.list {
            let log = Log::read(&journals, journal).await?;
            if !log.is_clean() {
                return Err(ChangeError::NotClean { journal: journal.index });
            }
            first.get_or_insert(log);
        }
        let none = || ChangeError::Journals { found: 0, finding: "the index is empty".into() };
        let log = first.ok_or_else(none)?;
        let mut groups = Vec::new();
        for group in volume.groups()? {
            let (header, map) = volume.bitmap(group).await?;
            groups.push(Space { entry: group.entry, header, map, is_new: false, is_changed: false, from: 0 });
        }
        let (freed, fresh, changed) = (Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Draft { volume, journals, log, groups, freed, fresh, changed, seconds })
    }

    pub(super) fn block_size(&self) -> BlockSize {
        self.volume.block_size()
    }

    pub(super) fn device_blocks(&self) -> u64 {
        self.volume.device_blocks()
    }

    pub(super) fn journal_count(&self) -> u32 {
        self.journals.list.len() as u32
    }

    /// The first block behind the last group.
    pub(super) fn end(&self) -> u64 {
        self.groups.last().map_or(0, Space::end)
    }

    /// Blocks of a usual group, header included, and the end of the last. Usual is the largest: those of the journals
    /// are smaller.
    pub(super) fn usual_span(&self) -> (u64, u64) {
        let spans = self.groups.iter().map(|group| group.end() - group.entry.address.get());
        (spans.max().unwrap_or(1).max(1), self.end())
    }

    pub(super) async fn system_file(&self, name: &'static str) -> Result<Inode, ChangeError> {
        Ok(self.volume.system_file(name).await?)
    }

    /// The entries of a system directory, as a new directory is made of.
    pub(super) async fn entries(&self, directory: &Inode) -> Result<Vec<Entry>, ChangeError> {
        let mut entries = Vec::new();
        for entry in self.volume.entries(directory).await? {
            let fault = |_| ChangeError::SystemName { inode: directory.address };
            let name = String::from_utf8(entry.name).map_err(fault)?;
            let inode = InodeNumberPair { formal: entry.formal.into(), address: entry.address.into() };
            entries.push(Entry::new(name, inode, entry.kind));
        }
        Ok(entries)
    }

    /// Whether there is room for journals, in the words of the established tool if not.
    pub(super) fn check_space(&self, wanted: &NewJournals) -> Result<(), ChangeError> {
        let size = self.block_size();
        let file = |mb: u32| TreeShape::of_file(size, (u64::from(mb) << 20) / size.bytes()).blocks();
        let each = file(wanted.journal_mb) + file(wanted.quota_change_mb) + 2;
        let free = self.groups.iter().map(|group| u64::from(group.header.free.get())).sum();
        if each.saturating_mul(wanted.count.into()) > free {
            let NewJournals { count: journals, journal_mb, quota_change_mb, .. } = *wanted;
            return Err(ChangeError::NoSpace { journals, journal_mb, quota_change_mb, each, free });
        }
        Ok(())
    }

    /// Takes `count` blocks as runs: one if any group has so many in a row, else the first that are free.
    pub(super) fn take(&mut self, count: u64) -> Result<Vec<(u64, u64)>, ChangeError> {
        let whole = (0..self.groups.len()).find_map(|index| self.run(index, count).map(|at| (index, at)));
        if let Some((index, at)) = whole {
            return Ok(vec![self.claim(index, at, count)]);
        }
        let mut runs = Vec::new();
        let mut left = count;
        for index in 0..self.groups.len() {
            while left > 0 {
                let Some(at) = self.run(index, 1) else { break };
                let mut length = 1;
                while length < left && self.is_free(index, at + length as usize) {
                    length += 1;
                }
                runs.push(self.claim(index, at, length));
                left -= length;
            }
        }
        if left == 0 { Ok(runs) } else { Err(ChangeError::Full) }
    }

    /// The same, block by block.
    pub(super) fn take_blocks(&mut self, count: u64) -> Result<Vec<u64>, ChangeError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        Ok(self.take(count)?.into_iter().flat_map(|(start, count)| start..start + count).collect())
    }

    /// Makes a taken block a dinode and gives it a number.
    pub(super) fn number(&mut self, address: u64) -> Result<InodeNumberPair, ChangeError> {
        let after = self.groups.partition_point(|group| group.entry.address.get() <= address);
        let group = after.checked_sub(1).and_then(|index| self.groups.get_mut(index)).ok_or(ChangeError::Full)?;
        let index = address.checked_sub(group.entry.data_start.get()).ok_or(ChangeError::Full)?;
        bitmap::set(&mut group.map, index as usize, BlockState::Dinode);
        group.header.dinodes = (group.header.dinodes.get() + 1).into();
        // The group's counter gives the numbers; 0 is none.
        let formal = group.header.inode_generation.get().max(1);
        group.header.inode_generation = (formal + 1).into();
        Ok(InodeNumberPair { formal: formal.into(), address: address.into() })
    }

    /// Gives a block back, at the end.
    pub(super) fn free(&mut self, block: u64) {
        self.freed.push(block);
    }

    /// A group behind the last.
    pub(super) fn add_group(&mut self, group: &Group) {
        if let Some(last) = self.groups.last_mut() {
            let distance = group.address - last.entry.address.get();
            last.header.skip = u32::try_from(distance).unwrap_or(0).into();
            last.is_changed = true;
        }
        let entry = ResourceIndexEntry {
            address: group.address.into(),
            length: group.length.into(),
            reserved0: [0; 4],
            data_start: group.data_start.into(),
            data_blocks: group.data_blocks.into(),
            bitmap_bytes: group.bitmap_bytes().into(),
            reserved1: [0; 64],
        };
        let header = ResourceGroup {
            header: MetaHeader::new(MetaType::ResourceGroup),
            free: group.data_blocks.into(),
            data_start: entry.data_start,
            data_blocks: entry.data_blocks,
            bitmap_bytes: entry.bitmap_bytes,
            ..ResourceGroup::new_zeroed()
        };
        let map = vec![0; group.bitmap_bytes() as usize];
        self.groups.push(Space { entry, header, map, is_new: true, is_changed: true, from: 0 });
    }

    /// Puts the totals of all groups into the statfs file. What the nodes have not added yet stays with them.
    pub(super) async fn settle_statfs(&mut self) -> Result<(), ChangeError> {
        let inode = self.system_file("statfs").await?;
        let sum = |count: &dyn Fn(&Space) -> u32| self.groups.iter().map(|group| u64::from(count(group))).sum::<u64>();
        let total = sum(&|group| group.entry.data_blocks.get());
        let free = sum(&|group| group.header.free.get()) + self.freed.len() as u64;
        let dinodes = sum(&|group| group.header.dinodes.get());
        let totals = totals(total, free, dinodes);
        let mut bytes = inode.block.to_vec();
        let at = size_of::<gfs_format::Dinode>();
        if inode.dinode.height.get() != 0 || inode.dinode.size.get() < totals.as_bytes().len() as u64 {
            return Err(ChangeError::SystemFile { name: "statfs", inode: inode.address });
        }
        bytes[at..at + totals.as_bytes().len()].copy_from_slice(totals.as_bytes());
        self.changed.insert(inode.address, bytes);
        Ok(())
    }

    /// Gives back what was freed, and turns changed groups into changed blocks and new ones into fresh ones.
    pub(super) fn close(&mut self) {
        for block in std::mem::take(&mut self.freed) {
            let after = self.groups.partition_point(|group| group.entry.address.get() <= block);
            let Some(group) = after.checked_sub(1).and_then(|index| self.groups.get_mut(index)) else { continue };
            let Some(index) = block.checked_sub(group.entry.data_start.get()) else { continue };
            bitmap::set(&mut group.map, index as usize, BlockState::Free);
            group.header.free = (group.header.free.get() + 1).into();
            group.is_changed = true;
        }
        let size = self.block_size();
        for group in self.groups.iter_mut().filter(|group| group.is_changed) {
            group.header.seal();
            let first = size.group_header_bitmap_bytes() as usize;
            let (front, rest) = group.map.split_at(group.map.len().min(first));
            let mut block = group.header.as_bytes().to_vec();
            block.extend_from_slice(front);
            let mut blocks = vec![block];
            let mut parts = rest.chunks(size.group_bitmap_bytes() as usize);
            for _ in 1..group.entry.length.get() {
                let mut block = MetaHeader::new(MetaType::ResourceGroupBitmap).as_bytes().to_vec();
                block.extend_from_slice(parts.next().unwrap_or_default());
                blocks.push(block);
            }
            for (address, mut block) in (group.entry.address.get()..).zip(blocks) {
                block.resize(size.as_usize(), 0);
                if group.is_new {
                    self.fresh.push(Fresh::Bytes(address, block));
                } else {
                    self.changed.insert(address, block);
                }
            }
        }
    }

    fn is_free(&self, group: usize, index: usize) -> bool {
        let group = &self.groups[group];
        index < group.entry.data_blocks.get() as usize && bitmap::get(&group.map, index) == BlockState::Free
    }

    /// Where `count` free blocks lie in a row.
    fn run(&mut self, group: usize, count: u64) -> Option<usize> {
        let space = &mut self.groups[group];
        let is_closed = space.header.flags.get() & resource_group::flags::NOALLOC != 0;
        if is_closed || u64::from(space.header.free.get()) < count {
            return None;
        }
        let blocks = space.entry.data_blocks.get() as usize;
        while space.from < blocks && bitmap::get(&space.map, space.from) != BlockState::Free {
            space.from += 1;
        }
        let (mut start, mut length) = (space.from, 0);
        for index in space.from..blocks {
            if bitmap::get(&space.map, index) == BlockState::Free {
                if length == 0 {
                    start = index;
                }
                length += 1;
                if length == count {
                    return Some(start);
                }
            } else {
                length = 0;
            }
        }
        None
    }

    fn claim(&mut self, group: usize, at: usize, count: u64) -> (u64, u64) {
        let space = &mut self.groups[group];
        for index in at..at + count as usize {
            bitmap::set(&mut space.map, index, BlockState::Used);
        }
        space.header.free = (space.header.free.get() - count as u32).into();
        space.is_changed = true;
        (space.entry.data_start.get() + at as u64, count)
    }
}
