//! What an inode owns: its pointer tree, its data as extents, its content.

use bytes::Bytes;
use gfs_format::{MetaHeader, MetaType, validate};

use super::error::InspectError;
use super::volume::{Inode, Volume};

/// What a block is to the inode that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The inode itself.
    Dinode,
    /// Pointers, `level` steps below the inode.
    Indirect {
        level: u16,
    },
    Data,
    /// Part of a directory's hash table.
    HashTable,
    /// Entries of a directory.
    Leaf,
    /// Pointers to attribute blocks.
    AttributeIndirect,
    Attributes,
    /// The value of an attribute.
    AttributeValue,
}

impl Role {
    /// One word for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dinode => "dinode",
            Self::Indirect { .. } => "indirect",
            Self::Data => "data",
            Self::HashTable => "hash-table",
            Self::Leaf => "leaf",
            Self::AttributeIndirect => "attribute-indirect",
            Self::Attributes => "attributes",
            Self::AttributeValue => "attribute-value",
        }
    }
}

/// Blocks of a file's data that lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its place in the file, in blocks.
    pub logical: u64,
    /// Its first block on the device.
    pub block: u64,
    /// Blocks.
    pub count: u64,
}

/// Bytes of the largest content that is read as a whole: an index of two million groups.
const CONTENT_MAX: u64 = 1 << 28;

/// A block of a pointer tree that has been met.
struct Step {
    block: u64,
    level: u16,
    /// First block of the file that it leads to.
    logical: u64,
}

impl Volume {
    /// Every block that an inode owns, each with its role: the inode, its tree, leaves, attributes.
    pub async fn blocks_of(&self, inode: &Inode) -> Result<Vec<(u64, Role)>, InspectError> {
        let mut found = vec![(inode.address, Role::Dinode)];
        let last = if inode.is_directory() { Role::HashTable } else { Role::Data };
        self.walk(inode, |step| {
            let is_data = step.level == inode.dinode.height.get();
            found.push((step.block, if is_data { last } else { Role::Indirect { level: step.level } }));
        })
        .await?;
        if inode.is_hashed() {
            found.extend(self.leaves(inode).await?.into_iter().map(|(block, _)| (block, Role::Leaf)));
        }
        self.attribute_blocks(inode, &mut found).await?;
        Ok(found)
    }

    /// The data of a file, or a directory's hash table, as extents in the order of the file. Holes are left out.
    pub async fn extents(&self, inode: &Inode) -> Result<Vec<Extent>, InspectError> {
        let mut extents: Vec<Extent> = Vec::new();
        self.walk(inode, |step| {
            if step.level != inode.dinode.height.get() {
                return;
            }
            match extents.last_mut() {
                Some(last) if last.block + last.count == step.block && last.logical + last.count == step.logical => {
                    last.count += 1;
                }
                _ => extents.push(Extent { logical: step.logical, block: step.block, count: 1 }),
            }
        })
        .await?;
        Ok(extents)
    }

    /// The content of a small file, a system file or a hash table; holes read as zeroes. At most 256 MiB.
    pub async fn content(&self, inode: &Inode) -> Result<Vec<u8>, InspectError> {
        let size = inode.dinode.size.get().min(CONTENT_MAX);
        if inode.dinode.height.get() == 0 {
            return Ok(inode.body().get(..size as usize).unwrap_or_default().to_vec());
        }
        let skip = if inode.is_directory() { size_of::<MetaHeader>() } else { 0 };
        let per_block = self.source.block.bytes() - skip as u64;
        let mut content = vec![0; size as usize];
        for extent in self.extents(inode).await? {
            for index in 0..extent.count {
                let at = (extent.logical + index).saturating_mul(per_block);
                if at >= size {
                    break;
                }
                let bytes = if skip == 0 {
                    self.block(extent.block + index).await?
                } else {
                    self.typed(extent.block + index, MetaType::JournaledData).await?
                };
                let into = &mut content[at as usize..(at + per_block).min(size) as usize];
                into.copy_from_slice(&bytes[skip..skip + into.len()]);
            }
        }
        Ok(content)
    }

    /// Calls `met` for every block of the tree below an inode, in the order of the file, pointers before what they
    /// lead to.
    async fn walk(&self, inode: &Inode, mut met: impl FnMut(&Step)) -> Result<(), InspectError> {
        let height = inode.dinode.height.get();
        if height == 0 {
            return Ok(());
        }
        let mut pending = Vec::new();
        self.push(
            inode.address,
            inode.body(),
            &Step { block: inode.address, level: 0, logical: 0 },
            height,
            &mut pending,
        )?;
        let mut seen = 0u64;
        while let Some(step) = pending.pop() {
            seen += 1;
            if seen > self.source.blocks {
                return Err(InspectError::Endless { inode: inode.address, device_blocks: self.source.blocks });
            }
            met(&step);
            if step.level < height {
                let bytes: Bytes = self.typed(step.block, MetaType::Indirect).await?;
                self.push(step.block, &bytes[size_of::<MetaHeader>()..], &step, height, &mut pending)?;
            }
        }
        Ok(())
    }

    /// Puts the blocks that `area` points to on the pile, the last first.
    fn push(
        &self,
        block: u64,
        area: &[u8],
        from: &Step,
        height: u16,
        pending: &mut Vec<Step>,
    ) -> Result<(), InspectError> {
        validate::pointers(block, area, self.reach)?;
        let level = from.level + 1;
        // Blocks of the file that one pointer of this level leads to.
        let below = u32::from(height - level);
        let span = u64::try_from(u128::from(self.source.block.indirect_pointers()).pow(below)).unwrap_or(u64::MAX);
        let pointers = area.as_chunks::<8>().0.iter().enumerate();
        pending.extend(pointers.rev().filter_map(|(index, pointer)| {
            let block = u64::from_be_bytes(*pointer);
            let logical = from.logical.saturating_add((index as u64).saturating_mul(span));
            (block != 0).then_some(Step { block, level, logical })
        }));
        Ok(())
    }
}
