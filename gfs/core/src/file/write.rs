//! Writing file data: into memory, with a block of the disk for each; the disk gets it when the
//! glock goes, at fsync, at the next commit, or when there is too much of it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gfs_format::dinode::flags;

use super::data::write_back;
use super::tree::TreeEdit;
use crate::alloc::GroupEdit;
use crate::api::{InodeRef, RequestOrigin, WriteAt};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;

/// Blocks that one transaction of a write covers.
pub(super) const CHUNK_BLOCKS: u64 = 256;
/// Dirty blocks of one inode before a writer writes them back itself.
pub(super) const DIRTY_BLOCKS_MAX: usize = 2048;
/// Largest file: what the kernel can address.
pub(crate) const FILE_SIZE_MAX: u64 = i64::MAX as u64;

impl Fs {
    /// Writes `data`; returns how many bytes of it, which is fewer only when space ran out on the
    /// way.
    pub async fn write(&self, inode: InodeRef, at: WriteAt, data: Bytes, origin: RequestOrigin) -> Result<u32> {
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        let class = match origin {
            RequestOrigin::Call => RequestClass::Ordinary,
            RequestOrigin::PageCache => RequestClass::Drains { pages: None },
        };
        let stale_size = if self.log.faults().stale_append { self.size_hint(&glock, inode).await } else { None };
        let guard = glock.exclusive(class).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        if !dinode.is_file() {
            return Err(if dinode.is_directory() { Error::IsDirectory } else { Error::Invalid });
        }
        if dinode.head().flags.get() & flags::IMMUTABLE != 0 && origin == RequestOrigin::Call {
            return Err(Error::NotPermitted);
        }
        self.io(self.finish_truncation(&glock, &mut dinode).await)?;
        self.drop_capability(&glock, &mut dinode).await?;
        let start = match at {
            WriteAt::Offset(offset) => offset,
            WriteAt::End => stale_size.unwrap_or(dinode.head().size.get()),
        };
        match start.checked_add(data.len() as u64) {
            Some(end) if end <= FILE_SIZE_MAX => {}
            _ => return Err(Error::FileTooLarge),
        }
        let mut written = 0;
        while written < data.len() {
            let offset = start + written as u64;
            match self.io(self.write_chunk(&glock, &mut dinode, offset, data.slice(written..)).await) {
                Ok(count) => written += count,
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if glock.data.lock().expect("invariant: no panic under this lock").dirty() > DIRTY_BLOCKS_MAX {
            self.io(write_back(&self.device, self.block_size(), &glock).await)?;
        }
        u32::try_from(written).map_err(|_| Error::Invalid)
    }

    async fn size_hint(&self, glock: &Arc<Glock>, inode: InodeRef) -> Option<u64> {
        let guard = glock.shared(RequestClass::Ordinary).await.ok()?;
        let dinode = self.inode(guard.glock(), inode).await.ok()?;
        Some(dinode.head().size.get())
    }

    /// One transaction's worth of a write; returns the bytes written, at least one.
    async fn write_chunk(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        offset: u64,
        data: Bytes,
    ) -> Result<usize> {
        let size = self.block_size();
        let end = offset + data.len() as u64;
        if dinode.is_stuffed() && end <= size.stuffed_bytes() {
            self.write_stuffed(glock, dinode, offset, &data).await?;
            return Ok(data.len());
        }
        let first = offset / size.bytes();
        let last = end.div_ceil(size.bytes()).min(first + CHUNK_BLOCKS);
        let end = end.min(last * size.bytes());
        let data = data.slice(..usize::try_from(end - offset).expect("invariant: within data"));
        let holes = self.holes(glock, dinode, first, last).await?;
        let mut group = None;
        let mut last = last;
        if holes > 0 || dinode.is_stuffed() {
            let (edit, reduced) = self.group_for_write(dinode, first, last).await?;
            group = Some(edit);
            last = reduced;
        }
        let end = end.min(last * size.bytes());
        let data = data.slice(..usize::try_from(end - offset).expect("invariant: within data"));
        let edges = self.read_edges(glock, dinode, offset, end).await?;
        self.apply_write(glock, dinode, group, offset, &data, edges).await?;
        Ok(data.len())
    }

    async fn write_stuffed(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        offset: u64,
        data: &[u8],
    ) -> Result<()> {
        let mut transaction = self.log.begin(2).await?;
        let start = usize::try_from(offset).expect("invariant: within a block");
        dinode.payload_mut()[start..start + data.len()].copy_from_slice(data);
        let end = offset + data.len() as u64;
        if end > dinode.head().size.get() {
            dinode.head_mut().size = end.into();
        }
        dinode.touch(self.wall_time(), true);
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }

    /// Blocks without a place between `first` and `last`.
    async fn holes(&self, glock: &Arc<Glock>, dinode: &DinodeBlock, first: u64, last: u64) -> Result<u64> {
        if dinode.is_stuffed() {
            return Ok(last - first);
        }
        let (mut at, mut holes) = (first, 0);
        while at < last {
            let run = self.map(glock, dinode, at, last - at).await?;
            if run.disk.is_none() {
                holes += run.count;
            }
            at += run.count;
        }
        Ok(holes)
    }

    /// A group with room for the write, or for a smaller one when space is scarce.
    pub(super) async fn group_for_write(
        &self,
        dinode: &DinodeBlock,
        first: u64,
        last: u64,
    ) -> Result<(GroupEdit, u64)> {
        let size = self.block_size();
        let goal = dinode.head().goal_data.get();
        let unstuff = u64::from(dinode.is_stuffed() && dinode.head().size.get() > 0);
        let mut last = last;
        loop {
            let height = dinode.head().height.get();
            let blocks = last - first + unstuff;
            let needed = blocks + TreeEdit::indirect_needed(size, height, first, last - first);
            match self.choose_group(goal, needed).await {
                Err(Error::NoSpace) if last - first > 1 => last = first + (last - first) / 2,
                other => return Ok((other?, last)),
            }
        }
    }

    /// Old content of the first and the last block where the write covers them partly.
    async fn read_edges(
        &self,
        glock: &Arc<Glock>,
        dinode: &DinodeBlock,
        offset: u64,
        end: u64,
    ) -> Result<[Option<Bytes>; 2]> {
        let size = self.block_size().bytes();
        let (first, last) = (offset / size, (end - 1) / size);
        let old_size = dinode.head().size.get();
        let mut edges = [None, None];
        if !offset.is_multiple_of(size) || first == last && !end.is_multiple_of(size) {
            edges[0] = Some(self.read_data(glock, dinode, first * size, old_size.min((first + 1) * size)).await?);
        }
        if last != first && !end.is_multiple_of(size) {
            edges[1] = Some(self.read_data(glock, dinode, last * size, old_size.min((last + 1) * size)).await?);
        }
        Ok(edges)
    }

    async fn apply_write(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        group: Option<GroupEdit>,
        offset: u64,
        data: &Bytes,
        edges: [Option<Bytes>; 2],
    ) -> Result<()> {
        let size = self.block_size();
        let end = offset + data.len() as u64;
        let (first, last) = (offset / size.bytes(), end.div_ceil(size.bytes()));
        let log_blocks = match &group {
            None => 2,
            Some(group) => {
                let height = dinode.head().height.get();
                group.log_blocks() + 4 + 2 * TreeEdit::indirect_needed(size, height, first, last - first)
            }
        };
        let mut transaction = self.log.begin(log_blocks).await?;
        if let Some(mut group) = group {
            self.unstuff(glock, dinode, &mut group).await?;
            let mut tree = TreeEdit::new(self, glock, dinode);
            tree.fill(&mut group, first, last - first).await?;
            tree.finish(&mut transaction);
            group.finish(&mut transaction);
            transaction.order_data(glock);
        }
        let mut at = first;
        while at < last {
            let run = self.map(glock, dinode, at, last - at).await?;
            let disk = run.disk.ok_or_else(|| self.lost_block(dinode, at))?;
            for i in 0..run.count {
                let edge = if at + i == first { &edges[0] } else { &edges[1] };
                let block = compose(size.as_usize(), (at + i) * size.bytes(), offset, data, edge.as_ref());
                glock.data.lock().expect("invariant: no panic under this lock").put_dirty(at + i, disk + i, block);
            }
            at += run.count;
        }
        if end > dinode.head().size.get() {
            dinode.head_mut().size = end.into();
        }
        dinode.touch(self.wall_time(), true);
        transaction.put(glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }

    fn lost_block(&self, dinode: &DinodeBlock, number: u64) -> Error {
        Error::Corrupt {
            block: dinode.address(),
            expected: format!("a block for file block {number}, allocated just now"),
            found: "a hole".into(),
        }
    }

    /// Moves stuffed data out of the dinode into a block of its own. Does nothing to an inode
    /// that has a tree.
    pub(crate) async fn unstuff(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        group: &mut GroupEdit,
    ) -> Result<()> {
        if !dinode.is_stuffed() {
            return Ok(());
        }
        let length = usize::try_from(dinode.head().size.get()).expect("invariant: stuffed data fits a block");
        let old = dinode.payload()[..length].to_vec();
        dinode.payload_mut().fill(0);
        dinode.head_mut().height = 1.into();
        if length == 0 {
            return Ok(());
        }
        let mut tree = TreeEdit::new(self, glock, dinode);
        let runs = tree.fill(group, 0, 1).await?;
        let disk = runs.first().map(|(_, disk, _)| *disk).ok_or(Error::NoSpace)?;
        let mut block = old;
        block.resize(self.block_size().as_usize(), 0);
        glock.data.lock().expect("invariant: no panic under this lock").put_dirty(0, disk, block.into());
        Ok(())
    }
}

/// Content of the file block that starts at byte `start`, after a write of `data` at `offset`.
fn compose(size: usize, start: u64, offset: u64, data: &Bytes, old: Option<&Bytes>) -> Bytes {
    let end = offset + data.len() as u64;
    let to_usize = |n: u64| usize::try_from(n).expect("invariant: within a request");
    if offset <= start && start + size as u64 <= end {
        let skip = to_usize(start - offset);
        return data.slice(skip..skip + size);
    }
    let mut block = BytesMut::zeroed(size);
    if let Some(old) = old {
        let count = old.len().min(size);
        block[..count].copy_from_slice(&old[..count]);
    }
    let (from, to) = (offset.max(start), end.min(start + size as u64));
    block[to_usize(from - start)..to_usize(to - start)]
        .copy_from_slice(&data[to_usize(from - offset)..to_usize(to - offset)]);
    block.freeze()
}
