//! Puts a plan on a device. The superblock goes last, behind a flush: a filesystem that was not
//! finished has none.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, IoFuture};
use bytes::{Bytes, BytesMut};
use gfs_format::superblock::SUPERBLOCK_OFFSET;
use zerocopy::IntoBytes;

use crate::error::MkfsError;
use crate::plan::Plan;

/// Bytes of one write.
const CHUNK: usize = 1 << 20;
/// Writes under way at once.
const DEPTH: usize = 8;

/// What is being done, for a display of the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Discard,
    /// Journal `0` of so many is about to be written.
    Journal(usize, usize),
    /// Resource group `0` of so many.
    Group(usize, usize),
    Files,
    Superblock,
    Done,
}

/// Writes `plan`, saying at each step what comes next.
pub async fn write(
    device: &Arc<dyn BlockDevice>,
    plan: &Plan,
    discard: bool,
    mut progress: impl FnMut(Step) + Send,
) -> Result<(), MkfsError> {
    let mut writer = Writer::new(device, plan.geometry.block.as_usize());
    if discard {
        progress(Step::Discard);
        discard_all(device).await?;
    }
    // The old superblock and whatever lies in front of it are gone before anything else changes.
    let front = SUPERBLOCK_OFFSET / plan.geometry.block.bytes() + 1;
    let zeroes = BytesMut::zeroed((front * plan.geometry.block.bytes()) as usize).freeze();
    writer.put(0, zeroes).await?;
    writer.finish().await?;
    device.flush().await?;

    for index in 0..plan.journal_count() {
        progress(Step::Journal(index, plan.journal_count()));
        write_journal(&mut writer, plan, index).await?;
    }
    let groups = plan.geometry.groups.len();
    for (index, group) in plan.geometry.groups.iter().enumerate() {
        progress(Step::Group(index, groups));
        writer.put(group.address, plan.group_blocks(index).into()).await?;
    }
    progress(Step::Files);
    for run in &plan.quota_changes {
        let block = plan.quota_change_block();
        writer.fill(run.start, run.count, |_, into| into.copy_from_slice(&block)).await?;
    }
    writer.put_all(&plan.blocks).await?;
    writer.finish().await?;
    device.flush().await?;

    progress(Step::Superblock);
    let mut block = BytesMut::zeroed(plan.geometry.block.as_usize());
    block[..plan.superblock.as_bytes().len()].copy_from_slice(plan.superblock.as_bytes());
    writer.put(SUPERBLOCK_OFFSET / plan.geometry.block.bytes(), block.freeze()).await?;
    writer.finish().await?;
    device.flush().await?;
    progress(Step::Done);
    Ok(())
}

async fn write_journal(writer: &mut Writer<'_>, plan: &Plan, index: usize) -> Result<(), MkfsError> {
    let (tree, first) = plan.journal_tree(index);
    writer.put_all(&tree).await?;
    let blocks = plan.geometry.journal_blocks();
    writer.fill(first, blocks, |at, into| plan.log_block(index, first, at as u32, into)).await
}

/// Discards the device piece by piece; a device that cannot is left as it is.
async fn discard_all(device: &Arc<dyn BlockDevice>) -> Result<(), MkfsError> {
    const PIECE: u64 = 1 << 30;
    let size = device.geometry().size().0;
    let mut at = 0;
    while at < size {
        let len = PIECE.min(size - at);
        match device.discard(ByteOffset(at), ByteLen(len)).await {
            Ok(()) => at += len,
            Err(BlockError::Unsupported { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes blocks with a bounded number of requests under way.
pub(crate) struct Writer<'a> {
    device: &'a Arc<dyn BlockDevice>,
    block: usize,
    under_way: Vec<IoFuture<()>>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(device: &'a Arc<dyn BlockDevice>, block: usize) -> Writer<'a> {
        Writer { device, block, under_way: Vec::with_capacity(DEPTH) }
    }

    /// Writes whole blocks from block `at` on.
    pub(crate) async fn put(&mut self, at: u64, bytes: Bytes) -> Result<(), MkfsError> {
        while self.under_way.len() >= DEPTH {
            self.one().await?;
        }
        let offset = ByteOffset(at * self.block as u64);
        self.under_way.push(self.device.write(offset, vec![bytes], Durability::Cached));
        Ok(())
    }

    /// Writes blocks in rising order, neighbours together.
    async fn put_all(&mut self, blocks: &[(u64, Vec<u8>)]) -> Result<(), MkfsError> {
        let mut rest = blocks;
        while let Some((start, _)) = rest.first() {
            let run = rest
                .iter()
                .zip(0u64..)
                .take(CHUNK / self.block)
                .take_while(|((address, _), index)| *address == start + index)
                .count();
            let (now, later) = rest.split_at(run);
            let bytes: BytesMut = now.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            self.put(*start, bytes.freeze()).await?;
            rest = later;
        }
        Ok(())
    }

    /// Writes `count` blocks from block `at` on; `make` is given each one's index and its bytes.
    pub(crate) async fn fill(&mut self, at: u64, count: u64, make: impl Fn(u64, &mut [u8])) -> Result<(), MkfsError> {
        let per_chunk = (CHUNK / self.block) as u64;
        let mut done = 0;
        while done < count {
            let now = per_chunk.min(count - done);
            let mut bytes = BytesMut::zeroed(now as usize * self.block);
            for (index, block) in bytes.chunks_exact_mut(self.block).enumerate() {
                make(done + index as u64, block);
            }
            self.put(at + done, bytes.freeze()).await?;
            done += now;
        }
        Ok(())
    }

    /// Waits until one of the writes under way is done.
    async fn one(&mut self) -> Result<(), MkfsError> {
        poll_fn(|context| {
            for index in 0..self.under_way.len() {
                if let Poll::Ready(result) = self.under_way[index].as_mut().poll(context) {
                    drop(self.under_way.swap_remove(index));
                    return Poll::Ready(result.map_err(MkfsError::from));
                }
            }
            if self.under_way.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Waits for all writes.
    pub(crate) async fn finish(&mut self) -> Result<(), MkfsError> {
        while !self.under_way.is_empty() {
            self.one().await?;
        }
        Ok(())
    }
}
