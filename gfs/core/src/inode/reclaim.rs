//! Inodes without a name whose last user's node died before it could free them.
//!
//! The bitmaps mark them as unlinked, so nothing else has to be remembered. Whoever replays a journal looks for them
//! afterwards, beside its own work; one that another node still has open stays, and that node frees it at its close.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use gfs_format::BlockState;
use tracing::{info, warn};

use crate::alloc::Group;
use crate::api::{InodeNumber, InodeRef};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{GlockKey, RequestClass};

/// Looks through all resource groups once; for a task of its own.
pub(crate) async fn run(fs: Weak<Fs>) {
    let mut freed = 0;
    for position in 0.. {
        let Some(fs) = fs.upgrade() else { return };
        let Some(group) = fs.groups.groups().get(position).cloned() else { break };
        let _chore = fs.chores.lock().await;
        if fs.is_unmounted.load(Ordering::SeqCst) || fs.check_writable().is_err() {
            return;
        }
        match fs.reclaim_in(&group).await {
            Ok(count) => freed += count,
            Err(error) => {
                warn!(group = group.address, %error, "unlinked inodes are not looked for any further");
                return;
            }
        }
    }
    if freed > 0 {
        info!(freed, "inodes without a name that a lost node had open are freed");
    }
}

impl Fs {
    /// Frees what is unlinked in one group and open nowhere; gives the number.
    async fn reclaim_in(&self, group: &Arc<Group>) -> Result<u64> {
        let mut freed = 0;
        for block in self.unlinked_blocks(group).await? {
            if self.reclaim(block).await? {
                freed += 1;
            }
        }
        Ok(freed)
    }

    async fn unlinked_blocks(&self, group: &Arc<Group>) -> Result<Vec<u64>> {
        let edit = self.look_at_group(group).await?;
        let blocks = group.data_start..group.data_start + group.data_blocks;
        Ok(blocks.filter(|block| edit.state(*block) == BlockState::Unlinked).collect())
    }

    async fn reclaim(&self, block: u64) -> Result<bool> {
        let glock = self.glocks.get(GlockKey::inode(block));
        let generation = {
            let _guard = glock.shared(RequestClass::Ordinary).await?;
            match self.read_dinode_block(&glock).await {
                Ok(dinode) => dinode.head().number.formal.get(),
                // Freed since, and wiped.
                Err(Error::Corrupt { .. } | Error::Stale) => return Ok(false),
                Err(error) => return Err(error),
            }
        };
        let inode = InodeRef { number: InodeNumber(block), generation };
        self.free_if_unlinked(inode).await?;
        Ok(matches!(self.getattr(inode).await, Err(Error::Stale)))
    }
}
