//! Changes of a filesystem that exists: more journals (`gfs2_jadd`), more space (`gfs2_grow`).
//!
//! The filesystem must be mounted nowhere: its device is opened exclusively, and a journal that is not clean is a
//! refusal, because a machine has it mounted or it waits for a replay. A change is drafted in memory from validated
//! blocks and touches the disk in an order that leaves either the old filesystem or the new one, whenever it ends:
//!
//! 1. New content goes to blocks that are free so far; flush.
//! 2. Every changed block of metadata goes into journal 0 as one transaction; flush. This is the moment of change: a
//!    replay by anybody finishes the rest.
//! 3. The changed blocks go in place; flush; the journal is marked clean; flush.
//!
//! Map: `draft` (the filesystem as it will be), `contents` (directories and files in it), `commit` (steps 1 to 3),
//! `program` (the command lines).

mod commit;
mod contents;
mod draft;
mod error;
pub mod program;

use std::sync::Arc;

use block_core::BlockDevice;
use gfs_format::dinode::flags;
use gfs_format::small_files::StatfsChange;

use crate::directory::{Entry, KIND_FILE};
use crate::geometry::group_within;
use crate::options::GROUP_MB_MAX;

pub use error::ChangeError;

use contents::NewFile;
use draft::Draft;

/// Which journals to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewJournals {
    pub count: u32,
    /// Megabytes of each.
    pub journal_mb: u32,
    /// Megabytes of each quota change file.
    pub quota_change_mb: u32,
    /// Time stamp of the new inodes, in seconds since 1970.
    pub seconds: u64,
}

/// Journals before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    pub before: u32,
    pub after: u32,
}

/// Adds journals, each with the files of the machine that will write it.
pub async fn add_journals(device: &Arc<dyn BlockDevice>, wanted: &NewJournals) -> Result<Added, ChangeError> {
    let mut draft = Draft::open(device, wanted.seconds).await?;
    let before = draft.journal_count();
    let (jindex, per_node) = (draft.system_file("jindex").await?, draft.system_file("per_node").await?);
    let mut index_entries = draft.entries(&jindex).await?;
    let mut node_entries = draft.entries(&per_node).await?;
    draft.check_space(wanted)?;
    for index in before..before + wanted.count {
        let journal = draft.journal(u64::from(wanted.journal_mb) << 20)?;
        index_entries.push(Entry::new(format!("journal{index}"), journal, KIND_FILE));
        let small = |len| NewFile { content: vec![0; len], flags: flags::SYSTEM | flags::JDATA };
        let (inum_range, statfs_change) = (draft.small_file(small(16))?, draft.small_file(small(24))?);
        let quota_change = draft.quota_change_file(u64::from(wanted.quota_change_mb) << 20)?;
        node_entries.push(Entry::new(format!("inum_range{index}"), inum_range, KIND_FILE));
        node_entries.push(Entry::new(format!("statfs_change{index}"), statfs_change, KIND_FILE));
        node_entries.push(Entry::new(format!("quota_change{index}"), quota_change, KIND_FILE));
    }
    draft.rebuild_directory(jindex, &index_entries).await?;
    draft.rebuild_directory(per_node, &node_entries).await?;
    draft.settle_statfs().await?;
    draft.commit(device).await?;
    Ok(Added { before, after: before + wanted.count })
}

/// What growing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grown {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks of the filesystem before, and of the device.
    pub before: u64,
    pub device: u64,
    /// Blocks that are added.
    pub added: u64,
    pub groups: u32,
}

/// Adds resource groups up to the device's end. With `is_trial` nothing is written. `None` when the device has not
/// grown by as much as a group.
pub async fn grow(
    device: &Arc<dyn BlockDevice>,
    is_trial: bool,
    seconds: u64,
) -> Result<(Grown, Option<()>), ChangeError> {
    let mut draft = Draft::open(device, seconds).await?;
    let size = draft.block_size();
    let (span, end) = draft.usual_span();
    // The last block of the device is left out, as mkfs does.
    let rest = draft.device_blocks().saturating_sub(1).saturating_sub(end);
    let mut grown = Grown { block_size: size.bytes(), before: end, device: draft.device_blocks(), added: 0, groups: 0 };
    let span = span.min((u64::from(GROUP_MB_MAX) << 20) / size.bytes());
    let count = rest / span;
    if count == 0 {
        return Ok((grown, None));
    }
    // What is less than a group at the end is shared among them.
    let mut at = end;
    for index in 0..count {
        let share = rest / count + u64::from(index < rest % count);
        let group = group_within(size, at, share).map_err(|_| ChangeError::GroupTooSmall { blocks: share })?;
        let group = group.ok_or(ChangeError::GroupTooSmall { blocks: share })?;
        draft.add_group(&group);
        at += share;
        grown.groups += 1;
    }
    grown.added = draft.end() - end;
    draft.rewrite_index().await?;
    draft.settle_statfs().await?;
    if !is_trial {
        draft.commit(device).await?;
    }
    Ok((grown, Some(())))
}

/// Totals in the order of the file.
fn totals(total: u64, free: u64, dinodes: u64) -> StatfsChange {
    StatfsChange { total: total.into(), free: free.into(), dinodes: dinodes.into() }
}
