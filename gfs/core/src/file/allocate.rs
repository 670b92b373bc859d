//! Giving blocks to a part of a file before anything is written there, and taking them back from one.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gfs_format::dinode::flags;

use super::data::write_back;
use super::tree::TreeEdit;
use super::write::{CHUNK_BLOCKS, DIRTY_BLOCKS_MAX, FILE_SIZE_MAX};
use crate::api::{InodeRef, SizeChange};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;

impl Fs {
    /// Gives every byte of a range a block, which reads as zeroes where it was a hole.
    pub async fn allocate(&self, inode: InodeRef, offset: u64, len: u64, size: SizeChange) -> Result<()> {
        let end = check_range(offset, len)?;
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        // The kernel may hold off write-back meanwhile.
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_kind(&dinode, size == SizeChange::Grow)?;
        self.io(self.finish_truncation(&glock, &mut dinode).await)?;
        self.drop_capability(&glock, &mut dinode).await?;
        if !dinode.is_stuffed() || end > self.block_size().stuffed_bytes() {
            let block = self.block_size().bytes();
            let (mut at, last) = (offset / block, end.div_ceil(block));
            while at < last {
                at = self.io(self.allocate_chunk(&glock, &mut dinode, at, last).await)?;
            }
        }
        let has_grown = size == SizeChange::Grow && end > dinode.head().size.get();
        let mut transaction = self.io(self.log.begin(2).await)?;
        if has_grown {
            dinode.head_mut().size = end.into();
        }
        dinode.touch(self.wall_time(), true);
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }

    /// Allocates in one transaction, or finds that nothing is to be done; returns where to go on.
    async fn allocate_chunk(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock, at: u64, last: u64) -> Result<u64> {
        if !dinode.is_stuffed() {
            let run = self.map(glock, dinode, at, last - at).await?;
            if run.disk.is_some() {
                return Ok(at + run.count);
            }
        }
        let (group, next) = self.group_for_write(dinode, at, last.min(at + CHUNK_BLOCKS)).await?;
        let mut group = group;
        let needed = TreeEdit::indirect_needed(self.block_size(), dinode.head().height.get(), at, next - at);
        let mut transaction = self.log.begin(group.log_blocks() + 4 + 2 * needed).await?;
        self.unstuff(glock, dinode, &mut group).await?;
        let mut tree = TreeEdit::new(self, glock, dinode);
        let runs = tree.fill(&mut group, at, next - at).await?;
        tree.finish(&mut transaction);
        group.finish(&mut transaction);
        transaction.order_data(glock);
        // One block of zeroes for all of them.
        let zeroes = Bytes::from(vec![0; self.block_size().as_usize()]);
        let is_much = {
            let mut data = glock.data.lock().expect("invariant: no panic under this lock");
            for (number, disk, count) in runs {
                (0..count).for_each(|i| data.put_dirty(number + i, disk + i, zeroes.clone()));
            }
            data.dirty() > DIRTY_BLOCKS_MAX
        };
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        if is_much {
            write_back(&self.device, self.block_size(), glock).await?;
        }
        Ok(next)
    }

    /// Makes a range a hole: whole blocks are freed, parts of blocks are zeroed. The size stays.
    pub async fn punch_hole(&self, inode: InodeRef, offset: u64, len: u64) -> Result<()> {
        let end = check_range(offset, len)?;
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_kind(&dinode, true)?;
        self.io(self.finish_truncation(&glock, &mut dinode).await)?;
        self.drop_capability(&glock, &mut dinode).await?;
        if dinode.is_stuffed() {
            let to_usize = |n: u64| usize::try_from(n).expect("invariant: stuffed data fits a block");
            let stop = to_usize(end.min(dinode.head().size.get()));
            let start = to_usize(offset.min(stop as u64));
            dinode.payload_mut()[start..stop].fill(0);
        } else {
            let block = self.block_size().bytes();
            let (first, last) = (offset / block, end / block);
            if first == last {
                self.io(self.zero_part(&glock, &dinode, offset, end).await)?;
            } else {
                self.io(self.zero_part(&glock, &dinode, offset, offset.next_multiple_of(block)).await)?;
                self.io(self.zero_part(&glock, &dinode, last * block, end).await)?;
                let whole = offset.div_ceil(block)..last;
                if !whole.is_empty() {
                    self.io(self.free_range(&glock, &mut dinode, whole).await)?;
                }
            }
        }
        let mut transaction = self.io(self.log.begin(2).await)?;
        dinode.touch(self.wall_time(), true);
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.order_data(&glock);
        transaction.end();
        Ok(())
    }

    /// Zeroes bytes within one block, unless it is a hole.
    async fn zero_part(&self, glock: &Arc<Glock>, dinode: &DinodeBlock, from: u64, to: u64) -> Result<()> {
        let size = self.block_size().bytes();
        let number = from / size;
        let end = to.min(dinode.head().size.get());
        if from >= end {
            return Ok(());
        }
        let Some(disk) = self.map(glock, dinode, number, 1).await?.disk else { return Ok(()) };
        let old_end = dinode.head().size.get().min((number + 1) * size);
        let old = self.read_data(glock, dinode, number * size, old_end).await?;
        let mut block = BytesMut::zeroed(self.block_size().as_usize());
        block[..old.len()].copy_from_slice(&old);
        let within = |at: u64| usize::try_from(at - number * size).expect("invariant: within a block");
        block[within(from)..within(end)].fill(0);
        glock.data.lock().expect("invariant: no panic under this lock").put_dirty(number, disk, block.freeze());
        Ok(())
    }
}

fn check_range(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        _ if len == 0 => Err(Error::Invalid),
        Some(end) if end <= FILE_SIZE_MAX => Ok(end),
        _ => Err(Error::FileTooLarge),
    }
}

fn check_kind(dinode: &DinodeBlock, changes_content: bool) -> Result<()> {
    if !dinode.is_file() {
        return Err(if dinode.is_directory() { Error::IsDirectory } else { Error::Invalid });
    }
    let bits = dinode.head().flags.get();
    if bits & flags::IMMUTABLE != 0 || changes_content && bits & flags::APPEND_ONLY != 0 {
        return Err(Error::NotPermitted);
    }
    if bits & flags::JDATA != 0 {
        return Err(Error::NotSupported { what: "allocation in a file with journaled data" });
    }
    Ok(())
}
