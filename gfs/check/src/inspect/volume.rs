//! A filesystem that is being looked at: its superblock, its resource index, its blocks and inodes.

use std::sync::Arc;

use block_core::BlockDevice;
use bytes::Bytes;
use gfs_format::dinode::{DINODE_BYTES, flags};
use gfs_format::superblock::SUPERBLOCK_OFFSET;
use gfs_format::validate::{self, Reach};
use gfs_format::{BlockSize, Dinode, MetaType, ResourceIndexEntry, Superblock};
use zerocopy::FromBytes;

use super::error::InspectError;
use crate::source::Source;

/// Files and directories of the master directory.
pub const SYSTEM_FILES: [&str; 6] = ["jindex", "per_node", "inum", "statfs", "rindex", "quota"];

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;

/// An open filesystem.
pub struct Volume {
    pub(super) source: Source,
    pub superblock: Superblock,
    /// What inodes and pointers may name: the range of the resource groups, or of the device while those are unknown.
    pub reach: Reach,
    groups: Result<Vec<Group>, InspectError>,
}

/// One resource group, as the index has it.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its place in the index, from 0.
    pub index: usize,
    pub entry: ResourceIndexEntry,
}

impl Group {
    /// Block of its header.
    pub fn address(&self) -> u64 {
        self.entry.address.get()
    }

    /// First block that its bitmap describes.
    pub fn data_start(&self) -> u64 {
        self.entry.data_start.get()
    }

    /// The first block behind the last that its bitmap describes.
    pub fn end(&self) -> u64 {
        self.data_start() + u64::from(self.entry.data_blocks.get())
    }
}

/// An inode that has been read and validated.
#[derive(Clone, Debug)]
pub struct Inode {
    pub address: u64,
    pub dinode: Dinode,
    /// The whole block.
    pub block: Bytes,
}

impl Inode {
    pub fn is_directory(&self) -> bool {
        self.dinode.mode.get() & S_IFMT == S_IFDIR
    }

    /// Whether a hash table finds its entries.
    pub fn is_hashed(&self) -> bool {
        self.is_directory() && self.dinode.flags.get() & flags::EXHASH != 0
    }

    /// What follows the fixed part: stuffed content or pointers.
    pub fn body(&self) -> &[u8] {
        self.block.get(DINODE_BYTES..).unwrap_or_default()
    }
}

impl Volume {
    /// Reads the superblock, and the resource index if that can be read.
    pub async fn open(device: Arc<dyn BlockDevice>) -> Result<Volume, InspectError> {
        let (source, superblock) = Source::open(device).await?;
        let start = SUPERBLOCK_OFFSET / source.block.bytes() + 1;
        let reach = Reach { start, end: source.blocks.max(start + 1) };
        let mut volume = Volume { source, superblock, reach, groups: Ok(Vec::new()) };
        volume.groups = volume.read_index().await;
        if let Ok(groups) = &volume.groups
            && let (Some(first), Some(last)) = (groups.first(), groups.last())
        {
            volume.reach = Reach { start: first.data_start(), end: last.end() };
        }
        Ok(volume)
    }

    pub fn block_size(&self) -> BlockSize {
        self.source.block
    }

    /// Whole blocks of the device.
    pub fn device_blocks(&self) -> u64 {
        self.source.blocks
    }

    /// Block of the superblock.
    pub fn superblock_block(&self) -> u64 {
        SUPERBLOCK_OFFSET / self.source.block.bytes()
    }

    /// The resource groups by rising address; the error when the index could not be read.
    pub fn groups(&self) -> Result<&[Group], InspectError> {
        self.groups.as_deref().map_err(Clone::clone)
    }

    /// The group whose header, bitmap or data `block` is; `None` for what lies before the groups or behind.
    pub fn group_of(&self, block: u64) -> Option<&Group> {
        let groups = self.groups.as_ref().ok()?;
        let after = groups.partition_point(|group| group.address() <= block);
        groups.get(after.checked_sub(1)?).filter(|group| block < group.end())
    }

    /// A block of the device, whatever is in it.
    pub async fn block(&self, block: u64) -> Result<Bytes, InspectError> {
        if block >= self.source.blocks {
            return Err(InspectError::OutOfDevice { block, device_blocks: self.source.blocks });
        }
        Ok(self.source.read(block).await?)
    }

    /// A block of type `kind`.
    pub async fn typed(&self, block: u64, kind: MetaType) -> Result<Bytes, InspectError> {
        let bytes = self.block(block).await?;
        validate::header(block, &bytes, kind)?;
        Ok(bytes)
    }

    /// The inode at `address`.
    pub async fn inode(&self, address: u64) -> Result<Inode, InspectError> {
        let block = self.block(address).await?;
        let dinode = *validate::dinode(address, &block, self.source.block, self.reach)?;
        Ok(Inode { address, dinode, block })
    }

    /// The master directory.
    pub async fn master(&self) -> Result<Inode, InspectError> {
        self.inode(self.superblock.master_directory.address.get()).await
    }

    /// The root directory of the files.
    pub async fn root(&self) -> Result<Inode, InspectError> {
        self.inode(self.superblock.root_directory.address.get()).await
    }

    /// The file or directory `name` of the master directory.
    pub async fn system_file(&self, name: &'static str) -> Result<Inode, InspectError> {
        let master = self.master().await?;
        match self.find(&master, name.as_bytes()).await? {
            Some(entry) => self.inode(entry.address).await,
            None => Err(InspectError::NoSystemFile { name }),
        }
    }

    async fn read_index(&self) -> Result<Vec<Group>, InspectError> {
        let rindex = self.system_file("rindex").await?;
        let bytes = rindex.dinode.size.get();
        let content = self.content(&rindex).await?;
        if content.is_empty() || !content.len().is_multiple_of(size_of::<ResourceIndexEntry>()) {
            return Err(InspectError::Index { inode: rindex.address, bytes });
        }
        let mut groups: Vec<Group> = Vec::new();
        for (index, bytes) in content.chunks_exact(size_of::<ResourceIndexEntry>()).enumerate() {
            let Ok(entry) = ResourceIndexEntry::read_from_bytes(bytes) else { continue };
            let from = groups.last().map_or(self.superblock_block() + 1, Group::end);
            validate::resource_index_entry(rindex.address, &entry, self.source.block, from, self.source.blocks)?;
            groups.push(Group { index, entry });
        }
        Ok(groups)
    }
}
