//! The `KernelCaches` port of `gfs_core`: inode numbers outside, node ids inside.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use base::BoxFuture;
use gfs_core::KernelCaches;

use crate::kernel_caches::MountCaches;
use crate::wire::ROOT_ID;

/// Stands in front of a mount's caches from before there is a mount: until then the kernel has
/// nothing to drop.
#[derive(Default)]
pub struct CachePort(OnceLock<Attached>);

struct Attached {
    caches: Arc<MountCaches>,
    root: u64,
}

impl CachePort {
    /// The mount is there; `root` is the number of its root directory.
    pub fn attach(&self, caches: Arc<MountCaches>, root: u64) {
        // A second mount of one filesystem does not happen; the first stays.
        let _ = self.0.set(Attached { caches, root });
    }

    fn get(&self, inode: u64) -> Option<(Arc<MountCaches>, u64)> {
        let attached = self.0.get()?;
        Some((attached.caches.clone(), if inode == attached.root { ROOT_ID } else { inode }))
    }
}

fn nothing() -> BoxFuture<'static, ()> {
    Box::pin(async {})
}

impl KernelCaches for CachePort {
    fn drop_pages(&self, inode: u64, except: Vec<Range<u64>>) -> BoxFuture<'static, ()> {
        match self.get(inode) {
            Some((caches, node)) => Box::pin(caches.drop_pages(node, except)),
            None => nothing(),
        }
    }

    fn drop_attributes(&self, inode: u64) -> BoxFuture<'static, ()> {
        match self.get(inode) {
            Some((caches, node)) => Box::pin(caches.drop_attributes(node)),
            None => nothing(),
        }
    }

    fn drop_names(&self, directory: u64) -> BoxFuture<'static, ()> {
        match self.get(directory) {
            Some((caches, node)) => Box::pin(caches.drop_names(node)),
            None => nothing(),
        }
    }

    fn announce_name(&self, directory: u64, name: &[u8]) {
        if let Some((caches, node)) = self.get(directory) {
            caches.announce(node, name);
        }
    }

    fn announce_attributes(&self, inode: u64) {
        if let Some((caches, node)) = self.get(inode) {
            caches.announce_attributes(node);
        }
    }

    fn may_dirty_pages(&self, inode: u64) -> bool {
        self.get(inode).is_some_and(|(caches, node)| caches.has_writers(node))
    }
}
