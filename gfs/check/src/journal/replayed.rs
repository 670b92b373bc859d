//! The device as it would be after a replay: reads see the planned blocks in place, writes are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset, Durability, Geometry, IoFuture};
use bytes::{Bytes, BytesMut};
use gfs_format::BlockSize;
use gfs_format::header::MAGIC;

use super::plan::{Plan, Write};

/// See the module.
pub struct Replayed {
    device: Arc<dyn BlockDevice>,
    block: BlockSize,
    writes: BTreeMap<u64, Write>,
}

impl Replayed {
    /// Shows `device` as it would be after the plans, in their order.
    pub fn new(device: Arc<dyn BlockDevice>, block: BlockSize, plans: &[Plan]) -> Arc<Replayed> {
        let writes = plans.iter().flat_map(|plan| &plan.writes).map(|(block, write)| (*block, *write)).collect();
        Arc::new(Replayed { device, block, writes })
    }
}

impl BlockDevice for Replayed {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn read(&self, at: ByteOffset, len: ByteLen) -> IoFuture<Bytes> {
        let size = self.block.bytes();
        let first = at.0 / size;
        let end = at.0.saturating_add(len.0).div_ceil(size);
        let within: Vec<(u64, Write)> = self.writes.range(first..end).map(|(block, write)| (*block, *write)).collect();
        let read = self.device.read(at, len);
        if within.is_empty() {
            return read;
        }
        let device = self.device.clone();
        Box::pin(async move {
            let mut bytes = BytesMut::from(&read.await?[..]);
            for (block, write) in within {
                let content = content(&*device, size, &write).await?;
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

impl Replayed {
    /// The blocks of `plan` whose content on `device` is not yet what the replay writes.
    pub async fn changed(device: &Arc<dyn BlockDevice>, block: BlockSize, plan: &Plan) -> Result<Vec<u64>, BlockError> {
        let size = block.bytes();
        let mut changed = Vec::new();
        for (number, write) in &plan.writes {
            let now = device.read(ByteOffset(number * size), ByteLen(size)).await?;
            if now != content(&**device, size, write).await? {
                changed.push(*number);
            }
        }
        Ok(changed)
    }
}
