//! Unmounting: everything in place, the journal marked clean, every lock given back.

use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::journal::SpaceChange;

impl Fs {
    /// Ends the mount. No operation may be under way. After an error nothing more is written and
    /// the journal stays dirty, for the next mount to replay.
    pub async fn unmount(&self) -> Result<()> {
        let _chores_rest = self.chores.lock().await;
        if self.is_unmounted.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.is_withdrawn() {
            self.is_unmounted.store(true, Ordering::SeqCst);
            return Err(Error::Withdrawn);
        }
        // The log of a read-only mount was used only if it had to replay.
        if self.is_read_only {
            self.io(self.log.close_if_used().await)?;
        } else {
            self.sync().await?;
            self.io(self.sync_statfs(SpaceChange::default()).await)?;
            self.io(self.log.close().await)?;
        }
        // From here on nothing is dirty: glocks go without a flush.
        self.is_unmounted.store(true, Ordering::SeqCst);
        self.log.stop();
        self.mount_guards.lock().expect("invariant: no panic under this lock").clear();
        self.glocks.release_all().await
    }
}
