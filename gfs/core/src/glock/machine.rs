//! One glock as the engine sees it: what it caches, and how it is held, lowered, opened and closed.
//!
//! Its state and queue are in `queue`; `worker` moves it between states.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use dlm_api::LockError;
use tokio::sync::{Notify, oneshot};

use super::gate::{Admission, RequestClass};
use super::queue::{IsTry, Queue, Waiter, deliver};
use super::table::GlockTable;
use super::{GlockKey, GlockKind, Guard, State};
use crate::error::{Error, Result};
use crate::file::DataCache;

/// What the block of an inode glock turned out to be; decides what a drain has to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Not read yet, or not an inode.
    Unknown,
    /// Regular file: the kernel may hold pages.
    File,
    /// The kernel may hold names.
    Directory,
    /// Symlinks and special files.
    Other,
}

/// One cluster lock with the caches that it owns.
pub struct Glock {
    pub(super) key: GlockKey,
    pub(super) table: Weak<GlockTable>,
    queue: Mutex<Queue>,
    /// Wakes the worker when the last local holder has gone.
    pub(super) holders_gone: Notify,
    /// Metadata blocks read or changed under this glock.
    pub(crate) blocks: Mutex<HashMap<u64, Bytes>>,
    /// Where in the log blocks of this glock last stand: block to absolute log position.
    pub(crate) logged: Mutex<HashMap<u64, u64>>,
    /// File data that is dirty or worth keeping.
    pub(crate) data: Mutex<DataCache>,
    /// Serialises write-back of `data`.
    pub(crate) writeback: tokio::sync::Mutex<()>,
}

/// A request that comes so soon after a glock went is one of many.
const STREAM_PAUSE_MAX: Duration = Duration::from_millis(2);

impl Glock {
    pub(super) fn new(key: GlockKey, table: Weak<GlockTable>) -> Glock {
        Glock {
            key,
            table,
            queue: Mutex::new(Queue::new(key.kind == GlockKind::IOpen)),
            holders_gone: Notify::new(),
            blocks: Mutex::new(HashMap::new()),
            logged: Mutex::new(HashMap::new()),
            data: Mutex::new(DataCache::default()),
            writeback: tokio::sync::Mutex::new(()),
        }
    }

    pub fn key(&self) -> GlockKey {
        self.key
    }

    pub fn held(&self) -> State {
        self.queue().held
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("invariant: no panic under this lock")
    }

    /// Holds the glock for reading.
    pub async fn shared(self: &Arc<Self>, class: RequestClass) -> Result<Guard> {
        self.hold(State::Shared, class, IsTry::No).await
    }

    /// Holds the glock for changing.
    pub async fn exclusive(self: &Arc<Self>, class: RequestClass) -> Result<Guard> {
        self.hold(State::Exclusive, class, IsTry::No).await
    }

    /// Holds the glock for changing, unless another node stands in the way: then
    /// `Error::Lock(WouldBlock)`.
    pub async fn try_exclusive(self: &Arc<Self>) -> Result<Guard> {
        self.hold(State::Exclusive, RequestClass::Ordinary, IsTry::Yes).await
    }

    async fn hold(self: &Arc<Self>, state: State, class: RequestClass, is_try: IsTry) -> Result<Guard> {
        let receiver = {
            let mut queue = self.queue();
            if let Some(error) = &queue.stuck {
                return Err(error.clone());
            }
            if is_try == IsTry::Yes && queue.is_uncached && !queue.is_free_for(state) {
                // Held by this very node for as long as a file is open.
                return Err(Error::Lock(LockError::WouldBlock));
            }
            let mut is_parked = false;
            let may_pass = queue.waiters.is_empty() || !matches!(class, RequestClass::Ordinary);
            let needed = queue.needed(state, &class);
            if queue.held >= needed && queue.is_free_for(needed) && may_pass {
                match queue.gate.admit(&class) {
                    Admission::Serve => return Ok(queue.take(self, needed)),
                    Admission::Park => is_parked = true,
                }
            } else if !queue.gate.may_cache() {
                is_parked = matches!(class, RequestClass::Ordinary);
            }
            if let (Some(lowered), Some(table)) = (queue.lowered_at, self.table.upgrade()) {
                queue.is_streaming = table.host.now() < lowered + STREAM_PAUSE_MAX;
            }
            let (granted, receiver) = oneshot::channel();
            queue.waiters.push_back(Waiter { state, class, is_try: is_try == IsTry::Yes, is_parked, granted });
            self.ensure_worker(&mut queue);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Lowers the glock to `target`; returns when it is done.
    pub async fn demote(self: &Arc<Self>, target: State) -> Result<()> {
        let receiver = {
            let mut queue = self.queue();
            if let Some(error) = &queue.stuck {
                return Err(error.clone());
            }
            if queue.held <= target && !queue.has_worker {
                return Ok(());
            }
            queue.demote_to = Some(queue.demote_to.map_or(target, |other| other.min(target)));
            let (done, receiver) = oneshot::channel();
            queue.demote_waiters.push(done);
            self.ensure_worker(&mut queue);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Waits until the worker has nothing left to do.
    pub async fn settle(&self) -> Result<()> {
        let receiver = {
            let mut queue = self.queue();
            if !queue.has_worker {
                return Ok(());
            }
            let (done, receiver) = oneshot::channel();
            queue.demote_waiters.push(done);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Lets go of the glock soon, without waiting.
    pub fn demote_soon(self: &Arc<Self>, target: State) {
        let mut queue = self.queue();
        if queue.held > target {
            queue.demote_to = Some(queue.demote_to.map_or(target, |other| other.min(target)));
            self.ensure_worker(&mut queue);
        }
    }

    /// A token for `is_current`: taken while the answer is justified.
    pub fn lifetime(&self) -> Option<u64> {
        let queue = self.queue();
        (queue.gate.may_cache() && queue.held > State::Unlocked).then_some(queue.lifetime)
    }

    /// Whether no drain has begun since the token was taken.
    pub fn is_current(&self, lifetime: u64) -> bool {
        let queue = self.queue();
        queue.gate.may_cache() && queue.held > State::Unlocked && queue.lifetime == lifetime
    }

    /// Says what the inode is, once it has been read.
    pub fn set_contents(&self, contents: Contents) {
        self.queue().contents = contents;
    }

    pub fn opens(&self) -> u32 {
        self.queue().opens
    }

    /// Counts an open; `iopen` is kept until the last is closed.
    pub fn add_open(&self, iopen: Guard) {
        let mut queue = self.queue();
        queue.opens += 1;
        let spare = queue.iopen.replace(iopen);
        drop(queue);
        drop(spare);
    }

    /// Counts a close; gives the iopen guard back with the last one.
    pub fn remove_open(&self) -> Option<Guard> {
        let mut queue = self.queue();
        queue.opens = queue.opens.saturating_sub(1);
        if queue.opens == 0 { queue.iopen.take() } else { None }
    }

    /// Counts an open for writing. The first waits until the kernel has no page of the inode, so
    /// that none that was filled under a shared glock can be dirtied.
    pub async fn add_writer(self: &Arc<Self>) -> Result<()> {
        let receiver = {
            let mut queue = self.queue();
            if let Some(error) = &queue.stuck {
                return Err(error.clone());
            }
            if queue.writers > 0 || queue.held == State::Unlocked && !queue.has_worker {
                queue.writers += 1;
                return Ok(());
            }
            let (done, receiver) = oneshot::channel();
            queue.first_writers.push(done);
            self.ensure_worker(&mut queue);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Counts a close of a handle open for writing.
    pub fn remove_writer(self: &Arc<Self>) {
        let mut queue = self.queue();
        queue.writers = queue.writers.saturating_sub(1);
        // Page fills that waited for the exclusive state may need less now, and a drain may be
        // waiting for their pages.
        let granted = queue.grant_waiters(self);
        drop(queue);
        deliver(granted);
    }

    /// Drops what is cached of an inode whose block is given to a new one. The caller holds the
    /// glock exclusively.
    pub(crate) fn forget_former_life(&self) {
        self.blocks.lock().expect("invariant: no panic under this lock").clear();
        self.data.lock().expect("invariant: no panic under this lock").clear();
        self.queue().contents = Contents::Unknown;
    }

    /// Whether nobody in this node holds it, waits for it or has its inode open.
    pub(super) fn is_unused(&self) -> bool {
        let queue = self.queue();
        !queue.has_worker && !queue.has_holders() && queue.waiters.is_empty() && queue.opens == 0
    }

    /// Unlocked, unused and not open.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.held == State::Unlocked && !queue.has_worker && queue.waiters.is_empty() && queue.opens == 0
    }

    /// One line for status and logs: what is held, and each waiter with what it needs.
    pub fn describe(&self) -> String {
        let queue = self.queue();
        let waiters: Vec<String> = queue
            .waiters
            .iter()
            .map(|waiter| {
                let state = queue.needed(waiter.state, &waiter.class);
                let is_try = if waiter.is_try { " try" } else { "" };
                let is_parked = if waiter.is_parked { " parked" } else { "" };
                format!("{state:?} {:?}{is_try}{is_parked}", waiter.class)
            })
            .collect();
        format!(
            "{} {:?} holders {}{} waiters {} [{}] demote {:?} worker {} opens {} writers {} first writers {}",
            self.key,
            queue.held,
            queue.shared_holders,
            if queue.has_exclusive_holder { "+EX" } else { "" },
            queue.waiters.len(),
            waiters.join(", "),
            queue.demote_to,
            queue.has_worker,
            queue.opens,
            queue.writers,
            queue.first_writers.len()
        )
    }

    pub(super) fn release(this: &Arc<Glock>, state: State) {
        let mut queue = this.queue();
        match state {
            State::Exclusive => queue.has_exclusive_holder = false,
            State::Shared => queue.shared_holders -= 1,
            State::Unlocked => {}
        }
        if !queue.has_exclusive_holder {
            this.holders_gone.notify_one();
        }
        let granted = queue.grant_waiters(this);
        if queue.has_work() {
            this.ensure_worker(&mut queue);
        }
        drop(queue);
        deliver(granted);
    }
}
