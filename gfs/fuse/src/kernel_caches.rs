//! Drops what the node's kernel remembers of this mount: the `KernelCaches` port of `gfs_core`.
//!
//! Every notification runs on a thread of its own (see `threads`), because it may wait for a
//! request that is being served. Dropping names may even wait for a request that is parked, so it
//! has a time limit, after which the epoch makes every name of the mount stale at once.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::handles::Handles;
use crate::names::{Announced, Names};
use crate::nodes::{Drop, Nodes};
use crate::notify::{Notified, Notifier};
use crate::threads::Threads;

/// One mount's kernel caches, by node id.
pub struct MountCaches {
    notifier: Notifier,
    nodes: Arc<Nodes>,
    handles: Arc<Handles>,
    names: Names,
    threads: Threads,
    page_size: u64,
    /// The kernel has let go of the mount: there is nothing left to drop.
    is_gone: AtomicBool,
    counts: Counts,
}

/// How often, since the mount.
#[derive(Debug, Default)]
pub struct Counts {
    pub page_drops: AtomicU64,
    pub attribute_drops: AtomicU64,
    pub name_drops: AtomicU64,
    /// The epoch was advanced: by many names, a slow drop, or a node the kernel did not have yet.
    pub epochs: AtomicU64,
}

/// How long dropping names may take before the epoch is advanced instead.
const NAMES_TIME_MAX: Duration = Duration::from_millis(5);
/// How often a read that goes by a node's size is looked at before the attributes are dropped
/// (see `asking`).
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// A node that was handed out appears in the kernel as soon as the caller's thread runs: look for
/// it this often, so many times, before the epoch is advanced and it is looked for more slowly.
const APPEAR_INTERVAL: Duration = Duration::from_micros(100);
const APPEAR_TRIES: u32 = 30;
const APPEAR_SLOW_INTERVAL: Duration = Duration::from_millis(5);
const APPEAR_SLOW_TRIES: u32 = 400;

impl MountCaches {
    pub fn new(notifier: Notifier, nodes: Arc<Nodes>, handles: Arc<Handles>) -> Arc<MountCaches> {
        Arc::new(MountCaches {
            notifier,
            nodes,
            handles,
            names: Names::default(),
            threads: Threads::default(),
            page_size: page_size(),
            is_gone: AtomicBool::new(false),
            counts: Counts::default(),
        })
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Serving has ended: from here on the kernel has nothing.
    pub fn close(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    /// Whether names may be given out with a lifetime: only where the epoch can take it back.
    pub fn may_cache_names(&self) -> bool {
        self.notifier.has_epoch()
    }

    /// Drops the pages of `node` but for the bytes `except`. A node the kernel does not have has
    /// no pages.
    pub async fn drop_pages(self: Arc<Self>, node: u64, except: Vec<Range<u64>>) {
        if self.is_gone() || !self.nodes.is_known(node) {
            return;
        }
        self.counts.page_drops.fetch_add(1, Ordering::Relaxed);
        // The kernel drops the attributes along with the pages.
        let taken = self.take_attributes(node).await;
        let this = self.clone();
        let done = self.threads.run(move || {
            let mut is_unknown = false;
            for bytes in complement(except, this.page_size) {
                let len = if bytes.end == u64::MAX { 0 } else { bytes.end - bytes.start };
                let notified = this.notifier.drop_pages(node, bytes.start, len);
                this.check(notified);
                is_unknown |= notified == Notified::Unknown;
            }
            is_unknown
        });
        if done.await == Ok(true) && taken == Drop::Now {
            // No node, no pages; but attributes may be on their way with it.
            self.nodes.announce_attributes(node);
        }
    }

    /// Attributes of `node` are about to be given out, under the lock that justifies them.
    pub fn announce_attributes(&self, node: u64) {
        self.nodes.announce_attributes(node);
    }

    /// Drops the attributes of `node` if it has been given any.
    pub async fn drop_attributes(self: Arc<Self>, node: u64) {
        if self.is_gone() {
            return;
        }
        if self.take_attributes(node).await == Drop::Nothing {
            return;
        }
        self.counts.attribute_drops.fetch_add(1, Ordering::Relaxed);
        let this = self.clone();
        let done = self.threads.run(move || this.drops_attributes(node, APPEAR_TRIES, APPEAR_INTERVAL));
        if done.await == Ok(false) {
            // A reply that hands the node out is still on its way through the kernel, or a FORGET
            // is on its way here. Its name will be stale; its attributes are dropped when it comes.
            self.advance_epoch("a node has not appeared");
            let this = self.clone();
            drop(self.threads.run(move || this.drops_attributes(node, APPEAR_SLOW_TRIES, APPEAR_SLOW_INTERVAL)));
        }
    }

    /// Waits until the attributes can be dropped.
    async fn take_attributes(&self, node: u64) -> Drop {
        loop {
            match self.nodes.take_attributes(node) {
                Drop::Wait => tokio::time::sleep(LOOK_INTERVAL).await,
                ended => return ended,
            }
        }
    }

    fn drops_attributes(&self, node: u64, tries: u32, interval: Duration) -> bool {
        for _ in 0..tries {
            let notified = self.notifier.drop_attributes(node);
            self.check(notified);
            if notified != Notified::Unknown {
                return true;
            }
            thread::sleep(interval);
        }
        false
    }

    /// Drops every name announced for `directory`. Bounded in time.
    pub async fn drop_names(self: Arc<Self>, directory: u64) {
        let names = match self.names.take(directory) {
            None => return,
            Some(_) if self.is_gone() => return,
            Some(Announced::TooMany) => return self.advance_epoch("many names"),
            Some(Announced::These(names)) => names,
        };
        self.counts.name_drops.fetch_add(1, Ordering::Relaxed);
        let is_late = Arc::new(AtomicBool::new(false));
        let (this, late) = (self.clone(), is_late.clone());
        let done = self.threads.run(move || {
            for name in &names {
                if late.load(Ordering::Relaxed) {
                    return;
                }
                this.check(this.notifier.drop_name(directory, name));
            }
        });
        if tokio::time::timeout(NAMES_TIME_MAX, done).await.is_err() {
            is_late.store(true, Ordering::Relaxed);
            self.advance_epoch("a name could not be dropped at once");
        }
    }

    /// `name` of `directory` is about to be given out with a lifetime.
    pub fn announce(&self, directory: u64, name: &[u8]) {
        self.names.announce(directory, name);
    }

    /// The kernel has let go of `directory`, and so of every name in it.
    pub fn forget_names(&self, directory: u64) {
        self.names.take(directory);
    }

    /// Whether a handle open for writing, or a mapping made from one, exists.
    pub fn has_writers(&self, node: u64) -> bool {
        self.handles.has_writers(node)
    }

    fn advance_epoch(&self, why: &'static str) {
        self.counts.epochs.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(why, "advancing the epoch");
        self.check(self.notifier.advance_epoch());
    }

    fn check(&self, notified: Notified) {
        match notified {
            Notified::Done | Notified::Unknown | Notified::Gone => {}
            Notified::Unsupported | Notified::Failed(_) => {
                tracing::error!(?notified, "the kernel refused an invalidation");
            }
        }
    }
}

/// The bytes from 0 on that are in none of `except`, whole pages: a page that is excepted in part
/// is excepted, because its lock is held. Ends with an open range.
fn complement(except: Vec<Range<u64>>, page_size: u64) -> Vec<Range<u64>> {
    let mut except: Vec<Range<u64>> = except
        .into_iter()
        .filter(|bytes| bytes.start < bytes.end)
        .map(|bytes| {
            let end = bytes.end.checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
            bytes.start / page_size * page_size..end
        })
        .collect();
    except.sort_by_key(|bytes| bytes.start);
    let mut rest = Vec::new();
    let mut at = 0;
    for bytes in except {
        if bytes.start > at {
            rest.push(at..bytes.start);
        }
        at = at.max(bytes.end);
    }
    // The kernel's offsets are signed.
    if at < i64::MAX as u64 {
        rest.push(at..u64::MAX);
    }
    rest
}

fn page_size() -> u64 {
    const USUAL: u64 = 4096;
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(USUAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parked_reads_keep_their_whole_pages() {
        let open = |at| at..u64::MAX;
        assert_eq!(complement(vec![], 4096), vec![open(0)]);
        assert_eq!(complement(vec![0..1, 8000..9000], 4096), vec![open(12288)]);
        assert_eq!(complement(vec![0..4096, 12288..16384, 12000..12300], 4096), vec![4096..8192, open(16384)]);
        let first = 0..4096;
        assert_eq!(complement(vec![4096..u64::MAX, 4096..8192], 4096), vec![first]);
    }
}
