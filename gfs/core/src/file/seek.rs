//! Finding data and holes.

use crate::api::{InodeRef, SeekFor};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::RequestClass;

impl Fs {
    /// The first offset from `offset` on where data, or a hole, is.
    pub async fn seek(&self, inode: InodeRef, offset: u64, wanted: SeekFor) -> Result<u64> {
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        let (end, size) = (dinode.head().size.get(), self.block_size().bytes());
        if offset >= end {
            return Err(Error::BeyondEnd);
        }
        if dinode.is_stuffed() {
            return Ok(if wanted == SeekFor::Data { offset } else { end });
        }
        let (mut at, last) = (offset / size, end.div_ceil(size));
        while at < last {
            let run = self.io(self.map(&glock, &dinode, at, last - at).await)?;
            if run.disk.is_some() == (wanted == SeekFor::Data) {
                return Ok(offset.max(at * size));
            }
            at += run.count;
        }
        if wanted == SeekFor::Data { Err(Error::BeyondEnd) } else { Ok(end) }
    }
}
