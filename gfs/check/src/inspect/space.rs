//! What is in use: the state of a block, the use of a group, free space.

use gfs_format::bitmap;
use gfs_format::{BlockState, MetaHeader, MetaType, ResourceGroup, validate};

use super::error::InspectError;
use super::volume::{Group, Volume};

/// A resource group's header beside what its bitmap says.
#[derive(Clone, Debug)]
pub struct GroupUse {
    pub header: ResourceGroup,
    /// Blocks by state: free, used, unlinked, dinode.
    pub counted: [u64; 4],
    /// Runs of free blocks: the first block and the number of them.
    pub free_runs: Vec<(u64, u64)>,
}

/// Free space of a filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeSpace {
    /// Blocks that the bitmaps describe.
    pub total: u64,
    pub free: u64,
    pub unlinked: u64,
    pub dinodes: u64,
    /// Runs of free blocks.
    pub runs: u64,
    /// Blocks of the longest, and where it begins.
    pub longest: u64,
    pub longest_at: u64,
    /// Free blocks in runs of 2^n to 2^(n+1)-1 blocks.
    pub by_length: Vec<(u64, u64)>,
}

impl Volume {
    /// The bitmap of a group: two bits a block.
    pub async fn bitmap(&self, group: &Group) -> Result<(ResourceGroup, Vec<u8>), InspectError> {
        let bytes = self.block(group.address()).await?;
        let header = *validate::resource_group(&bytes, &group.entry)?;
        let wanted = group.entry.bitmap_bytes.get() as usize;
        let mut map = bytes.get(size_of::<ResourceGroup>()..).unwrap_or_default().to_vec();
        for block in group.address() + 1..group.data_start() {
            if map.len() >= wanted {
                break;
            }
            let bytes = self.typed(block, MetaType::ResourceGroupBitmap).await?;
            map.extend_from_slice(&bytes[size_of::<MetaHeader>()..]);
        }
        map.resize(wanted, 0);
        Ok((header, map))
    }

    /// Header and use of a group.
    pub async fn group_use(&self, group: &Group) -> Result<GroupUse, InspectError> {
        let (header, map) = self.bitmap(group).await?;
        let (mut counted, mut free_runs): ([u64; 4], Vec<(u64, u64)>) = ([0; 4], Vec::new());
        for index in 0..(group.entry.data_blocks.get() as usize).min(map.len() * 4) {
            let state = bitmap::get(&map, index);
            counted[state as usize] += 1;
            if state == BlockState::Free {
                let block = group.data_start() + index as u64;
                match free_runs.last_mut() {
                    Some((start, count)) if *start + *count == block => *count += 1,
                    _ => free_runs.push((block, 1)),
                }
            }
        }
        Ok(GroupUse { header, counted, free_runs })
    }

    /// The state of a block that a bitmap describes; `None` for others.
    pub async fn state_of(&self, block: u64) -> Result<Option<BlockState>, InspectError> {
        let Some(group) = self.group_of(block) else { return Ok(None) };
        let Some(index) = block.checked_sub(group.data_start()) else { return Ok(None) };
        let (_, map) = self.bitmap(group).await?;
        Ok((index < map.len() as u64 * 4).then(|| bitmap::get(&map, index as usize)))
    }

    /// Counts the free space of all groups. A run does not reach over the border of a group.
    pub async fn free_space(&self) -> Result<FreeSpace, InspectError> {
        let mut space = FreeSpace::default();
        let mut by_length = [0u64; 64];
        for group in self.groups()? {
            let used = self.group_use(group).await?;
            space.total += used.counted.iter().sum::<u64>();
            space.free += used.counted[BlockState::Free as usize];
            space.unlinked += used.counted[BlockState::Unlinked as usize];
            space.dinodes += used.counted[BlockState::Dinode as usize];
            space.runs += used.free_runs.len() as u64;
            for (start, count) in used.free_runs {
                by_length[count.ilog2() as usize] += count;
                if count > space.longest {
                    (space.longest, space.longest_at) = (count, start);
                }
            }
        }
        let lengths = by_length.into_iter().enumerate().filter(|(_, blocks)| *blocks > 0);
        space.by_length = lengths.map(|(power, blocks)| (1 << power, blocks)).collect();
        Ok(space)
    }
}
