//! Everything that follows from the block size: how many pointers, bytes and bits fit where.

use crate::dinode::Dinode;
use crate::directory::Leaf;
use crate::header::MetaHeader;
use crate::log::LogDescriptor;
use crate::resource_group::ResourceGroup;

/// A filesystem's block size in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u32);

/// Highest tree of pointers (`GFS2_MAX_META_HEIGHT`).
pub const META_HEIGHT_MAX: u16 = 10;
/// Deepest hash table: 2^17 pointers (`GFS2_DIR_MAX_DEPTH`).
pub const DIRECTORY_DEPTH_MAX: u16 = 17;
/// Longest file name in bytes.
pub const NAME_MAX: usize = 255;

impl BlockSize {
    /// `None` unless `bytes` is a power of two from 512 to 65536.
    pub const fn new(bytes: u32) -> Option<BlockSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 { Some(BlockSize(bytes)) } else { None }
    }

    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }

    pub const fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// Pointers in a dinode.
    pub const fn dinode_pointers(self) -> u64 {
        (self.bytes() - size_of::<Dinode>() as u64) / 8
    }

    /// Pointers in an indirect block.
    pub const fn indirect_pointers(self) -> u64 {
        (self.bytes() - size_of::<MetaHeader>() as u64) / 8
    }

    /// Bytes of file data that fit in the dinode itself ("stuffed").
    pub const fn stuffed_bytes(self) -> u64 {
        self.bytes() - size_of::<Dinode>() as u64
    }

    /// Bytes of content in a block of journaled data (directory hash tables).
    pub const fn journaled_bytes(self) -> u64 {
        self.bytes() - size_of::<MetaHeader>() as u64
    }

    /// Bytes of directory entries in a leaf.
    pub const fn leaf_bytes(self) -> u64 {
        self.bytes() - size_of::<Leaf>() as u64
    }

    /// Bytes of bitmap in the first block of a resource group.
    pub const fn group_header_bitmap_bytes(self) -> u64 {
        self.bytes() - size_of::<ResourceGroup>() as u64
    }

    /// Bytes of bitmap in each further block of a resource group.
    pub const fn group_bitmap_bytes(self) -> u64 {
        self.bytes() - size_of::<MetaHeader>() as u64
    }

    /// Block numbers in a metadata descriptor of the log.
    pub const fn descriptor_blocks(self) -> u64 {
        (self.bytes() - size_of::<LogDescriptor>() as u64) / 8
    }

    /// Revokes in the descriptor block itself.
    pub const fn descriptor_revokes(self) -> u64 {
        (self.bytes() - size_of::<LogDescriptor>() as u64) / 8
    }

    /// Revokes in each continuation block.
    pub const fn continuation_revokes(self) -> u64 {
        (self.bytes() - size_of::<MetaHeader>() as u64) / 8
    }

    /// Largest byte offset plus one that a pointer tree of `height` reaches, saturating. Height 0
    /// is a stuffed file.
    pub fn tree_bytes(self, height: u16) -> u64 {
        self.tree_bytes_of(height, self.bytes())
    }

    /// The same for journaled content of directories, whose data blocks carry a header.
    pub fn journaled_tree_bytes(self, height: u16) -> u64 {
        self.tree_bytes_of(height, self.journaled_bytes())
    }

    fn tree_bytes_of(self, height: u16, block_bytes: u64) -> u64 {
        if height == 0 {
            return self.stuffed_bytes();
        }
        let blocks = (1..height)
            .fold(u128::from(self.dinode_pointers()), |n, _| (n * u128::from(self.indirect_pointers())).min(1 << 100));
        u64::try_from(blocks * u128::from(block_bytes)).unwrap_or(u64::MAX)
    }
}
