//! Making room for a name: from the dinode to a hash table, a leaf split in two, the table
//! doubled, or a leaf chained where the table can grow no more.

use std::sync::Arc;

use gfs_format::directory::{DIRENT_FORMAT, LEAF_BYTES, name_hash};
use gfs_format::geometry::DIRECTORY_DEPTH_MAX;
use gfs_format::{BlockState, Leaf, MetaHeader, MetaType, dinode};
use zerocopy::IntoBytes;

use super::records::{self, Record};
use super::table::{LeafBlock, corrupt_records, index_of};
use crate::alloc::GroupEdit;
use crate::error::{Error, Result};
use crate::file::TreeEdit;
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;

impl Fs {
    /// Changes the directory until `name` fits. The caller holds its glock exclusively.
    pub(crate) async fn make_room(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock, name: &[u8]) -> Result<()> {
        // Each round splits a leaf or doubles the table: depth bounds them.
        for _ in 0..3 * DIRECTORY_DEPTH_MAX + 2 {
            if !dir.is_hashed() {
                if records::has_room(dir.payload(), name.len()).map_err(corrupt_records(dir.address()))? {
                    return Ok(());
                }
                self.make_hashed(glock, dir).await?;
                continue;
            }
            let hash = name_hash(name);
            let first = self.read_leaf(glock, self.leaf_of(glock, dir, hash).await?).await?;
            let Some(last) = self.full_chain(glock, &first, name.len()).await? else { return Ok(()) };
            if first.head().depth < dir.head().depth {
                self.split_leaf(glock, dir, &first, index_of(hash, dir.head().depth.get())).await?;
            } else if dir.head().depth.get() < DIRECTORY_DEPTH_MAX && last == first.block {
                self.double_table(glock, dir).await?;
            } else {
                self.chain_leaf(glock, dir, last).await?;
            }
        }
        Err(Error::NoSpace)
    }

    /// The last leaf of the chain if none of its leaves has room.
    async fn full_chain(&self, glock: &Arc<Glock>, first: &LeafBlock, name_len: usize) -> Result<Option<u64>> {
        let has_room =
            |leaf: &LeafBlock| records::has_room(leaf.region(), name_len).map_err(corrupt_records(leaf.block));
        if has_room(first)? {
            return Ok(None);
        }
        let (mut last, mut next, mut chain) = (first.block, first.head().next.get(), 0);
        while next != 0 {
            let leaf = self.read_leaf(glock, next).await?;
            if has_room(&leaf)? {
                return Ok(None);
            }
            last = next;
            next = leaf.head().next.get();
            self.check_chain(&mut chain, next)?;
        }
        Ok(Some(last))
    }

    async fn make_hashed(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock) -> Result<()> {
        let all = records::list(dir.payload()).map_err(corrupt_records(dir.address()))?;
        let mut group = self.choose_group(dir.head().goal_meta.get(), 1).await?;
        let mut transaction = self.log.begin(group.log_blocks() + 4).await?;
        let block = self.take_leaf(dir, &mut group)?;
        let bytes = self.leaf_bytes(dir, 0, 1, &all, block)?;
        transaction.put(glock, block, bytes.into());
        let table_bytes = self.block_size().bytes() / 2;
        let pointers = table_bytes / 8;
        let payload = dir.payload_mut();
        payload.fill(0);
        for slot in payload.chunks_exact_mut(8).take(usize::try_from(pointers).expect("invariant: fits a block")) {
            slot.copy_from_slice(&block.to_be_bytes());
        }
        let head = dir.head_mut();
        head.flags = (head.flags.get() | dinode::flags::EXHASH).into();
        head.depth = u16::try_from(pointers.ilog2()).expect("invariant: small").into();
        head.size = table_bytes.into();
        transaction.put(glock, dir.address(), dir.to_bytes());
        group.finish(&mut transaction);
        transaction.end();
        Ok(())
    }

    /// Takes a block for a leaf and counts it.
    fn take_leaf(&self, dir: &mut DinodeBlock, group: &mut GroupEdit) -> Result<u64> {
        let goal = dir.head().goal_meta.get();
        let (block, _) = group.allocate(&self.log, goal, 1, BlockState::Used).ok_or(Error::NoSpace)?;
        let head = dir.head_mut();
        head.blocks = (head.blocks.get() + 1).into();
        head.goal_meta = block.into();
        Ok(block)
    }

    /// A leaf with these entries.
    fn leaf_bytes(
        &self,
        dir: &DinodeBlock,
        depth: u16,
        distance: u32,
        entries: &[Record],
        block: u64,
    ) -> Result<Vec<u8>> {
        let now = self.wall_time();
        let mut bytes = vec![0; self.block_size().as_usize()];
        let head = Leaf {
            header: MetaHeader::new(MetaType::Leaf),
            depth: depth.into(),
            entries: u16::try_from(entries.len()).map_err(|_| Error::Invalid)?.into(),
            dirent_format: DIRENT_FORMAT.into(),
            next: 0.into(),
            inode: dir.address().into(),
            distance: distance.into(),
            changed_nanos: now.nanos.into(),
            changed_seconds: now.seconds.cast_unsigned().into(),
            reserved: [0; 40],
        };
        bytes[..LEAF_BYTES].copy_from_slice(head.as_bytes());
        records::clear(&mut bytes[LEAF_BYTES..]);
        for entry in entries {
            let fits = records::insert(&mut bytes[LEAF_BYTES..], &entry.name, entry.inode, entry.kind)
                .map_err(corrupt_records(block))?;
            if !fits {
                return Err(Error::Corrupt {
                    block,
                    expected: "the entries of one block to fit another".into(),
                    found: format!("{} entries", entries.len()),
                });
            }
        }
        Ok(bytes)
    }

    /// Splits a leaf by the next bit of the hash: the new leaf takes the lower half.
    async fn split_leaf(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock, leaf: &LeafBlock, index: u64) -> Result<()> {
        let (dir_depth, depth) = (dir.head().depth.get(), leaf.head().depth.get());
        let span = 1u64 << (dir_depth - depth);
        let start = index & !(span - 1);
        let half = span / 2;
        let all = records::list(leaf.region()).map_err(corrupt_records(leaf.block))?;
        let (low, high): (Vec<Record>, Vec<Record>) =
            all.into_iter().partition(|record| index_of(record.hash, dir_depth) < start + half);
        let mut group = self.choose_group(dir.head().goal_meta.get(), 1).await?;
        let table_blocks = half * 8 / self.block_size().journaled_bytes() + 2;
        let mut transaction = self.log.begin(group.log_blocks() + table_blocks + 4).await?;
        let block = self.take_leaf(dir, &mut group)?;
        let low_bytes = self.leaf_bytes(dir, depth + 1, 1, &low, block)?;
        let mut high_bytes = self.leaf_bytes(dir, depth + 1, 1, &high, leaf.block)?;
        if let Ok((head, _)) = <Leaf as zerocopy::FromBytes>::mut_from_prefix(&mut high_bytes) {
            head.next = leaf.head().next;
        }
        transaction.put(glock, block, low_bytes.into());
        transaction.put(glock, leaf.block, high_bytes.into());
        let pointers = vec![block; usize::try_from(half).expect("invariant: at most 2^17")];
        self.write_table(glock, dir, &mut transaction, start, &pointers).await?;
        transaction.put(glock, dir.address(), dir.to_bytes());
        group.finish(&mut transaction);
        transaction.end();
        Ok(())
    }

    /// Doubles the hash table: each pointer stands twice.
    async fn double_table(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock) -> Result<()> {
        let size = self.block_size();
        let table: Vec<u64> =
            self.read_table(glock, dir).await?.into_iter().flat_map(|pointer| [pointer, pointer]).collect();
        let bytes = table.len() as u64 * 8;
        let total = if bytes <= size.stuffed_bytes() { 0 } else { bytes.div_ceil(size.journaled_bytes()) };
        let present = if dir.is_stuffed() { 0 } else { dir.head().size.get().div_ceil(size.journaled_bytes()) };
        let more = total - present;
        let indirect = TreeEdit::indirect_needed(size, dir.head().height.get(), present, more.max(1));
        let mut group = match more {
            0 => None,
            _ => Some(self.choose_group(dir.head().goal_meta.get(), more + indirect).await?),
        };
        let group_blocks = group.as_ref().map_or(0, |group| group.log_blocks());
        let mut transaction = self.log.begin(group_blocks + total + 2 * indirect + 4).await?;
        if let Some(group) = &mut group {
            if dir.is_stuffed() {
                dir.payload_mut().fill(0);
                dir.head_mut().height = 1.into();
            }
            let mut tree = TreeEdit::new(self, glock, dir);
            let runs = tree.fill(group, present, more).await?;
            tree.finish(&mut transaction);
            for (_, disk, count) in runs {
                for block in disk..disk + count {
                    let mut bytes = vec![0; size.as_usize()];
                    let header = MetaHeader::new(MetaType::JournaledData);
                    bytes[..size_of::<MetaHeader>()].copy_from_slice(header.as_bytes());
                    transaction.put(glock, block, bytes.into());
                }
            }
        }
        self.write_table(glock, dir, &mut transaction, 0, &table).await?;
        let head = dir.head_mut();
        head.depth = (head.depth.get() + 1).into();
        head.size = bytes.into();
        transaction.put(glock, dir.address(), dir.to_bytes());
        if let Some(group) = group {
            group.finish(&mut transaction);
        }
        transaction.end();
        Ok(())
    }

    /// Adds a leaf behind `last`.
    async fn chain_leaf(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock, last: u64) -> Result<()> {
        let last = self.read_leaf(glock, last).await?;
        let mut group = self.choose_group(dir.head().goal_meta.get(), 1).await?;
        let mut transaction = self.log.begin(group.log_blocks() + 4).await?;
        let block = self.take_leaf(dir, &mut group)?;
        let head = last.head();
        let bytes = self.leaf_bytes(dir, head.depth.get(), head.distance.get() + 1, &[], block)?;
        transaction.put(glock, block, bytes.into());
        let mut before = last.bytes.to_vec();
        if let Ok((head, _)) = <Leaf as zerocopy::FromBytes>::mut_from_prefix(&mut before) {
            head.next = block.into();
        }
        transaction.put(glock, last.block, before.into());
        transaction.put(glock, dir.address(), dir.to_bytes());
        group.finish(&mut transaction);
        transaction.end();
        Ok(())
    }
}
