//! Finding the leaf of a name: the hash table and the chains of leaves behind it.

use std::sync::Arc;

use bytes::Bytes;
use gfs_format::directory::{LEAF_BYTES, name_hash};
use gfs_format::{InodeNumberPair, Leaf, MetaHeader, MetaType};
use zerocopy::FromBytes;

use super::records::{self, Record, RecordError};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

/// Where an entry is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Leaf block; `None` is the dinode.
    pub leaf: Option<u64>,
    pub record: Record,
}

/// A leaf that was read.
pub(super) struct LeafBlock {
    pub block: u64,
    pub bytes: Bytes,
}

impl LeafBlock {
    pub fn head(&self) -> Leaf {
        Leaf::read_from_prefix(&self.bytes).expect("invariant: a block holds a leaf").0
    }

    pub fn region(&self) -> &[u8] {
        &self.bytes[LEAF_BYTES..]
    }
}

/// Turns malformed records into the error that names their block.
pub(super) fn corrupt_records(block: u64) -> impl Fn(RecordError) -> Error {
    move |error| Error::Corrupt {
        block,
        expected: "directory records that fill their block".into(),
        found: format!(
            "record length {} and name length {} at offset {}",
            error.record_len, error.name_len, error.offset
        ),
    }
}

impl Fs {
    /// The entry of `name` in a directory. The caller holds its glock.
    pub(crate) async fn find_entry(&self, glock: &Arc<Glock>, dir: &DinodeBlock, name: &[u8]) -> Result<Option<Place>> {
        if !dir.is_hashed() {
            let found = records::find(dir.payload(), name).map_err(corrupt_records(dir.address()))?;
            return Ok(found.map(|record| Place { leaf: None, record }));
        }
        let mut next = self.leaf_of(glock, dir, name_hash(name)).await?;
        let mut chain = 0;
        while next != 0 {
            let leaf = self.read_leaf(glock, next).await?;
            let found = records::find(leaf.region(), name).map_err(corrupt_records(next))?;
            if let Some(record) = found {
                return Ok(Some(Place { leaf: Some(next), record }));
            }
            next = leaf.head().next.get();
            self.check_chain(&mut chain, next)?;
        }
        Ok(None)
    }

    /// Refuses a chain of leaves that does not end.
    pub(super) fn check_chain(&self, length: &mut u32, next: u64) -> Result<()> {
        const CHAIN_MAX: u32 = 100_000;
        *length += 1;
        if *length > CHAIN_MAX {
            return Err(Error::Corrupt {
                block: next,
                expected: format!("a chain of at most {CHAIN_MAX} leaves"),
                found: "a longer one, or a circle".into(),
            });
        }
        Ok(())
    }

    /// First leaf for a hash.
    pub(super) async fn leaf_of(&self, glock: &Arc<Glock>, dir: &DinodeBlock, hash: u32) -> Result<u64> {
        self.table_pointer(glock, dir, index_of(hash, dir.head().depth.get())).await
    }

    /// One pointer of the hash table: a leaf.
    pub(super) async fn table_pointer(&self, glock: &Arc<Glock>, dir: &DinodeBlock, index: u64) -> Result<u64> {
        let pointer = self.table_slot(glock, dir, index).await?;
        self.check_range(pointer, 1)?;
        Ok(pointer)
    }

    /// One slot of the hash table; 0 where a leaf has been freed already.
    pub(super) async fn table_slot(&self, glock: &Arc<Glock>, dir: &DinodeBlock, index: u64) -> Result<u64> {
        let corrupt = |found: String| Error::Corrupt {
            block: dir.address(),
            expected: format!("a hash table with an entry {index}"),
            found,
        };
        let (bytes, at) = if dir.is_stuffed() {
            (Bytes::copy_from_slice(dir.payload()), index * 8)
        } else {
            let per_block = self.block_size().journaled_bytes();
            let number = index * 8 / per_block;
            let run = self.map(glock, dir, number, 1).await?;
            let disk = run.disk.ok_or_else(|| corrupt("a hole".into()))?;
            let block = self.read_block(glock, disk, MetaType::JournaledData).await?;
            (block.slice(size_of::<MetaHeader>()..), index * 8 % per_block)
        };
        let at = usize::try_from(at).expect("invariant: a table has at most 2^17 entries");
        let slot = bytes.get(at..at + 8).ok_or_else(|| corrupt("a shorter one".into()))?;
        Ok(u64::from_be_bytes(slot.try_into().expect("invariant: 8 bytes")))
    }

    /// The whole hash table.
    pub(super) async fn read_table(&self, glock: &Arc<Glock>, dir: &DinodeBlock) -> Result<Vec<u64>> {
        let entries = 1u64 << dir.head().depth.get();
        let mut table = Vec::with_capacity(usize::try_from(entries).expect("invariant: at most 2^17"));
        let mut at = 0;
        while at < entries {
            // A block's worth at a time would be the same reads: they come from the cache.
            table.push(self.table_pointer(glock, dir, at).await?);
            at += 1;
        }
        Ok(table)
    }

    /// Sets pointers `from` on of the hash table.
    pub(super) async fn write_table(
        &self,
        glock: &Arc<Glock>,
        dir: &mut DinodeBlock,
        transaction: &mut Transaction<'_>,
        from: u64,
        pointers: &[u64],
    ) -> Result<()> {
        let bytes: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_be_bytes()).collect();
        let to_usize = |n: u64| usize::try_from(n).expect("invariant: a table has at most 2^17 entries");
        if dir.is_stuffed() {
            let at = to_usize(from * 8);
            dir.payload_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
            return Ok(());
        }
        let per_block = self.block_size().journaled_bytes();
        let (mut at, mut rest) = (from * 8, &bytes[..]);
        while !rest.is_empty() {
            let run = self.map(glock, dir, at / per_block, 1).await?;
            let disk = run.disk.ok_or_else(|| Error::Corrupt {
                block: dir.address(),
                expected: "a hash table without holes".into(),
                found: format!("a hole at byte {at}"),
            })?;
            let mut block = self.read_block(glock, disk, MetaType::JournaledData).await?.to_vec();
            let skip = to_usize(at % per_block);
            let count = rest.len().min(to_usize(per_block) - skip);
            let start = size_of::<MetaHeader>() + skip;
            block[start..start + count].copy_from_slice(&rest[..count]);
            transaction.put(glock, disk, block.into());
            at += count as u64;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Reads a leaf.
    pub(super) async fn read_leaf(&self, glock: &Arc<Glock>, block: u64) -> Result<LeafBlock> {
        Ok(LeafBlock { block, bytes: self.read_block(glock, block, MetaType::Leaf).await? })
    }

    /// Adds an entry that `make_room` has made room for. The caller puts the dinode.
    pub(crate) async fn add_entry(
        &self,
        glock: &Arc<Glock>,
        dir: &mut DinodeBlock,
        transaction: &mut Transaction<'_>,
        name: &[u8],
        inode: InodeNumberPair,
        kind: u8,
    ) -> Result<()> {
        let no_room = || Error::Corrupt {
            block: glock.key().number,
            expected: "room in the directory, made just now".into(),
            found: "none".into(),
        };
        let address = dir.address();
        if !dir.is_hashed() {
            let done = records::insert(dir.payload_mut(), name, inode, kind).map_err(corrupt_records(address))?;
            if !done {
                return Err(no_room());
            }
        } else {
            let mut next = self.leaf_of(glock, dir, name_hash(name)).await?;
            let mut chain = 0;
            loop {
                let leaf = self.read_leaf(glock, next).await?;
                let mut bytes = leaf.bytes.to_vec();
                let is_done =
                    records::insert(&mut bytes[LEAF_BYTES..], name, inode, kind).map_err(corrupt_records(next))?;
                if is_done {
                    self.put_leaf(glock, transaction, next, bytes, 1);
                    break;
                }
                next = leaf.head().next.get();
                self.check_chain(&mut chain, next)?;
                if next == 0 {
                    return Err(no_room());
                }
            }
        }
        let head = dir.head_mut();
        head.entries = (head.entries.get() + 1).into();
        dir.touch(self.wall_time(), true);
        Ok(())
    }

    /// Puts a changed leaf, its number of entries changed by `change`.
    pub(super) fn put_leaf(
        &self,
        glock: &Arc<Glock>,
        transaction: &mut Transaction<'_>,
        block: u64,
        mut bytes: Vec<u8>,
        change: i16,
    ) {
        let now = self.wall_time();
        if let Ok((head, _)) = Leaf::mut_from_prefix(&mut bytes) {
            head.entries = head.entries.get().saturating_add_signed(change).into();
            head.changed_seconds = now.seconds.cast_unsigned().into();
            head.changed_nanos = now.nanos.into();
        }
        transaction.put(glock, block, bytes.into());
    }
}

/// Index of a hash in a table of `depth` bits.
pub(super) fn index_of(hash: u32, depth: u16) -> u64 {
    if depth == 0 { 0 } else { u64::from(hash) >> (32 - u32::from(depth)) }
}
