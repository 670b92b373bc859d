//! The pointer tree of an inode: from a block number in the file to a block of the disk.
//!
//! A tree of height h has h-1 levels of indirect blocks below the dinode's pointers. A zero
//! pointer at any level is a hole.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use gfs_format::{BlockSize, BlockState, MetaHeader, MetaType};
use zerocopy::IntoBytes;

use crate::alloc::GroupEdit;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::Glock;
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

/// Consecutive blocks of a file that lie together, or are a hole together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First block on the disk; `None` is a hole.
    pub disk: Option<u64>,
    pub count: u64,
}

/// Where a block number leads at each level.
struct Path {
    /// Index within the block of each level, the dinode first.
    indexes: Vec<u64>,
    /// File blocks below one pointer of each level.
    spans: Vec<u64>,
}

/// `None` if a tree of this height does not reach `number`.
fn path(size: BlockSize, height: u16, number: u64) -> Option<Path> {
    let fan = size.indirect_pointers();
    let mut spans = Vec::with_capacity(usize::from(height));
    let mut span = 1u64;
    for _ in 0..height {
        spans.push(span);
        span = span.saturating_mul(fan);
    }
    spans.reverse();
    let first = number / spans.first()?;
    if first >= size.dinode_pointers() {
        return None;
    }
    let indexes =
        spans.iter().enumerate().map(|(level, span)| if level == 0 { first } else { number / span % fan }).collect();
    Some(Path { indexes, spans })
}

fn pointer(bytes: &[u8], index: u64) -> u64 {
    let at = usize::try_from(index).expect("invariant: within a block") * 8;
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("invariant: 8 bytes"))
}

fn set_pointer(bytes: &mut [u8], index: u64, value: u64) {
    let at = usize::try_from(index).expect("invariant: within a block") * 8;
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// The run that starts at pointer `index`.
fn run_at(pointers: &[u8], index: u64, max: u64) -> Run {
    let first = pointer(pointers, index);
    let left = (pointers.len() as u64 / 8 - index).min(max);
    let follows = |i: u64| pointer(pointers, index + i) == if first == 0 { 0 } else { first + i };
    let count = (1..left).take_while(|i| follows(*i)).count() as u64 + 1;
    Run { disk: (first != 0).then_some(first), count }
}

impl Fs {
    /// The run of at most `max` blocks that starts at file block `number`.
    pub(crate) async fn map(&self, glock: &Arc<Glock>, inode: &DinodeBlock, number: u64, max: u64) -> Result<Run> {
        let size = self.block_size();
        let Some(path) = path(size, inode.head().height.get(), number) else {
            return Ok(Run { disk: None, count: max });
        };
        let mut block: Option<Bytes> = None;
        for (level, (index, span)) in path.indexes.iter().zip(&path.spans).enumerate() {
            let pointers = block.as_ref().map_or(inode.payload(), |block| &block[size_of::<MetaHeader>()..]);
            if level + 1 == path.indexes.len() {
                let run = run_at(pointers, *index, max);
                if let Some(disk) = run.disk {
                    self.check_range(disk, run.count)?;
                }
                return Ok(run);
            }
            let next = pointer(pointers, *index);
            if next == 0 {
                return Ok(Run { disk: None, count: max.min(span - number % span) });
            }
            block = Some(self.read_block(glock, next, MetaType::Indirect).await?);
        }
        unreachable!("invariant: a path has a last level")
    }
}

/// Changes of one tree within a transaction.
pub struct TreeEdit<'a> {
    fs: &'a Fs,
    glock: &'a Arc<Glock>,
    pub inode: &'a mut DinodeBlock,
    changed: BTreeMap<u64, Vec<u8>>,
}

impl<'a> TreeEdit<'a> {
    pub fn new(fs: &'a Fs, glock: &'a Arc<Glock>, inode: &'a mut DinodeBlock) -> TreeEdit<'a> {
        TreeEdit { fs, glock, inode, changed: BTreeMap::new() }
    }

    /// Indirect blocks that mapping `count` more blocks from `number` on may need at most.
    pub fn indirect_needed(size: BlockSize, height: u16, number: u64, count: u64) -> u64 {
        let mut new_height = height.max(1);
        while path(size, new_height, number + count.max(1) - 1).is_none() {
            new_height += 1;
        }
        let fan = size.indirect_pointers();
        let growth = u64::from(new_height - height.max(1));
        let mut below = count;
        let mut levels = 0;
        for _ in 1..new_height {
            below = below / fan + 2;
            levels += below;
        }
        growth + levels
    }

    async fn block(&self, number: u64) -> Result<Vec<u8>> {
        match self.changed.get(&number) {
            Some(block) => Ok(block.clone()),
            None => Ok(self.fs.read_block(self.glock, number, MetaType::Indirect).await?.to_vec()),
        }
    }

    fn new_indirect(&mut self, group: &mut GroupEdit) -> Result<u64> {
        let goal = self.inode.head().goal_meta.get();
        let (block, _) = group.allocate(&self.fs.log, goal, 1, BlockState::Used).ok_or(Error::NoSpace)?;
        let mut bytes = vec![0; self.fs.block_size().as_usize()];
        bytes[..size_of::<MetaHeader>()].copy_from_slice(MetaHeader::new(MetaType::Indirect).as_bytes());
        self.changed.insert(block, bytes);
        let head = self.inode.head_mut();
        head.goal_meta = block.into();
        head.blocks = (head.blocks.get() + 1).into();
        Ok(block)
    }

    /// Makes the tree high enough for file block `number`.
    fn grow(&mut self, group: &mut GroupEdit, number: u64) -> Result<()> {
        let size = self.fs.block_size();
        while path(size, self.inode.head().height.get(), number).is_none() {
            let height = self.inode.head().height.get() + 1;
            if height > gfs_format::geometry::META_HEIGHT_MAX {
                return Err(Error::FileTooLarge);
            }
            if height > 1 && self.inode.payload().iter().any(|byte| *byte != 0) {
                let block = self.new_indirect(group)?;
                let pointers = usize::try_from(size.dinode_pointers()).expect("invariant: fits a block") * 8;
                let old = self.inode.payload()[..pointers].to_vec();
                let bytes = self.changed.get_mut(&block).expect("invariant: just made");
                bytes[size_of::<MetaHeader>()..size_of::<MetaHeader>() + old.len()].copy_from_slice(&old);
                self.inode.payload_mut().fill(0);
                set_pointer(self.inode.payload_mut(), 0, block);
            }
            self.inode.head_mut().height = height.into();
        }
        Ok(())
    }

    /// Maps file blocks from `number` to `disk` on, at most `count`, up to the end of a leaf of
    /// the tree; returns how many. The blocks are the caller's; indirect blocks are made here.
    pub async fn set_run(&mut self, group: &mut GroupEdit, number: u64, disk: u64, count: u64) -> Result<u64> {
        self.grow(group, number)?;
        let size = self.fs.block_size();
        let path = path(size, self.inode.head().height.get(), number).ok_or(Error::FileTooLarge)?;
        let mut at: Option<u64> = None;
        for (level, index) in path.indexes.iter().enumerate() {
            let is_leaf = level + 1 == path.indexes.len();
            let mut bytes = match at {
                Some(block) => self.block(block).await?,
                None => Vec::new(),
            };
            let skip = if at.is_some() { size_of::<MetaHeader>() } else { 0 };
            let pointers = if at.is_some() { &mut bytes[skip..] } else { self.inode.payload_mut() };
            if is_leaf {
                let fit = (pointers.len() as u64 / 8 - index).min(count);
                for i in 0..fit {
                    set_pointer(pointers, index + i, disk + i);
                }
                if let Some(block) = at {
                    self.changed.insert(block, bytes);
                }
                return Ok(fit);
            }
            let mut next = pointer(pointers, *index);
            if next == 0 {
                next = self.new_indirect(group)?;
                let pointers = if at.is_some() { &mut bytes[skip..] } else { self.inode.payload_mut() };
                set_pointer(pointers, *index, next);
                if let Some(block) = at {
                    self.changed.insert(block, bytes);
                }
            }
            at = Some(next);
        }
        unreachable!("invariant: a path has a last level")
    }

    /// Gives every hole of `count` blocks from `number` on a block of the disk. Returns the new
    /// runs: file block, disk block, count.
    pub async fn fill(&mut self, group: &mut GroupEdit, number: u64, count: u64) -> Result<Vec<(u64, u64, u64)>> {
        let mut new_runs = Vec::new();
        let (mut at, end) = (number, number + count);
        while at < end {
            let run = self.lookup(at, end - at).await?;
            if let Some(disk) = run.disk {
                self.inode.head_mut().goal_data = (disk + run.count - 1).into();
                at += run.count;
                continue;
            }
            let goal = self.inode.head().goal_data.get() + 1;
            let (disk, got) = group.allocate(&self.fs.log, goal, run.count, BlockState::Used).ok_or(Error::NoSpace)?;
            let mut mapped = 0;
            while mapped < got {
                mapped += self.set_run(group, at + mapped, disk + mapped, got - mapped).await?;
            }
            let head = self.inode.head_mut();
            head.blocks = (head.blocks.get() + got).into();
            head.goal_data = (disk + got - 1).into();
            new_runs.push((at, disk, got));
            at += got;
        }
        Ok(new_runs)
    }

    /// Like `Fs::map`, with the changes made so far.
    async fn lookup(&self, number: u64, max: u64) -> Result<Run> {
        let size = self.fs.block_size();
        let Some(path) = path(size, self.inode.head().height.get(), number) else {
            return Ok(Run { disk: None, count: max });
        };
        let mut block: Option<Vec<u8>> = None;
        for (level, (index, span)) in path.indexes.iter().zip(&path.spans).enumerate() {
            let pointers = block.as_ref().map_or(self.inode.payload(), |block| &block[size_of::<MetaHeader>()..]);
            if level + 1 == path.indexes.len() {
                return Ok(run_at(pointers, *index, max));
            }
            let next = pointer(pointers, *index);
            if next == 0 {
                return Ok(Run { disk: None, count: max.min(span - number % span) });
            }
            block = Some(self.block(next).await?);
        }
        unreachable!("invariant: a path has a last level")
    }

    /// Puts the changed indirect blocks into the transaction; the dinode is the caller's.
    pub fn finish(self, transaction: &mut Transaction<'_>) {
        for (block, bytes) in self.changed {
            transaction.put(self.glock, block, bytes.into());
        }
    }
}

/// Blocks to free from a tree, and the pointers that are cleared with them.
#[derive(Default)]
pub struct Cut {
    pub data: Vec<u64>,
    pub indirect: Vec<u64>,
    /// Indirect blocks that stay, with their new content.
    pub changed: BTreeMap<u64, Vec<u8>>,
    /// New content of the dinode's pointers.
    pub root: Vec<u8>,
    /// Whether everything that is wanted is in this cut.
    pub is_complete: bool,
}

impl Fs {
    /// Plans the removal of at most about `max` blocks of the tree from the file blocks `range`,
    /// last first, so that what is left is always a tree.
    pub(crate) async fn plan_cut(
        &self,
        glock: &Arc<Glock>,
        inode: &DinodeBlock,
        range: &Range<u64>,
        max: usize,
    ) -> Result<Cut> {
        let size = self.block_size();
        let height = inode.head().height.get();
        let mut cut = Cut { root: inode.payload().to_vec(), is_complete: true, ..Cut::default() };
        let Some(top) = path(size, height, 0) else { return Ok(cut) };
        let mut root = std::mem::take(&mut cut.root);
        let mut span_start = size.dinode_pointers();
        while span_start > 0 {
            let index = span_start - 1;
            let span = top.spans[0];
            if (index + 1).saturating_mul(span) <= range.start {
                break;
            }
            let child = pointer(&root, index);
            if child != 0 && index.saturating_mul(span) < range.end {
                if cut.data.len() + cut.indirect.len() >= max {
                    cut.is_complete = false;
                    break;
                }
                let is_gone = self
                    .cut_below(glock, &mut cut, child, &top.spans[1..], index.saturating_mul(span), range, max)
                    .await?;
                if is_gone {
                    set_pointer(&mut root, index, 0);
                } else if !cut.is_complete {
                    break;
                }
            }
            span_start = index;
        }
        cut.root = root;
        Ok(cut)
    }

    /// Cuts below one pointer; true if the block it points to is to be freed as well.
    fn cut_below<'a>(
        &'a self,
        glock: &'a Arc<Glock>,
        cut: &'a mut Cut,
        block: u64,
        spans: &'a [u64],
        first: u64,
        range: &'a Range<u64>,
        max: usize,
    ) -> base::BoxFuture<'a, Result<bool>> {
        Box::pin(async move {
            self.check_range(block, 1)?;
            let Some((span, below)) = spans.split_first() else {
                cut.data.push(block);
                return Ok(true);
            };
            let mut bytes = self.read_block(glock, block, MetaType::Indirect).await?.to_vec();
            let skip = size_of::<MetaHeader>();
            let mut has_changed = false;
            for index in (0..self.block_size().indirect_pointers()).rev() {
                let start = first.saturating_add(index.saturating_mul(*span));
                if start.saturating_add(*span) <= range.start {
                    break;
                }
                let child = pointer(&bytes[skip..], index);
                if child == 0 || start >= range.end {
                    continue;
                }
                if cut.data.len() + cut.indirect.len() >= max {
                    cut.is_complete = false;
                    break;
                }
                if self.cut_below(glock, cut, child, below, start, range, max).await? {
                    set_pointer(&mut bytes[skip..], index, 0);
                    has_changed = true;
                } else if !cut.is_complete {
                    break;
                }
            }
            if bytes[skip..].iter().all(|byte| *byte == 0) {
                cut.indirect.push(block);
                cut.changed.remove(&block);
                return Ok(true);
            }
            if has_changed {
                cut.changed.insert(block, bytes);
            }
            Ok(false)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> BlockSize {
        BlockSize::new(4096).unwrap()
    }

    #[test]
    fn a_path_ends_where_the_tree_does() {
        assert_eq!(path(size(), 1, 482).unwrap().indexes, [482]);
        assert!(path(size(), 1, 483).is_none());
        assert_eq!(path(size(), 2, 509).unwrap().indexes, [1, 0]);
        assert!(path(size(), 2, 483 * 509).is_none());
        assert!(path(size(), 0, 0).is_none());
    }

    #[test]
    fn runs_of_holes_and_of_neighbours_are_counted() {
        let pointers: Vec<u8> = [7u64, 8, 9, 0, 0, 20].iter().flat_map(|p| p.to_be_bytes()).collect();
        assert_eq!(run_at(&pointers, 0, 10), Run { disk: Some(7), count: 3 });
        assert_eq!(run_at(&pointers, 1, 1), Run { disk: Some(8), count: 1 });
        assert_eq!(run_at(&pointers, 3, 10), Run { disk: None, count: 2 });
        assert_eq!(run_at(&pointers, 5, 10), Run { disk: Some(20), count: 1 });
    }

    #[test]
    fn needed_indirect_blocks_cover_growth_and_leaves() {
        assert_eq!(TreeEdit::indirect_needed(size(), 1, 0, 100), 0);
        assert!(TreeEdit::indirect_needed(size(), 1, 483, 1) >= 2);
        assert!(TreeEdit::indirect_needed(size(), 0, 500, 256) >= 1);
    }
}
