//! The device as it would be after a replay: reads see the planned blocks in place, writes are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, IoFuture};
use bytes::{Bytes, BytesMut};
use gfs_format::BlockSize;
use gfs_format::dinode::DINODE_BYTES;
use gfs_format::header::MAGIC;
use gfs_format::small_files::StatfsChange;
use zerocopy::FromBytes;

use super::locate::Journals;
use super::plan::{Plan, Space, Write};
use crate::source::CheckError;

/// See the module.
#[derive(Clone)]
pub struct Replayed {
    device: Arc<dyn BlockDevice>,
    block: BlockSize,
    writes: BTreeMap<u64, Write>,
    /// The inodes with the totals, after the nodes' differences have been added.
    settled: BTreeMap<u64, Bytes>,
}

impl Replayed {
    /// Shows `device` as it would be after the plans, in their order.
    pub async fn new(
        device: Arc<dyn BlockDevice>,
        journals: &Journals,
        plans: &[Plan],
    ) -> Result<Replayed, CheckError> {
        let writes = plans.iter().flat_map(|plan| &plan.writes).map(|(block, write)| (*block, *write)).collect();
        let mut replayed = Replayed { device, block: journals.block_size(), writes, settled: BTreeMap::new() };
        for plan in plans.iter().filter(|plan| plan.has_space) {
            if plan.space != Space::default() {
                replayed.settle(journals.statfs_inode, Some(&plan.space)).await?;
            }
            if let Some(own) = journals.get(plan.journal).map(|journal| journal.statfs_inode) {
                replayed.settle(own, None).await?;
            }
        }
        Ok(replayed)
    }

    /// The blocks of the totals that a replay writes beside those in the log.
    pub fn settled(&self) -> impl Iterator<Item = u64> {
        self.settled.keys().copied()
    }

    /// Adds to the counters of an inode, or makes them zero.
    async fn settle(&mut self, inode: u64, space: Option<&Space>) -> Result<(), CheckError> {
        let size = self.block.bytes();
        if inode == 0 || inode >= self.device.geometry().size().0 / size {
            return Ok(());
        }
        let mut bytes = self.read(ByteOffset(inode * size), ByteLen(size)).await?.to_vec();
        let Some(Ok((counters, _))) = bytes.get_mut(DINODE_BYTES..).map(StatfsChange::mut_from_prefix) else {
            return Ok(());
        };
        let before = *counters;
        *counters = match space {
            Some(space) => StatfsChange {
                total: before.total.get().wrapping_add_signed(space.total).into(),
                free: before.free.get().wrapping_add_signed(space.free).into(),
                dinodes: before.dinodes.get().wrapping_add_signed(space.dinodes).into(),
            },
            None => StatfsChange::default(),
        };
        if *counters != before {
            self.settled.insert(inode, bytes.into());
        }
        Ok(())
    }

    /// The blocks whose content on the device is not yet as it is seen here.
    pub async fn changed(&self) -> Result<Vec<u64>, CheckError> {
        let size = self.block.bytes();
        let mut changed = Vec::new();
        let blocks: BTreeSet<u64> = self.writes.keys().chain(self.settled.keys()).copied().collect();
        for block in blocks {
            let (at, len) = (ByteOffset(block * size), ByteLen(size));
            if self.device.read(at, len).await? != self.read(at, len).await? {
                changed.push(block);
            }
        }
        Ok(changed)
    }

    /// A block's content, if it is not the device's.
    fn replaced(&self, block: u64) -> Option<Source> {
        match (self.settled.get(&block), self.writes.get(&block)) {
            (Some(bytes), _) => Some(Source::Bytes(bytes.clone())),
            (None, Some(write)) => Some(Source::Log(*write)),
            (None, None) => None,
        }
    }
}

/// Where a replaced block's content is.
enum Source {
    Log(Write),
    Bytes(Bytes),
}

impl BlockDevice for Replayed {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let size = self.block.bytes();
        let first = at.0 / size;
        let end = at.0.saturating_add(len.0).div_ceil(size);
        let numbers = self.writes.range(first..end).map(|(block, _)| *block);
        let numbers: BTreeSet<u64> = numbers.chain(self.settled.range(first..end).map(|(block, _)| *block)).collect();
        let within: Vec<(u64, Source)> = numbers.into_iter().filter_map(|n| Some((n, self.replaced(n)?))).collect();
        let read = self.device.read(at, len);
        if within.is_empty() {
            return read;
        }
        let device = self.device.clone();
        Box::pin(async move {
            let mut bytes = BytesMut::from(&read.await?[..]);
            for (block, source) in within {
                let content = match source {
                    Source::Bytes(content) => content,
                    Source::Log(write) => content(&*device, size, &write).await?,
                };
                // The part of the block that was asked for.
                let start = (block * size).max(at.0);
                let stop = ((block + 1) * size).min(at.0 + len.0);
                let from = &content[(start - block * size) as usize..(stop - block * size) as usize];
                bytes[(start - at.0) as usize..(stop - at.0) as usize].copy_from_slice(from);
            }
            Ok(bytes.freeze())
        })
    }

    fn write(&self, _at: ByteOffset, _data: Vec<Bytes>, _durability: Durability) -> IoFuture<()> {
        Box::pin(async { Err(BlockError::ReadOnly) })
    }

    fn flush(&self) -> IoFuture<()> {
        Box::pin(async { Ok(()) })
    }
}

/// What a replay writes for this entry.
async fn content(device: &dyn BlockDevice, size: u64, write: &Write) -> Result<Bytes, BlockError> {
    let logged = device.read(ByteOffset(write.address * size), ByteLen(size)).await?;
    if !write.is_escaped {
        return Ok(logged);
    }
    let mut content = BytesMut::from(&logged[..]);
    content[..4].copy_from_slice(&MAGIC.to_be_bytes());
    Ok(content.freeze())
}
