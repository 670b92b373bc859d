//! A store of attributes from its blocks, and back to them.
//!
//! 1. Everything that can fail comes first: reading, the choice of groups, allocation.
//! 2. `Log::begin`, for all the blocks that change.
//! 3. `Store::write` puts them, and cannot fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use gfs_format::dinode::flags;
use gfs_format::eattr::{self, NewRecord};
use gfs_format::{BlockSize, BlockState, MetaHeader, MetaType};
use zerocopy::IntoBytes;

use super::store::{Content, Record, RecordBlock, Slot, Store, area};
use crate::alloc::GroupEdit;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

const HEADER: usize = size_of::<MetaHeader>();
/// Freed blocks whose revokes take a block of the log, cautiously.
const REVOKES_PER_BLOCK: usize = 56;
/// Blocks freed in one transaction when an inode goes.
const CUT_BLOCKS_MAX: usize = 512;

/// What a changed store needs of resource groups, locked and decided: never both to allocate and
/// to free.
#[derive(Default)]
pub(crate) struct Allotment {
    new: Vec<u64>,
    groups: Vec<GroupEdit>,
}

impl Allotment {
    /// Takes the blocks that a new inode's store needs from the group that the inode lies in.
    pub fn from_group(fs: &Fs, store: &Store, group: &mut GroupEdit, goal: u64) -> Result<Allotment> {
        let mut new = Vec::with_capacity(store.new_count);
        allocate(fs, group, goal, store.new_count, &mut new)?;
        Ok(Allotment { new, groups: Vec::new() })
    }

    /// Log blocks that the groups take.
    pub fn log_blocks(&self) -> u64 {
        self.groups.iter().map(GroupEdit::log_blocks).sum()
    }

    fn resolve(&self, slot: Slot) -> u64 {
        match slot {
            Slot::At(number) => number,
            Slot::New(index) => self.new[index],
        }
    }
}

fn allocate(fs: &Fs, group: &mut GroupEdit, goal: u64, count: usize, into: &mut Vec<u64>) -> Result<()> {
    let mut goal = goal;
    while into.len() < count {
        let left = (count - into.len()) as u64;
        let (start, got) = group.allocate(&fs.log, goal, left, BlockState::Used).ok_or(Error::NoSpace)?;
        into.extend(start..start + got);
        goal = start + got;
    }
    Ok(())
}

impl Fs {
    /// The blocks of records of an inode, in order.
    pub(super) async fn record_blocks(&self, glock: &Arc<Glock>, dinode: &DinodeBlock) -> Result<Vec<u64>> {
        let top = dinode.head().eattr.get();
        if top == 0 {
            return Ok(Vec::new());
        }
        if dinode.head().flags.get() & flags::EA_INDIRECT == 0 {
            return Ok(vec![top]);
        }
        let block = self.read_block(glock, top, MetaType::Indirect).await?;
        let words = block[HEADER..].chunks_exact(8);
        let pointers = words.map(|word| u64::from_be_bytes(word.try_into().expect("invariant: 8 bytes")));
        Ok(pointers.take_while(|pointer| *pointer != 0).collect())
    }

    /// A value that lies in blocks of its own.
    pub(super) async fn read_value(&self, glock: &Arc<Glock>, pointers: &[u64], value_len: usize) -> Result<Vec<u8>> {
        let mut value = Vec::with_capacity(value_len);
        for pointer in pointers {
            let block = self.read_block(glock, *pointer, MetaType::ExtendedAttributeData).await?;
            let left = value_len - value.len();
            value.extend_from_slice(&block[HEADER..][..left.min(area(self.block_size()))]);
        }
        Ok(value)
    }

    /// Every attribute of an inode; values in blocks of their own are not read.
    pub(crate) async fn load_xattrs(&self, glock: &Arc<Glock>, dinode: &DinodeBlock) -> Result<Store> {
        let mut store = Store::new(self.block_size());
        if dinode.head().flags.get() & flags::EA_INDIRECT != 0 && dinode.head().eattr.get() != 0 {
            store.index = Some(Slot::At(dinode.head().eattr.get()));
        }
        for number in self.record_blocks(glock, dinode).await? {
            let block = self.read_block(glock, number, MetaType::ExtendedAttribute).await?;
            let mut records = Vec::new();
            for record in eattr::records(&block[HEADER..]) {
                let record = record.map_err(|error| corrupt(number, &error))?;
                if !record.is_unused() {
                    records.push(own(&record));
                }
            }
            store.blocks.push(RecordBlock { at: Slot::At(number), records, has_changed: false });
        }
        self.check_blocks(dinode, &store)?;
        Ok(store)
    }

    /// A change uses blocks again that it makes free: each must be one of a resource group, and the attributes' only
    /// once.
    fn check_blocks(&self, dinode: &DinodeBlock, store: &Store) -> Result<()> {
        let mut seen = BTreeSet::from([dinode.address()]);
        for block in store.numbers() {
            if self.groups.position(block).is_none() || !seen.insert(block) {
                return Err(Error::Corrupt {
                    block: dinode.address(),
                    expected: "extended attributes in blocks of resource groups, each used once".into(),
                    found: format!("a pointer to block {block}"),
                });
            }
        }
        Ok(())
    }

    /// Locks the groups that a changed store needs.
    pub(crate) async fn allot(&self, store: &Store, goal: u64) -> Result<Allotment> {
        if store.new_count > 0 {
            let mut group = self.choose_group(goal, store.new_count as u64).await?;
            let mut new = Vec::with_capacity(store.new_count);
            allocate(self, &mut group, goal, store.new_count, &mut new)?;
            return Ok(Allotment { new, groups: vec![group] });
        }
        let groups = self.lock_groups_of(store.spare.iter().copied()).await?;
        for block in &store.spare {
            let group = groups.iter().find(|edit| edit.group().contains(*block));
            let state = group.expect("invariant: the groups of these blocks are locked").state(*block);
            if state != BlockState::Used {
                return Err(Error::Corrupt {
                    block: *block,
                    expected: "a block in use, by an extended attribute".into(),
                    found: format!("one that is {state:?}"),
                });
            }
        }
        Ok(Allotment { new: Vec::new(), groups })
    }

    /// Writes a changed store in a transaction of its own, with the dinode as `change` leaves it.
    pub(super) async fn write_xattrs(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        store: Store,
        change: impl FnOnce(&mut DinodeBlock),
    ) -> Result<()> {
        let allotment = self.allot(&store, dinode.head().goal_meta.get()).await?;
        let mut transaction = self.log.begin(allotment.log_blocks() + store.log_blocks() + 2).await?;
        store.write(&mut transaction, glock, dinode, allotment);
        change(dinode);
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }

    /// Frees every attribute of an inode that is going away, in as many transactions as it takes.
    pub(crate) async fn free_xattrs(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock) -> Result<()> {
        let mut most = CUT_BLOCKS_MAX;
        while dinode.head().eattr.get() != 0 {
            let mut store = self.load_xattrs(glock, dinode).await?;
            store.cut(most);
            let allotment = self.allot(&store, 0).await?;
            let log_blocks = allotment.log_blocks() + store.log_blocks() + 2;
            if log_blocks > self.log.transaction_blocks_max() && most > 1 {
                // Spread over more groups than one transaction holds: take less at a time.
                most /= 4;
                continue;
            }
            let mut transaction = self.log.begin(log_blocks).await?;
            store.write(&mut transaction, glock, dinode, allotment);
            transaction.put(glock, dinode.address(), dinode.to_bytes());
            transaction.end();
        }
        Ok(())
    }
}

impl Store {
    /// Log blocks that writing the store takes, without its groups and the dinode.
    pub fn log_blocks(&self) -> u64 {
        (self.changed_count() + self.spare.len().div_ceil(REVOKES_PER_BLOCK)) as u64
    }

    /// Puts what has changed into the transaction; the dinode is changed, and the caller's to put.
    pub fn write(
        self,
        transaction: &mut Transaction<'_>,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        allotment: Allotment,
    ) {
        let size = self.size;
        for (slot, value) in &self.values {
            let mut block = header(size, MetaType::ExtendedAttributeData);
            block[HEADER..HEADER + value.len()].copy_from_slice(value);
            transaction.put(glock, allotment.resolve(*slot), block.into());
        }
        for records in self.blocks.iter().filter(|block| block.has_changed) {
            transaction.put(glock, allotment.resolve(records.at), encode(size, records, &allotment).into());
        }
        if let Some(index) = self.index
            && self.index_has_changed
        {
            let mut block = header(size, MetaType::Indirect);
            for (place, records) in block[HEADER..].chunks_exact_mut(8).zip(&self.blocks) {
                place.copy_from_slice(&allotment.resolve(records.at).to_be_bytes());
            }
            transaction.put(glock, allotment.resolve(index), block.into());
        }
        let top = self.index.or_else(|| self.blocks.first().map(|block| block.at));
        let head = dinode.head_mut();
        head.eattr = top.map_or(0, |slot| allotment.resolve(slot)).into();
        let others = head.flags.get() & !flags::EA_INDIRECT;
        head.flags = (others | if self.index.is_some() { flags::EA_INDIRECT } else { 0 }).into();
        let freed = if self.new_count > 0 { 0 } else { self.spare.len() as u64 };
        head.blocks = (head.blocks.get() + self.new_count as u64).saturating_sub(freed).into();
        if let Some(last) = allotment.new.last() {
            head.goal_meta = (*last).into();
        }
        let mut groups = allotment.groups;
        for block in &self.spare {
            let group = groups.iter_mut().find(|edit| edit.group().contains(*block));
            group.expect("invariant: the groups of these blocks are locked").free(*block);
            transaction.revoke(glock, *block);
        }
        for group in groups {
            group.finish(transaction);
        }
    }
}

fn encode(size: BlockSize, records: &RecordBlock, allotment: &Allotment) -> Vec<u8> {
    let pointers: Vec<Vec<u64>> = records
        .records
        .iter()
        .map(|record| match &record.content {
            Content::Inline(_) => Vec::new(),
            Content::Blocks { at, .. } => at.iter().map(|slot| allotment.resolve(*slot)).collect(),
        })
        .collect();
    let new: Vec<NewRecord<'_>> = records
        .records
        .iter()
        .zip(&pointers)
        .map(|(record, pointers)| NewRecord {
            kind: record.kind,
            name: &record.name,
            content: match &record.content {
                Content::Inline(value) => eattr::Content::Inline(value),
                Content::Blocks { value_len, .. } => eattr::Content::Blocks { value_len: *value_len, pointers },
            },
            reserved: record.reserved,
        })
        .collect();
    let mut block = header(size, MetaType::ExtendedAttribute);
    eattr::encode(&new, &mut block[HEADER..]).expect("invariant: the store put no more into a block than it holds");
    block
}

fn header(size: BlockSize, kind: MetaType) -> Vec<u8> {
    let mut block = vec![0; size.as_usize()];
    block[..HEADER].copy_from_slice(MetaHeader::new(kind).as_bytes());
    block
}

fn own(record: &eattr::Record<'_>) -> Record {
    let at: Vec<Slot> = record.pointers().map(Slot::At).collect();
    let content = match at.is_empty() {
        true => Content::Inline(record.value.to_vec()),
        false => Content::Blocks { value_len: record.header.value_len.get() as usize, at },
    };
    Record { kind: record.header.kind, name: record.name.to_vec(), content, reserved: record.header.reserved }
}

pub(super) fn corrupt(block: u64, error: &eattr::RecordError) -> Error {
    Error::Corrupt { block, expected: "extended attributes that fill their block".into(), found: error.to_string() }
}
