//! The glocks of one mount, and what they need from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use base::{BoxFuture, Host};
use dlm_api::LockManager;

use super::{Glock, GlockKey, GlockKind, State};
use crate::error::Result;
use crate::ports::KernelCaches;

/// The filesystem as its glocks see it.
pub trait GlockOwner: Send + Sync {
    /// Puts everything changed under `glock` in its place on the disk, so that another node may
    /// change it: log, data, metadata, revokes, in that order. An error keeps the glock.
    fn sync_glock<'a>(&'a self, glock: &'a Arc<Glock>) -> BoxFuture<'a, Result<()>>;
    /// Whether the mount has stopped after an error.
    fn is_withdrawn(&self) -> bool;
}

/// Finds or makes glocks.
pub struct GlockTable {
    pub(super) locks: Arc<dyn LockManager>,
    pub(super) host: Arc<dyn Host>,
    pub(super) caches: Arc<dyn KernelCaches>,
    owner: OnceLock<Weak<dyn GlockOwner>>,
    glocks: Mutex<HashMap<GlockKey, Arc<Glock>>>,
}

impl GlockTable {
    pub fn new(locks: Arc<dyn LockManager>, host: Arc<dyn Host>, caches: Arc<dyn KernelCaches>) -> Arc<GlockTable> {
        Arc::new(GlockTable { locks, host, caches, owner: OnceLock::new(), glocks: Mutex::new(HashMap::new()) })
    }

    /// Names the filesystem. Once, before the first glock is demoted.
    pub fn set_owner(&self, owner: Weak<dyn GlockOwner>) {
        let _ = self.owner.set(owner);
    }

    /// Whether there is, or was, a mounted filesystem to write changes back.
    pub(super) fn has_owner(&self) -> bool {
        self.owner.get().is_some()
    }

    pub(super) fn owner(&self) -> Option<Arc<dyn GlockOwner>> {
        self.owner.get().and_then(Weak::upgrade)
    }

    /// The glock of `key`.
    pub fn get(self: &Arc<Self>, key: GlockKey) -> Arc<Glock> {
        let mut glocks = self.glocks.lock().expect("invariant: no panic under this lock");
        glocks.entry(key).or_insert_with(|| Arc::new(Glock::new(key, Arc::downgrade(self)))).clone()
    }

    /// The glock of `key` if this node has heard of it.
    pub fn find(&self, key: GlockKey) -> Option<Arc<Glock>> {
        self.glocks.lock().expect("invariant: no panic under this lock").get(&key).cloned()
    }

    /// Every glock, in the order of their names.
    pub fn all(&self) -> Vec<Arc<Glock>> {
        let glocks = self.glocks.lock().expect("invariant: no panic under this lock");
        let mut all: Vec<_> = glocks.values().cloned().collect();
        all.sort_by_key(|glock| glock.key());
        all
    }

    /// Number of glocks that are remembered.
    pub fn count(&self) -> usize {
        self.glocks.lock().expect("invariant: no panic under this lock").len()
    }

    /// Forgets unlocked glocks that nobody uses.
    pub fn prune(&self) {
        let mut glocks = self.glocks.lock().expect("invariant: no panic under this lock");
        glocks.retain(|_, glock| Arc::strong_count(glock) > 1 || !glock.is_idle());
    }

    /// Gives inode glocks that nobody uses back if there are more than `most`, down to three
    /// quarters of that: what they cache is what a mount's memory consists of.
    pub fn shrink(&self, most: usize) {
        if self.count() <= most {
            return;
        }
        let surplus = self.count() - most / 4 * 3;
        let unused = self.all().into_iter().filter(|glock| glock.key().kind == GlockKind::Inode && glock.is_unused());
        for glock in unused.take(surplus) {
            glock.demote_soon(State::Unlocked);
        }
    }

    /// Gives every glock up; returns when all are unlocked.
    pub async fn release_all(&self) -> Result<()> {
        self.release(|_| true).await
    }

    /// Gives up the glocks of inodes.
    pub async fn release_inodes(&self) -> Result<()> {
        self.release(|key| key.kind == GlockKind::Inode).await
    }

    async fn release(&self, is_wanted: impl Fn(GlockKey) -> bool) -> Result<()> {
        let glocks: Vec<_> = self.all().into_iter().filter(|glock| is_wanted(glock.key())).collect();
        // All at once: each is a message to its master and back.
        for glock in &glocks {
            glock.demote_soon(State::Unlocked);
        }
        for glock in glocks {
            glock.demote(State::Unlocked).await?;
        }
        Ok(())
    }
}
