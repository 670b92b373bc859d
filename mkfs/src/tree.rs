//! The pointer tree of a file: how many blocks of pointers it takes, and what is in them.

use gfs_format::{BlockSize, MetaHeader, MetaType};
use zerocopy::IntoBytes;

/// Number of pointer blocks of each level, from the one that the dinode points to down to the one
/// that points to data. Empty when the dinode points to the data itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeShape {
    pub levels: Vec<u64>,
    pub data_blocks: u64,
}

impl TreeShape {
    /// The lowest tree over `data_blocks` (at least one) blocks.
    pub fn of_file(block: BlockSize, data_blocks: u64) -> TreeShape {
        let mut levels = Vec::new();
        let mut below = data_blocks;
        while below > block.dinode_pointers() {
            below = below.div_ceil(block.indirect_pointers());
            levels.insert(0, below);
        }
        TreeShape { levels, data_blocks }
    }

    /// `di_height`.
    pub fn height(&self) -> u16 {
        self.levels.len() as u16 + 1
    }

    /// Blocks of pointers.
    pub fn pointer_blocks(&self) -> u64 {
        self.levels.iter().sum()
    }

    /// `di_blocks`: the dinode, the pointers and the data.
    pub fn blocks(&self) -> u64 {
        1 + self.pointer_blocks() + self.data_blocks
    }

    /// The pointers of the dinode and the content of every pointer block. `pointers` has the
    /// addresses of the pointer blocks level by level; `data` those of the data.
    pub fn build(&self, block: BlockSize, pointers: &[u64], data: &[u64]) -> (Vec<u64>, Vec<(u64, Vec<u8>)>) {
        let mut written = Vec::with_capacity(pointers.len());
        let mut below = data;
        let mut level_end = pointers.len();
        for count in self.levels.iter().rev() {
            let level = &pointers[level_end - *count as usize..level_end];
            for (address, children) in level.iter().zip(below.chunks(block.indirect_pointers() as usize)) {
                written.push((*address, pointer_block(block, children)));
            }
            below = level;
            level_end -= level.len();
        }
        (below.to_vec(), written)
    }
}

fn pointer_block(block: BlockSize, children: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(block.as_usize());
    bytes.extend_from_slice(MetaHeader::new(MetaType::Indirect).as_bytes());
    for child in children {
        bytes.extend_from_slice(&child.to_be_bytes());
    }
    bytes.resize(block.as_usize(), 0);
    bytes
}
