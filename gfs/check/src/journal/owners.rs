//! Which file a block belongs to, by the walk that the check makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use block_core::BlockDevice;

use crate::report::Report;
use crate::source::CheckError;
use crate::walk::Tracker;

/// Whose a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Header or bitmap of the resource group at this block.
    ResourceGroup(u64),
    Superblock,
    /// An inode, and the path of one of its names. System files start with `//`, the master directory.
    Inode {
        inode: u64,
        path: Option<Vec<u8>>,
    },
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResourceGroup(address) => write!(f, "resource group {address}"),
            Self::Superblock => write!(f, "superblock"),
            Self::Inode { path: Some(path), .. } => write!(f, "{}", path.escape_ascii()),
            Self::Inode { inode, path: None } => write!(f, "inode {inode}"),
        }
    }
}

/// Finds the owners of `blocks`; one that is free, or that nothing leads to, is left out.
pub async fn owners(device: Arc<dyn BlockDevice>, blocks: &BTreeSet<u64>) -> Result<BTreeMap<u64, Owner>, CheckError> {
    let mut report = Report::default();
    let tracker = Tracker::new(blocks);
    let Some(walked) = crate::walk_all(device, Some(tracker), &mut report).await? else { return Ok(BTreeMap::new()) };
    let mut found = BTreeMap::new();
    let superblock = gfs_format::superblock::SUPERBLOCK_OFFSET / walked.block_size.bytes();
    if blocks.contains(&superblock) {
        found.insert(superblock, Owner::Superblock);
    }
    for block in blocks {
        if let Some(address) = walked.groups.group_of_header(*block) {
            found.insert(*block, Owner::ResourceGroup(address));
        }
    }
    let Some(tracker) = walked.tracker else { return Ok(found) };
    for (block, inode) in tracker.owned() {
        let path = path(&tracker, inode, walked.master, walked.root);
        found.insert(block, Owner::Inode { inode, path });
    }
    Ok(found)
}

/// Longest path that is put together; a deeper one is a loop.
const DEPTH_MAX: usize = 4096;

fn path(tracker: &Tracker, inode: u64, master: u64, root: u64) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut at = inode;
    while at != master && at != root {
        let (parent, name) = tracker.name_of(at)?;
        names.push(name);
        at = parent;
        if names.len() > DEPTH_MAX {
            return None;
        }
    }
    let mut path = if at == master { b"//".to_vec() } else { b"/".to_vec() };
    names.reverse();
    path.extend(names.join(&b'/'));
    Some(path)
}
