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

use groups::Groups;
use source::Source;
use walk::{Walk, content, peek};

/// Checks the filesystem on `device`.
pub async fn check(device: Arc<dyn BlockDevice>) -> Result<Report, CheckError> {
    let (source, superblock) = Source::open(device).await?;
    let mut report = Report::default();
    let (master_at, root_at) = (superblock.master_directory, superblock.root_directory);
    let Some(master) = peek(&source, master_at.address.get()).await? else {
        let expected = "the master directory's inode";
        report.note(Kind::Superblock, master_at.address.get(), expected, "none");
        return Ok(report);
    };
    let Some(rindex) = system::system_file(&source, &master, &["rindex"], &mut report).await? else {
        return Ok(report);
    };
    let content = content(&source, &rindex).await?;
    let groups = Groups::read(&source, rindex.address, &content, &mut report).await?;

    let mut walk = Walk { source: &source, groups, report: &mut report, inodes: BTreeMap::new() };
    walk.root(master_at.address.get(), master_at.formal.get()).await?;
    walk.root(root_at.address.get(), root_at.formal.get()).await?;
    walk.nameless().await?;
    walk.compare_links();
    let Walk { groups, .. } = walk;
    groups.reconcile(&mut report);

    let journals = system::check_journals(&source, &master, &mut report).await?;
    system::check_quota_changes(&source, &master, journals, &mut report).await?;
    system::check_statfs(&source, &master, journals, &mut report).await?;
    Ok(report)
}
