//! File data in memory, owned by the inode's glock: dirty blocks with their place on the disk,
//! and a few clean ones that the next small write is likely to need.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use block_core::{BlockDevice, ByteOffset, Durability};
use bytes::Bytes;
use gfs_format::BlockSize;

use crate::error::Result;
use crate::glock::Glock;
use crate::journal::start_all;

/// Clean blocks kept for one inode.
const CLEAN_BLOCKS_MAX: usize = 2;
/// Blocks in one device write.
const WRITE_BLOCKS_MAX: usize = 256;

struct Page {
    data: Bytes,
    disk: u64,
    is_dirty: bool,
}

/// Blocks of one file by their number in the file.
#[derive(Default)]
pub struct DataCache {
    pages: BTreeMap<u64, Page>,
    dirty: usize,
    /// Data was written in place, and perhaps not flushed since.
    is_unflushed: bool,
}

impl DataCache {
    /// Block `number` of the file if it is here.
    pub fn get(&self, number: u64) -> Option<&Bytes> {
        self.pages.get(&number).map(|page| &page.data)
    }

    /// Whether any block from `from` to `to` is here.
    pub fn has_any(&self, from: u64, to: u64) -> bool {
        self.pages.range(from..to).next().is_some()
    }

    /// A block that was written, to go to `disk`.
    pub fn put_dirty(&mut self, number: u64, disk: u64, data: Bytes) {
        let old = self.pages.insert(number, Page { data, disk, is_dirty: true });
        if !old.is_some_and(|page| page.is_dirty) {
            self.dirty += 1;
        }
    }

    /// Drops the blocks in `range`: they are no longer of the file.
    pub fn remove(&mut self, range: &Range<u64>) {
        let mut cut = self.pages.split_off(&range.start);
        let mut behind = cut.split_off(&range.end);
        self.dirty -= cut.values().filter(|page| page.is_dirty).count();
        self.pages.append(&mut behind);
    }

    /// Number of dirty blocks.
    pub fn dirty(&self) -> usize {
        self.dirty
    }

    pub fn clear(&mut self) {
        self.pages.clear();
        self.dirty = 0;
    }

    /// Whether data may be in the device's cache only; the caller flushes it.
    pub fn take_unflushed(&mut self) -> bool {
        std::mem::take(&mut self.is_unflushed)
    }

    fn take_dirty(&mut self) -> Vec<(u64, u64, Bytes)> {
        let mut taken = Vec::with_capacity(self.dirty);
        for (number, page) in self.pages.iter_mut().filter(|(_, page)| page.is_dirty) {
            page.is_dirty = false;
            taken.push((page.disk, *number, page.data.clone()));
        }
        self.dirty = 0;
        taken.sort_unstable_by_key(|(disk, _, _)| *disk);
        taken
    }

    fn trim(&mut self) {
        let clean = self.pages.values().filter(|page| !page.is_dirty).count();
        if clean > CLEAN_BLOCKS_MAX {
            // The end of the file is what an append needs next.
            let keep: Vec<u64> = self
                .pages
                .iter()
                .rev()
                .filter(|(_, page)| !page.is_dirty)
                .map(|(n, _)| *n)
                .take(CLEAN_BLOCKS_MAX)
                .collect();
            self.pages.retain(|number, page| page.is_dirty || keep.contains(number));
        }
        for page in self.pages.values_mut().filter(|page| !page.is_dirty) {
            // A copy: it may be a part of the buffer of a whole request.
            page.data = Bytes::copy_from_slice(&page.data);
        }
    }
}

/// Writes the dirty data of an inode in place (cached: the caller flushes the device). When it
/// returns, no older write of the inode's data is under way either.
pub async fn write_back(device: &Arc<dyn BlockDevice>, size: BlockSize, inode: &Arc<Glock>) -> Result<()> {
    let _one_at_a_time = inode.writeback.lock().await;
    let dirty = inode.data.lock().expect("invariant: no panic under this lock").take_dirty();
    if dirty.is_empty() {
        return Ok(());
    }
    let mut writes = Vec::new();
    let mut run: Vec<Bytes> = Vec::new();
    let mut run_start = 0;
    let offset = |block: u64| ByteOffset(block * size.bytes());
    for (disk, _, data) in dirty {
        if !run.is_empty() && (run_start + run.len() as u64 != disk || run.len() == WRITE_BLOCKS_MAX) {
            writes.push(device.write(offset(run_start), std::mem::take(&mut run), Durability::Cached));
        }
        if run.is_empty() {
            run_start = disk;
        }
        run.push(data);
    }
    writes.push(device.write(offset(run_start), run, Durability::Cached));
    for write in start_all(writes).await {
        // The mount withdraws on an error, so nothing has to be marked dirty again.
        write?;
    }
    let mut data = inode.data.lock().expect("invariant: no panic under this lock");
    data.trim();
    data.is_unflushed = true;
    Ok(())
}
