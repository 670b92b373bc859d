//! Replays journals of a filesystem that nobody uses: finds them with `gfs-check`, recovers them with the engine.
//!
//! Called by `fsck` and `journal replay`. The caller has the device for itself.

use std::sync::Arc;

use block_core::BlockDevice;
use gfs_check::journal::{Journal, Journals};
use gfs_core::journal::replay::{JournalParts, Replayed, Totals, recover};
use gfs_core::journal::{Extent, HeaderFacts, Ring};

use crate::clock;

/// Recovers those of `chosen` that are dirty; what was done for each, `None` for a clean one.
pub async fn replay(
    device: &Arc<dyn BlockDevice>,
    journals: &Journals,
    chosen: &[&Journal],
) -> Result<Vec<Option<Replayed>>, String> {
    let mut parts = Vec::new();
    for journal in chosen {
        parts.push((ring(journals, journal)?, facts(journal)));
    }
    let parts: Vec<JournalParts<'_>> = parts.iter().map(|(ring, facts)| JournalParts { ring, facts }).collect();
    let totals = match journals.statfs_inode {
        0 => return Err("the filesystem has no statfs file: nothing was replayed".into()),
        statfs => Totals::Replay { statfs },
    };
    recover(device, &parts, totals, clock::wall()).await.map_err(|error| error.to_string())
}

fn ring(journals: &Journals, journal: &Journal) -> Result<Ring, String> {
    let mut extents: Vec<Extent> = Vec::new();
    for block in &journal.map {
        match extents.last_mut() {
            Some(last) if last.start + last.count == *block => last.count += 1,
            _ => extents.push(Extent { start: *block, count: 1 }),
        }
    }
    let few = || format!("journal {} has only {} blocks: too few to replay", journal.index, journal.map.len());
    Ring::new(extents, journals.block_size()).ok_or_else(few)
}

fn facts(journal: &Journal) -> HeaderFacts {
    HeaderFacts { journal_inode: journal.inode, statfs_inode: journal.statfs_inode, quota_inode: journal.quota_inode }
}
