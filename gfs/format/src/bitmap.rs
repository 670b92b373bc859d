//! Two bits a block: the state of every block of a resource group.

/// What a block is in use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlockState {
    Free = 0,
    /// Data or metadata other than a dinode.
    Used = 1,
    /// A dinode without a name that is still open somewhere.
    Unlinked = 2,
    Dinode = 3,
}

/// Blocks that one byte describes.
pub const BLOCKS_PER_BYTE: u64 = 4;

impl BlockState {
    /// From the two low bits.
    pub fn from_bits(bits: u8) -> BlockState {
        match bits & 3 {
            0 => BlockState::Free,
            1 => BlockState::Used,
            2 => BlockState::Unlinked,
            _ => BlockState::Dinode,
        }
    }
}

/// State of block `index` of a bitmap. Panics when the bitmap is too short.
pub fn get(bitmap: &[u8], index: usize) -> BlockState {
    BlockState::from_bits(bitmap[index / 4] >> (index % 4 * 2))
}

/// Sets the state of block `index` of a bitmap. Panics when the bitmap is too short.
pub fn set(bitmap: &mut [u8], index: usize, state: BlockState) {
    let shift = index % 4 * 2;
    let byte = &mut bitmap[index / 4];
    *byte = (*byte & !(3 << shift)) | ((state as u8) << shift);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_is_in_the_low_bits() {
        let mut map = [0u8; 2];
        set(&mut map, 0, BlockState::Dinode);
        set(&mut map, 5, BlockState::Unlinked);
        assert_eq!(map, [0b11, 0b1000]);
        assert_eq!(get(&map, 5), BlockState::Unlinked);
        set(&mut map, 5, BlockState::Free);
        assert_eq!(map, [0b11, 0]);
    }
}
