//! Changing a file's size, and freeing what an inode owns.

use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use gfs_format::dinode::flags;

use super::tree::Cut;
use super::write::FILE_SIZE_MAX;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

/// Blocks freed in one transaction.
const CUT_BLOCKS_MAX: usize = 4096;

impl Fs {
    /// Sets the size of a regular file. The caller holds its glock exclusively.
    pub(crate) async fn set_size(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock, size: u64) -> Result<()> {
        if size > FILE_SIZE_MAX {
            return Err(Error::FileTooLarge);
        }
        self.finish_truncation(glock, dinode).await?;
        let old = dinode.head().size.get();
        if size > old {
            return self.grow(glock, dinode, size).await;
        }
        self.zero_tail(glock, dinode, size).await?;
        {
            let mut transaction = self.log.begin(2).await?;
            let head = dinode.head_mut();
            head.size = size.into();
            if head.height.get() > 0 {
                head.flags = (head.flags.get() | flags::TRUNCATE_IN_PROGRESS).into();
                transaction.order_data(glock);
            }
            dinode.touch(self.wall_time(), true);
            transaction.put(glock, dinode.address(), dinode.to_bytes());
            transaction.end();
        }
        self.free_range(glock, dinode, size.div_ceil(self.block_size().bytes())..u64::MAX).await
    }

    /// Ends a truncation that a crash has cut short: what lies behind the end must not come back
    /// when the file grows.
    pub(crate) async fn finish_truncation(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock) -> Result<()> {
        if dinode.head().flags.get() & flags::TRUNCATE_IN_PROGRESS == 0 {
            return Ok(());
        }
        let from = dinode.head().size.get().div_ceil(self.block_size().bytes());
        self.free_range(glock, dinode, from..u64::MAX).await
    }

    async fn grow(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock, size: u64) -> Result<()> {
        let must_unstuff = dinode.is_stuffed() && size > self.block_size().stuffed_bytes();
        let mut group = None;
        if must_unstuff {
            group = Some(self.choose_group(dinode.head().goal_data.get(), 1).await?);
        }
        let blocks = group.as_ref().map_or(0, |group| group.log_blocks());
        let mut transaction = self.log.begin(blocks + 4).await?;
        if let Some(mut group) = group {
            self.unstuff(glock, dinode, &mut group).await?;
            group.finish(&mut transaction);
            transaction.order_data(glock);
        }
        dinode.head_mut().size = size.into();
        dinode.touch(self.wall_time(), true);
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }

    /// Clears what follows `size` in its block, so that growing again shows zeroes.
    async fn zero_tail(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock, size: u64) -> Result<()> {
        let block_bytes = self.block_size().bytes();
        if dinode.is_stuffed() {
            let from = usize::try_from(size).expect("invariant: stuffed data fits a block");
            dinode.payload_mut()[from..].fill(0);
            return Ok(());
        }
        if size.is_multiple_of(block_bytes) {
            return Ok(());
        }
        let number = size / block_bytes;
        let Some(disk) = self.map(glock, dinode, number, 1).await?.disk else { return Ok(()) };
        let old = self.read_data(glock, dinode, number * block_bytes, size).await?;
        let mut block = BytesMut::zeroed(self.block_size().as_usize());
        block[..old.len()].copy_from_slice(&old);
        glock.data.lock().expect("invariant: no panic under this lock").put_dirty(number, disk, block.freeze());
        Ok(())
    }

    /// Frees the file's blocks in `range`, in as many transactions as it takes.
    pub(crate) async fn free_range(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        range: Range<u64>,
    ) -> Result<()> {
        if dinode.is_stuffed() {
            return Ok(());
        }
        let mut blocks_max = CUT_BLOCKS_MAX;
        loop {
            let cut = self.plan_cut(glock, dinode, &range, blocks_max).await?;
            let is_complete = cut.is_complete;
            if !self.apply_cut(glock, dinode, cut, &range).await? {
                // Spread over more groups than one transaction holds: take less at a time.
                if blocks_max == 1 {
                    return Err(Error::NoSpace);
                }
                blocks_max = (blocks_max / 4).max(1);
            } else if is_complete {
                return Ok(());
            }
        }
    }

    /// False, with nothing changed, if the cut does not fit a transaction.
    async fn apply_cut(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        cut: Cut,
        range: &Range<u64>,
    ) -> Result<bool> {
        let mut groups = self.lock_groups_of(cut.data.iter().chain(&cut.indirect).copied()).await?;
        let log_blocks = groups.iter().map(|group| group.log_blocks()).sum::<u64>()
            + cut.changed.len() as u64
            + (cut.indirect.len() + cut.data.len()) as u64 / 64
            + 4;
        if log_blocks > self.log.transaction_blocks_max() {
            return Ok(false);
        }
        let mut transaction = self.log.begin(log_blocks).await?;
        for block in cut.data.iter().chain(&cut.indirect) {
            let group = groups.iter_mut().find(|edit| edit.group().contains(*block));
            group.expect("invariant: the groups of these blocks are locked").free(*block);
        }
        self.forget_data(glock, range, &mut transaction);
        for block in &cut.indirect {
            transaction.revoke(glock, *block);
        }
        if dinode.has_journaled_data() {
            for block in &cut.data {
                transaction.revoke(glock, *block);
            }
        }
        for (block, bytes) in cut.changed {
            transaction.put(glock, block, bytes.into());
        }
        for group in groups {
            group.finish(&mut transaction);
        }
        let freed = (cut.data.len() + cut.indirect.len()) as u64;
        dinode.payload_mut().copy_from_slice(&cut.root);
        let head = dinode.head_mut();
        head.blocks = head.blocks.get().saturating_sub(freed).into();
        if cut.is_complete {
            head.flags = (head.flags.get() & !flags::TRUNCATE_IN_PROGRESS).into();
        }
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(true)
    }

    /// Drops data that waits in memory for blocks that are being freed. Ordering the inode makes
    /// the commit wait for writes of it that are under way, before anybody gets its blocks.
    pub(crate) fn forget_data(&self, glock: &Arc<Glock>, range: &Range<u64>, transaction: &mut Transaction<'_>) {
        glock.data.lock().expect("invariant: no panic under this lock").remove(range);
        transaction.order_data(glock);
    }
}
