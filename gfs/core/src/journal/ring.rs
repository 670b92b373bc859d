//! Where the blocks of a journal lie: a ring of blocks over the extents of the journal's inode.

use block_core::ByteOffset;
use gfs_format::BlockSize;

/// Fewer blocks cannot hold the largest change with what comes on top of it.
pub const BLOCKS_MIN: u64 = 256;

/// A run of blocks on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub start: u64,
    pub count: u64,
}

/// The journal's blocks, addressed by an absolute position that only grows.
#[derive(Clone, Debug)]
pub struct Ring {
    extents: Vec<Extent>,
    blocks: u64,
    block_size: BlockSize,
}

impl Ring {
    /// From the journal's extents in file order. `None` if they hold fewer blocks than a commit
    /// needs.
    pub fn new(extents: Vec<Extent>, block_size: BlockSize) -> Option<Ring> {
        let blocks = extents.iter().map(|extent| extent.count).sum();
        (blocks >= BLOCKS_MIN).then_some(Ring { extents, blocks, block_size })
    }

    /// Number of blocks in the ring.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Number of a position within the journal, as log headers have it.
    pub fn index(&self, position: u64) -> u32 {
        u32::try_from(position % self.blocks).expect("invariant: journals have less than 2^32 blocks")
    }

    /// Block address of a position, and how many positions follow it without a gap on the disk.
    pub fn address(&self, position: u64) -> (u64, u64) {
        let mut index = position % self.blocks;
        for extent in &self.extents {
            if index < extent.count {
                return (extent.start + index, extent.count - index);
            }
            index -= extent.count;
        }
        unreachable!("invariant: the extents hold `blocks` blocks")
    }

    /// Byte offset of a block address.
    pub fn offset(&self, address: u64) -> ByteOffset {
        ByteOffset(address * self.block_size.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap_and_cross_extents() {
        let size = BlockSize::new(4096).unwrap();
        let ring = Ring::new(vec![Extent { start: 100, count: 260 }, Extent { start: 500, count: 10 }], size).unwrap();
        assert_eq!(ring.address(0), (100, 260));
        assert_eq!(ring.address(259), (359, 1));
        assert_eq!(ring.address(260), (500, 10));
        assert_eq!(ring.address(270), (100, 260));
        assert_eq!(ring.index(541), 1);
        assert!(Ring::new(vec![Extent { start: 1, count: BLOCKS_MIN - 1 }], size).is_none());
    }
}
