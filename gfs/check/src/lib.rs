//! Is a GFS2 filesystem consistent? Reads only, and says for each contradiction the block, what
//! was expected there and what was found.
//!
//! The passes: superblock; resource index, headers and bitmaps; from both root directories through
//! every name, claiming every block and checking every header, tree, directory and attribute;
//! inodes without a name; links counted against links stated; bitmaps against claims; counters
//! against bitmaps; journals. It is the outside judge of the simulator and the engine of
//! `corral fsck -n`, so it shares the format with `gfs/core` and nothing else.
//!
//! Async over the block device port, on any executor. Never writes, never locks: the caller sees
//! to it that nobody changes the filesystem meanwhile. Hostile images end in findings.

#![forbid(unsafe_code)]

mod attributes;
mod directories;
mod groups;
pub mod inspect;
pub mod journal;
mod links;
mod report;
mod source;
mod system;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use block_core::BlockDevice;

pub use report::{Counts, FINDINGS_MAX, Finding, JournalState, Kind, Report, Severity};
pub use source::CheckError;

use gfs_format::BlockSize;
use groups::Groups;
use source::Source;
use walk::{Inode, Tracker, Walk, content, peek};

/// Checks the filesystem on `device`.
pub async fn check(device: Arc<dyn BlockDevice>) -> Result<Report, CheckError> {
    let mut report = Report::default();
    let Some(walked) = walk_all(device, None, &mut report).await? else { return Ok(report) };
    walked.groups.reconcile(&mut report);
    let (source, master) = (&walked.source, &walked.master_inode);
    let journals = system::check_journals(source, master, &mut report).await?;
    system::check_quota_changes(source, master, journals, &mut report).await?;
    system::check_statfs(source, master, journals, &mut report).await?;
    Ok(report)
}

/// What the walk through all names leaves.
pub(crate) struct Walked {
    source: Source,
    groups: Groups,
    tracker: Option<Tracker>,
    master_inode: Inode,
    block_size: BlockSize,
    /// Dinodes of the two roots.
    master: u64,
    root: u64,
}

/// The passes up to the link counts; `None` when the filesystem is too damaged to begin.
pub(crate) async fn walk_all(
    device: Arc<dyn BlockDevice>,
    tracker: Option<Tracker>,
    report: &mut Report,
) -> Result<Option<Walked>, CheckError> {
    let (source, superblock) = Source::open(device).await?;
    let (master_at, root_at) = (superblock.master_directory, superblock.root_directory);
    let (master, root) = (master_at.address.get(), root_at.address.get());
    let Some(master_inode) = peek(&source, master).await? else {
        report.note(Kind::Superblock, master, "the master directory's inode", "none");
        return Ok(None);
    };
    let Some(rindex) = system::system_file(&source, &master_inode, &["rindex"], report).await? else {
        return Ok(None);
    };
    let content = content(&source, &rindex).await?;
    let groups = Groups::read(&source, rindex.address, &content, report).await?;

    let mut walk = Walk { source: &source, groups, report, inodes: BTreeMap::new(), tracker };
    walk.root(master, master_at.formal.get()).await?;
    walk.root(root, root_at.formal.get()).await?;
    walk.nameless().await?;
    walk.compare_links();
    let Walk { groups, tracker, .. } = walk;
    let block_size = source.block;
    Ok(Some(Walked { source, groups, tracker, master_inode, block_size, master, root }))
}
