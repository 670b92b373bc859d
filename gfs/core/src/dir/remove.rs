//! Taking entries out, pointing them elsewhere, and freeing a directory's leaves.

use std::collections::BTreeSet;
use std::sync::Arc;

use gfs_format::InodeNumberPair;
use gfs_format::directory::LEAF_BYTES;

use super::records;
use super::table::{Place, corrupt_records};
use crate::error::Result;
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

/// Leaves freed in one transaction.
const LEAVES_MAX: usize = 64;

impl Fs {
    /// Removes an entry. The caller puts the dinode.
    pub(crate) async fn remove_entry(
        &self,
        glock: &Arc<Glock>,
        dir: &mut DinodeBlock,
        transaction: &mut Transaction<'_>,
        place: &Place,
    ) -> Result<()> {
        match place.leaf {
            None => {
                let address = dir.address();
                records::remove(dir.payload_mut(), place.record.offset).map_err(corrupt_records(address))?;
            }
            Some(block) => {
                let mut bytes = self.read_leaf(glock, block).await?.bytes.to_vec();
                records::remove(&mut bytes[LEAF_BYTES..], place.record.offset).map_err(corrupt_records(block))?;
                self.put_leaf(glock, transaction, block, bytes, -1);
            }
        }
        let head = dir.head_mut();
        head.entries = head.entries.get().saturating_sub(1).into();
        dir.touch(self.wall_time(), true);
        Ok(())
    }

    /// Points an entry to another inode. The caller puts the dinode.
    pub(crate) async fn redirect_entry(
        &self,
        glock: &Arc<Glock>,
        dir: &mut DinodeBlock,
        transaction: &mut Transaction<'_>,
        place: &Place,
        inode: InodeNumberPair,
        kind: u8,
    ) -> Result<()> {
        match place.leaf {
            None => records::redirect(dir.payload_mut(), place.record.offset, inode, kind),
            Some(block) => {
                let mut bytes = self.read_leaf(glock, block).await?.bytes.to_vec();
                records::redirect(&mut bytes[LEAF_BYTES..], place.record.offset, inode, kind);
                self.put_leaf(glock, transaction, block, bytes, 0);
            }
        }
        dir.touch(self.wall_time(), true);
        Ok(())
    }

    /// Frees the leaves of a directory that has no name any more, some at a time. Pointers to
    /// freed leaves are cleared with them.
    pub(crate) async fn free_leaves(&self, glock: &Arc<Glock>, dir: &mut DinodeBlock) -> Result<()> {
        if !dir.is_hashed() {
            return Ok(());
        }
        let entries = 1u64 << dir.head().depth.get();
        let mut index = 0;
        while index < entries {
            let mut leaves = BTreeSet::new();
            let from = index;
            while index < entries && leaves.len() < LEAVES_MAX {
                let mut next = self.table_slot(glock, dir, index).await?;
                let mut chain = 0;
                while next != 0 && leaves.insert(next) {
                    next = self.read_leaf(glock, next).await?.head().next.get();
                    self.check_chain(&mut chain, next)?;
                }
                index += 1;
            }
            // A leaf whose pointers go on behind the cut is freed with the last of them.
            while index < entries && leaves.contains(&self.table_slot(glock, dir, index).await?) {
                index += 1;
            }
            leaves.remove(&0);
            let mut groups = self.lock_groups_of(leaves.iter().copied()).await?;
            let table_blocks = (index - from) * 8 / self.block_size().journaled_bytes() + 2;
            let log_blocks = groups.iter().map(|group| group.log_blocks()).sum::<u64>() + table_blocks + 4;
            let mut transaction = self.log.begin(log_blocks.min(self.log.transaction_blocks_max())).await?;
            for leaf in &leaves {
                let group = groups.iter_mut().find(|edit| edit.group().contains(*leaf));
                group.expect("invariant: the groups of these blocks are locked").free(*leaf);
                transaction.revoke(glock, *leaf);
            }
            let zeroes = vec![0; usize::try_from(index - from).expect("invariant: at most 2^17")];
            self.write_table(glock, dir, &mut transaction, from, &zeroes).await?;
            for group in groups {
                group.finish(&mut transaction);
            }
            let head = dir.head_mut();
            head.blocks = head.blocks.get().saturating_sub(leaves.len() as u64).into();
            transaction.put(glock, dir.address(), dir.to_bytes());
            transaction.end();
        }
        Ok(())
    }
}
