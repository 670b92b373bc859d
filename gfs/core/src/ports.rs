//! What the filesystem needs from outside beside the disk, the locks and the host: somebody who
//! can drop what the node's kernel remembers.

use std::ops::Range;

use base::BoxFuture;

/// The node's kernel caches of one mount. Every call returns when the kernel no longer uses what
/// it was told to drop; each may block on requests of the same inode that are being served, so
/// the glock layer goes on serving them until its gate closes (see `glock::gate`).
pub trait KernelCaches: Send + Sync + 'static {
    /// Drops the cached pages of `inode` outside of the byte ranges `except`; dirty mapped pages
    /// come back as writes first.
    fn drop_pages(&self, inode: u64, except: Vec<Range<u64>>) -> BoxFuture<'static, ()>;
    /// Drops the cached attributes of `inode`.
    fn drop_attributes(&self, inode: u64) -> BoxFuture<'static, ()>;
    /// Drops every name, found or missing, that was announced for `directory`.
    fn drop_names(&self, directory: u64) -> BoxFuture<'static, ()>;
    /// `name` of `directory` is about to be given out with a lifetime. Called before the check
    /// that the glock may still cache, so that a drain that begins in between knows of it.
    fn announce_name(&self, directory: u64, name: &[u8]);
    /// Attributes of `inode` are about to be given out. Called while the glock that justifies them
    /// is held: attributes are dropped only if some were given out, because dropping them also
    /// voids replies that are on their way.
    fn announce_attributes(&self, _inode: u64) {}
    /// Whether some handle open for writing, or a mapping made from one, exists on this node: then
    /// a page may be dirtied without a request, and page fills take the glock exclusively.
    fn may_dirty_pages(&self, inode: u64) -> bool;
}

/// For users without a kernel in front (the simulator, offline tools).
pub struct NoKernelCaches;

impl KernelCaches for NoKernelCaches {
    fn drop_pages(&self, _: u64, _: Vec<Range<u64>>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
    fn drop_attributes(&self, _: u64) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
    fn drop_names(&self, _: u64) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
    fn announce_name(&self, _: u64, _: &[u8]) {}
    fn may_dirty_pages(&self, _: u64) -> bool {
        false
    }
}
