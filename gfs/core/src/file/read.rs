//! Reading file data: dirty blocks from memory, the rest from the disk, holes as zeroes.

use std::sync::Arc;

use block_core::{ByteLen, ByteOffset};
use bytes::{Bytes, BytesMut};

use crate::api::{InodeRef, RequestOrigin};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;
use crate::journal::start_all;

impl Fs {
    /// Reads at most `length` bytes from `offset` on; fewer at the end of the file.
    pub async fn read(&self, inode: InodeRef, offset: u64, length: u32, origin: RequestOrigin) -> Result<Bytes> {
        let glock = self.inode_glock(inode.number.0);
        let end = offset.checked_add(u64::from(length)).ok_or(Error::Invalid)?;
        let guard = match origin {
            RequestOrigin::Call => glock.shared(RequestClass::Ordinary).await?,
            // With a handle open for writing, the page may be dirtied through a mapping without a
            // further request: the glock then gives it out under the exclusive state only.
            RequestOrigin::PageCache => glock.shared(RequestClass::Drains { pages: Some(offset..end) }).await?,
        };
        let dinode = self.inode(guard.glock(), inode).await?;
        if dinode.is_directory() {
            return Err(Error::IsDirectory);
        }
        self.read_data(&glock, &dinode, offset, end.min(dinode.head().size.get())).await
    }

    /// Bytes `offset` to `end` of an inode's data. The caller holds its glock.
    pub(crate) async fn read_data(
        &self,
        glock: &Arc<Glock>,
        dinode: &DinodeBlock,
        offset: u64,
        end: u64,
    ) -> Result<Bytes> {
        if offset >= end {
            return Ok(Bytes::new());
        }
        let to_usize = |n: u64| usize::try_from(n).expect("invariant: a request fits memory");
        if dinode.is_stuffed() {
            let payload = dinode.payload();
            let stop = to_usize(end).min(payload.len());
            return Ok(Bytes::copy_from_slice(&payload[to_usize(offset).min(stop)..stop]));
        }
        let size = self.block_size().bytes();
        let (first, last) = (offset / size, end.div_ceil(size));
        let pieces = self.read_runs(glock, dinode, first, last).await?;
        let (skip, length) = (to_usize(offset - first * size), to_usize(end - offset));
        if let [piece] = &pieces[..] {
            return Ok(piece.slice(skip..skip + length));
        }
        let mut whole = BytesMut::with_capacity(to_usize((last - first) * size));
        for piece in pieces {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze().slice(skip..skip + length))
    }

    /// Whole blocks `first` to `last` in pieces.
    async fn read_runs(&self, glock: &Arc<Glock>, dinode: &DinodeBlock, first: u64, last: u64) -> Result<Vec<Bytes>> {
        let size = self.block_size().bytes();
        let mut pieces: Vec<Option<Bytes>> = Vec::new();
        let mut reads = Vec::new();
        let mut at = first;
        while at < last {
            let cached = glock.data.lock().expect("invariant: no panic under this lock").get(at).cloned();
            if let Some(data) = cached {
                pieces.push(Some(data));
                at += 1;
                continue;
            }
            let run = self.map(glock, dinode, at, last - at).await?;
            let count = self.uncached_blocks(glock, at, run.count);
            match run.disk {
                None => {
                    let zeroes = usize::try_from(count * size).expect("invariant: a request fits memory");
                    pieces.push(Some(Bytes::from(vec![0; zeroes])));
                }
                Some(disk) => {
                    reads.push(self.device.read(ByteOffset(disk * size), ByteLen(count * size)));
                    pieces.push(None);
                }
            }
            at += count;
        }
        let mut results = start_all(reads).await.into_iter();
        let mut out = Vec::with_capacity(pieces.len());
        for piece in pieces {
            out.push(match piece {
                Some(piece) => piece,
                None => self.device_result(results.next().expect("invariant: one result a read"))?,
            });
        }
        Ok(out)
    }

    /// How many of `count` blocks from `at` on come before the next one in memory.
    fn uncached_blocks(&self, glock: &Glock, at: u64, count: u64) -> u64 {
        let data = glock.data.lock().expect("invariant: no panic under this lock");
        if !data.has_any(at, at + count) {
            return count;
        }
        (1..count).find(|i| data.get(at + i).is_some()).unwrap_or(count)
    }
}
