//! A node's kernel as far as coherence is concerned: names, attributes and pages that it believes
//! for as long as it was told to, page locks, and the locks of inodes.
//!
//! Invariants: what was dropped is not used again, not even by an answer that was under way when it
//! was dropped; a page is locked from its request to its answer, and dropping waits for that (the
//! trap that the drain of a glock exists for). A change made on this node itself hides what is cached
//! of the changed object while it lasts: that order is the kernel's own affair.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::BoxFuture;
use bytes::Bytes;
use gfs_core::{Attributes, InodeRef, KernelCaches, Lifetime};
use tokio::sync::{Notify, RwLock};

use crate::checkers::tree::Name;
use crate::executor::{Sim, lock};
use crate::trace::Who;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Deliberate faults of the path that tells the kernel to forget.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelFaults {
    pub keep_pages: bool,
    pub keep_attributes: bool,
    pub keep_names: bool,
    /// Names are not written down when they are announced.
    pub forget_announcements: bool,
}

/// The caches of one mount.
pub struct Kernel {
    sim: Sim,
    node: u32,
    faults: KernelFaults,
    caches: Mutex<Caches>,
    /// Told when a page is unlocked.
    unlocked: Notify,
}

#[derive(Default)]
struct Caches {
    names: BTreeMap<(u64, Name), CachedName>,
    announced: BTreeMap<u64, BTreeSet<Name>>,
    /// Counts what was dropped.
    drops: u64,
    /// The last drop of each name and of each inode's attributes: answers that were asked for before
    /// it are not kept.
    name_drops: BTreeMap<(u64, Name), u64>,
    attributes: BTreeMap<u64, Attributes>,
    attribute_drops: BTreeMap<u64, u64>,
    pages: BTreeMap<(u64, u64), Page>,
    /// Changes of an inode by this node that are under way.
    changes: BTreeMap<u64, u32>,
    inode_locks: BTreeMap<InodeRef, Arc<RwLock<()>>>,
}

#[derive(Clone, Copy)]
struct CachedName {
    dir: InodeRef,
    found: Option<InodeRef>,
}

enum Page {
    /// A request for it is under way.
    Locked,
    Filled {
        inode: InodeRef,
        bytes: Bytes,
    },
}

/// What a reader of pages has to do.
pub enum PageState {
    Hit(Bytes),
    /// Somebody else is filling it.
    Wait,
    /// The caller has locked this many pages from it on, and fills them.
    Fill(u64),
}

/// A moment, to recognise answers that were asked for before something was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

impl Kernel {
    pub fn new(sim: &Sim, node: u32, faults: KernelFaults) -> Arc<Kernel> {
        let (caches, unlocked) = (Mutex::default(), Notify::new());
        Arc::new(Kernel { sim: sim.clone(), node, faults, caches, unlocked })
    }

    /// The lock that the kernel takes around calls on this inode.
    pub fn inode_lock(&self, inode: InodeRef) -> Arc<RwLock<()>> {
        lock(&self.caches).inode_locks.entry(inode).or_default().clone()
    }

    /// What the cache says of a name: `Some(None)` is a name known to be missing.
    pub fn name(&self, dir: InodeRef, name: &Name) -> Option<Option<InodeRef>> {
        let caches = lock(&self.caches);
        let cached = caches.names.get(&(dir.number.0, name.clone()))?;
        (cached.dir == dir).then_some(cached.found)
    }

    /// Now, before a question is asked.
    pub fn moment(&self) -> Moment {
        Moment(lock(&self.caches).drops)
    }

    /// Remembers a name if the answer allows it and it was not dropped since it was asked for.
    pub fn remember_name(
        &self,
        dir: InodeRef,
        name: &Name,
        found: Option<InodeRef>,
        lifetime: Lifetime,
        asked: Moment,
    ) {
        let mut caches = lock(&self.caches);
        let key = (dir.number.0, name.clone());
        let is_current = caches.name_drops.get(&key).is_none_or(|drop| *drop <= asked.0);
        if lifetime == Lifetime::WhileHeld && is_current {
            caches.names.insert(key, CachedName { dir, found });
        }
    }

    /// Forgets a name that this node itself is about to change.
    pub fn forget_name(&self, dir: InodeRef, name: &Name) {
        lock(&self.caches).names.remove(&(dir.number.0, name.clone()));
    }

    pub fn attributes(&self, inode: InodeRef) -> Option<Attributes> {
        let caches = lock(&self.caches);
        caches.attributes.get(&inode.number.0).filter(|cached| cached.generation == inode.generation).cloned()
    }

    /// Remembers attributes if the answer allows it, they were not dropped since they were asked for
    /// and no change of this node's own is under way.
    pub fn remember_attributes(&self, attributes: &Attributes, lifetime: Lifetime, asked: Moment) {
        let inode = InodeRef { number: attributes.inode, generation: attributes.generation };
        let mut caches = lock(&self.caches);
        let is_current = caches.attribute_drops.get(&inode.number.0).is_none_or(|drop| *drop <= asked.0);
        if lifetime == Lifetime::WhileHeld && is_current && !caches.changes.contains_key(&inode.number.0) {
            caches.attributes.insert(inode.number.0, attributes.clone());
        }
    }

    /// A change of these inodes by this node begins; what is cached of them is hidden until the
    /// returned value is dropped.
    pub fn change(self: &Arc<Self>, inodes: &[InodeRef]) -> Change {
        let numbers: Vec<u64> = inodes.iter().map(|inode| inode.number.0).collect();
        let mut caches = lock(&self.caches);
        for number in &numbers {
            *caches.changes.entry(*number).or_default() += 1;
            caches.forget_inode(*number);
        }
        Change { kernel: self.clone(), numbers }
    }

    /// Looks for a page; if it is absent, locks it and up to `most` absent ones in all.
    pub fn page(&self, inode: InodeRef, page: u64, most: u64) -> PageState {
        let mut caches = lock(&self.caches);
        let number = inode.number.0;
        match caches.pages.get(&(number, page)) {
            Some(Page::Filled { inode: of, bytes }) if *of == inode => return PageState::Hit(bytes.clone()),
            Some(Page::Locked) => return PageState::Wait,
            Some(Page::Filled { .. }) | None => {}
        }
        let mut count = 1;
        while count < most && !caches.pages.contains_key(&(number, page + count)) {
            count += 1;
        }
        for index in page..page + count {
            caches.pages.insert((number, index), Page::Locked);
        }
        PageState::Fill(count)
    }

    /// Unlocks pages that [`Kernel::page`] locked, keeping what was read.
    pub fn fill(&self, inode: InodeRef, page: u64, count: u64, bytes: Option<&Bytes>) {
        let mut caches = lock(&self.caches);
        let number = inode.number.0;
        let bytes = bytes.filter(|_| !caches.changes.contains_key(&number));
        for index in 0..count {
            caches.pages.remove(&(number, page + index));
            let Some(bytes) = bytes else { continue };
            let from = (index * PAGE).min(bytes.len() as u64) as usize;
            let to = ((index + 1) * PAGE).min(bytes.len() as u64) as usize;
            let mut filled = bytes[from..to].to_vec();
            filled.resize(PAGE as usize, 0);
            caches.pages.insert((number, page + index), Page::Filled { inode, bytes: filled.into() });
        }
        drop(caches);
        self.unlocked.notify_waiters();
    }

    /// Completes when some page was unlocked, or after a while.
    pub async fn page_unlocked(&self) {
        self.unlocked.notified().await;
    }

    async fn drop_pages_of(&self, number: u64, except: Vec<Range<u64>>) {
        let mut next = 0;
        loop {
            let unlocked = self.unlocked.notified();
            let is_waiting = {
                let mut caches = lock(&self.caches);
                let found = caches.pages.range((number, next)..=(number, u64::MAX)).next();
                let Some(((_, page), state)) = found.map(|(key, state)| (*key, state)) else { return };
                let bytes = page * PAGE..(page + 1) * PAGE;
                let is_excepted = except.iter().any(|range| range.start < bytes.end && bytes.start < range.end);
                let is_locked = matches!(state, Page::Locked);
                if !is_excepted && !is_locked {
                    caches.pages.remove(&(number, page));
                }
                if is_excepted || !is_locked {
                    next = page + 1;
                }
                !is_excepted && is_locked
            };
            if is_waiting {
                unlocked.await;
            }
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.sim.event(Who::Node(self.node), what);
    }
}

impl Caches {
    fn forget_attributes(&mut self, number: u64) {
        self.drops += 1;
        self.attribute_drops.insert(number, self.drops);
        self.attributes.remove(&number);
    }

    fn forget_inode(&mut self, number: u64) {
        self.forget_attributes(number);
        // Locked ones stay: whoever fills them sees the change.
        self.pages.retain(|(inode, _), page| *inode != number || matches!(page, Page::Locked));
    }
}

/// A change by this node that is under way.
pub struct Change {
    kernel: Arc<Kernel>,
    numbers: Vec<u64>,
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut caches = lock(&self.kernel.caches);
        for number in &self.numbers {
            caches.forget_inode(*number);
            let changes = caches.changes.get_mut(number).expect("invariant: counted when it began");
            *changes -= 1;
            if *changes == 0 {
                caches.changes.remove(number);
            }
        }
    }
}

/// The time a notification takes, on the way in and on the way out.
const NOTIFICATION_MOST: Duration = Duration::from_micros(30);

/// The kernel caches port of one node, which may hold it beyond the run's end.
pub struct Port(pub Arc<Kernel>);

impl KernelCaches for Port {
    fn drop_pages(&self, inode: u64, except: Vec<Range<u64>>) -> BoxFuture<'static, ()> {
        let kernel = self.0.clone();
        Box::pin(async move {
            if kernel.faults.keep_pages {
                return;
            }
            kernel.sim.pause(NOTIFICATION_MOST).await;
            kernel.note(format_args!("kernel drops the pages of inode {inode} except {except:?}"));
            kernel.drop_pages_of(inode, except).await;
            kernel.sim.pause(NOTIFICATION_MOST).await;
        })
    }

    fn drop_attributes(&self, inode: u64) -> BoxFuture<'static, ()> {
        let kernel = self.0.clone();
        Box::pin(async move {
            if kernel.faults.keep_attributes {
                return;
            }
            kernel.sim.pause(NOTIFICATION_MOST).await;
            kernel.note(format_args!("kernel drops the attributes of inode {inode}"));
            {
                let mut caches = lock(&kernel.caches);
                caches.forget_attributes(inode);
            }
            kernel.sim.pause(NOTIFICATION_MOST).await;
        })
    }

    fn drop_names(&self, directory: u64) -> BoxFuture<'static, ()> {
        let kernel = self.0.clone();
        Box::pin(async move {
            if kernel.faults.keep_names {
                return;
            }
            kernel.sim.pause(NOTIFICATION_MOST).await;
            kernel.note(format_args!("kernel drops the names of directory {directory}"));
            {
                let mut caches = lock(&kernel.caches);
                let announced = caches.announced.remove(&directory).unwrap_or_default();
                caches.drops += 1;
                let drop = caches.drops;
                for name in announced {
                    caches.names.remove(&(directory, name.clone()));
                    caches.name_drops.insert((directory, name), drop);
                }
            }
            kernel.sim.pause(NOTIFICATION_MOST).await;
        })
    }

    fn announce_name(&self, directory: u64, name: &[u8]) {
        if !self.0.faults.forget_announcements {
            let name = Name::from(String::from_utf8_lossy(name));
            lock(&self.0.caches).announced.entry(directory).or_default().insert(name);
        }
    }

    fn may_dirty_pages(&self, _: u64) -> bool {
        false
    }
}
