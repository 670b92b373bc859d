//! What a mount does by itself: dirty data is written and the log committed after a few seconds,
//! the statfs difference is added to the master, unused glocks are forgotten.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Result;
use crate::fs::Fs;
use crate::journal::SpaceChange;

/// How long a change may wait for the disk.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// Rounds between two additions to the master's totals.
const STATFS_ROUNDS: u32 = 6;

/// Glocks that are kept: about 8 KiB each with what they cache.
const GLOCKS_MAX: usize = 100_000;

/// Runs until the mount ends.
pub async fn run(fs: Weak<Fs>) {
    let mut round = 0;
    loop {
        let sleep = {
            let Some(fs) = fs.upgrade() else { return };
            fs.host.sleep_until(fs.now() + COMMIT_INTERVAL)
        };
        sleep.await;
        let Some(fs) = fs.upgrade() else { return };
        let _chore = fs.chores.lock().await;
        if fs.is_unmounted.load(Ordering::SeqCst) || fs.is_withdrawn() || fs.is_read_only {
            return;
        }
        round += 1;
        // An error has withdrawn the mount, and was logged there.
        if tidy(&fs, round).await.is_err() {
            return;
        }
    }
}

async fn tidy(fs: &Fs, round: u32) -> Result<()> {
    for glock in fs.glocks.all() {
        let is_dirty = glock.data.lock().expect("invariant: no panic under this lock").dirty() > 0;
        if is_dirty {
            fs.io(crate::file::write_back(&fs.device, fs.block_size(), &glock).await)?;
        }
    }
    if round.is_multiple_of(STATFS_ROUNDS) {
        fs.io(fs.sync_statfs(SpaceChange::default()).await)?;
        fs.glocks.prune();
    }
    let is_crowded = fs.glocks.count() > GLOCKS_MAX;
    fs.io(fs.log.tidy(is_crowded).await)?;
    if is_crowded {
        // Everything is in place now, so that they go without a flush each.
        fs.glocks.shrink(GLOCKS_MAX);
    }
    Ok(())
}
