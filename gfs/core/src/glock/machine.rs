//! One glock: its local holders, its waiters, and the worker that moves it between states.
//!
//! The worker is a task that runs while there is something to do: a demotion that another node
//! asked for, a promotion that a waiter needs, a drain before the first writable open. It is the
//! only one that talks to the lock manager about this glock, so its steps never overlap.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Poll;
use std::time::Duration;

use base::BoxFuture;
use bytes::Bytes;
use dlm_api::{Flags, LockError, LockId, Mode};
use tokio::sync::{Notify, oneshot};
use tracing::{debug, error};

use super::gate::{Admission, Gate, NextPass, RequestClass};
use super::table::GlockTable;
use super::{GlockKey, GlockKind, Guard, State, state_beside};
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
    key: GlockKey,
    table: Weak<GlockTable>,
    inner: Mutex<Inner>,
    /// Wakes the worker when the last local holder has gone.
    holders_gone: Notify,
    /// Metadata blocks read or changed under this glock.
    pub(crate) blocks: Mutex<HashMap<u64, Bytes>>,
    /// Where in the log blocks of this glock last stand: block to absolute log position.
    pub(crate) logged: Mutex<HashMap<u64, u64>>,
    /// File data that is dirty or worth keeping.
    pub(crate) data: Mutex<DataCache>,
    /// Serialises write-back of `data`.
    pub(crate) writeback: tokio::sync::Mutex<()>,
}

struct Waiter {
    state: State,
    class: RequestClass,
    /// Fail rather than wait for another node.
    is_try: bool,
    /// Arrived while the glock was being drained, and waits until that is over.
    is_parked: bool,
    granted: oneshot::Sender<Result<Guard>>,
}

struct Inner {
    lock: Option<LockId>,
    held: State,
    contents: Contents,
    gate: Gate,
    shared_holders: u32,
    has_exclusive_holder: bool,
    waiters: VecDeque<Waiter>,
    /// What another node, or we ourselves, want it lowered to.
    demote_to: Option<State>,
    demote_waiters: Vec<oneshot::Sender<Result<()>>>,
    /// Opens for writing that wait until no page is cached.
    first_writers: Vec<oneshot::Sender<Result<()>>>,
    /// Handles open for writing: with one, a page may be dirtied without a request, so page fills
    /// take the glock exclusively.
    writers: u32,
    /// Handles open at all.
    opens: u32,
    /// Holds the iopen glock while `opens` is not 0.
    iopen: Option<Guard>,
    has_worker: bool,
    /// Why it can never be lowered again: what it protects may not be on the disk.
    stuck: Option<Error>,
    /// Given up as soon as nobody holds it: others only ever try for an iopen glock.
    is_uncached: bool,
    /// Changes when a drain begins: a reply may carry a lifetime only if it did not.
    lifetime: u64,
    /// Number of the lock request; callbacks of an earlier lock are ignored.
    request: u64,
}

enum Step {
    Demote(State),
    PromoteTo(State, IsTry),
    DrainForWriter,
    Rest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsTry {
    Yes,
    No,
}

impl Glock {
    pub(super) fn new(key: GlockKey, table: Weak<GlockTable>) -> Glock {
        Glock {
            key,
            table,
            inner: Mutex::new(Inner {
                lock: None,
                held: State::Unlocked,
                contents: Contents::Unknown,
                gate: Gate::new(),
                shared_holders: 0,
                has_exclusive_holder: false,
                waiters: VecDeque::new(),
                demote_to: None,
                demote_waiters: Vec::new(),
                first_writers: Vec::new(),
                writers: 0,
                opens: 0,
                iopen: None,
                has_worker: false,
                stuck: None,
                is_uncached: key.kind == GlockKind::IOpen,
                lifetime: 0,
                request: 0,
            }),
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
        self.inner().held
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("invariant: no panic under this lock")
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
            let mut inner = self.inner();
            if let Some(error) = &inner.stuck {
                return Err(error.clone());
            }
            if is_try == IsTry::Yes && inner.is_uncached && !inner.is_free_for(state) {
                // Held by this very node for as long as a file is open.
                return Err(Error::Lock(LockError::WouldBlock));
            }
            let mut is_parked = false;
            let may_pass = inner.waiters.is_empty() || !matches!(class, RequestClass::Ordinary);
            let needed = inner.needed(state, &class);
            if inner.held >= needed && inner.is_free_for(needed) && may_pass {
                match inner.gate.admit(&class) {
                    Admission::Serve => return Ok(inner.take(self, needed)),
                    Admission::Park => is_parked = true,
                }
            } else if !inner.gate.may_cache() {
                is_parked = matches!(class, RequestClass::Ordinary);
            }
            let (granted, receiver) = oneshot::channel();
            inner.waiters.push_back(Waiter { state, class, is_try: is_try == IsTry::Yes, is_parked, granted });
            self.ensure_worker(&mut inner);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Lowers the glock to `target`; returns when it is done.
    pub async fn demote(self: &Arc<Self>, target: State) -> Result<()> {
        let receiver = {
            let mut inner = self.inner();
            if let Some(error) = &inner.stuck {
                return Err(error.clone());
            }
            if inner.held <= target && !inner.has_worker {
                return Ok(());
            }
            inner.demote_to = Some(inner.demote_to.map_or(target, |other| other.min(target)));
            let (done, receiver) = oneshot::channel();
            inner.demote_waiters.push(done);
            self.ensure_worker(&mut inner);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Waits until the worker has nothing left to do.
    pub async fn settle(&self) -> Result<()> {
        let receiver = {
            let mut inner = self.inner();
            if !inner.has_worker {
                return Ok(());
            }
            let (done, receiver) = oneshot::channel();
            inner.demote_waiters.push(done);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Lets go of the glock soon, without waiting.
    pub fn demote_soon(self: &Arc<Self>, target: State) {
        let mut inner = self.inner();
        if inner.held > target {
            inner.demote_to = Some(inner.demote_to.map_or(target, |other| other.min(target)));
            self.ensure_worker(&mut inner);
        }
    }

    /// A token for `is_current`: taken while the answer is justified.
    pub fn lifetime(&self) -> Option<u64> {
        let inner = self.inner();
        (inner.gate.may_cache() && inner.held > State::Unlocked).then_some(inner.lifetime)
    }

    /// Whether no drain has begun since the token was taken.
    pub fn is_current(&self, lifetime: u64) -> bool {
        let inner = self.inner();
        inner.gate.may_cache() && inner.held > State::Unlocked && inner.lifetime == lifetime
    }

    /// Says what the inode is, once it has been read.
    pub fn set_contents(&self, contents: Contents) {
        self.inner().contents = contents;
    }

    pub fn opens(&self) -> u32 {
        self.inner().opens
    }

    /// Counts an open; `iopen` is kept until the last is closed.
    pub fn add_open(&self, iopen: Guard) {
        let mut inner = self.inner();
        inner.opens += 1;
        let spare = inner.iopen.replace(iopen);
        drop(inner);
        drop(spare);
    }

    /// Counts a close; gives the iopen guard back with the last one.
    pub fn remove_open(&self) -> Option<Guard> {
        let mut inner = self.inner();
        inner.opens = inner.opens.saturating_sub(1);
        if inner.opens == 0 { inner.iopen.take() } else { None }
    }

    /// Counts an open for writing. The first waits until the kernel has no page of the inode, so
    /// that none that was filled under a shared glock can be dirtied.
    pub async fn add_writer(self: &Arc<Self>) -> Result<()> {
        let receiver = {
            let mut inner = self.inner();
            if let Some(error) = &inner.stuck {
                return Err(error.clone());
            }
            if inner.writers > 0 || inner.held == State::Unlocked && !inner.has_worker {
                inner.writers += 1;
                return Ok(());
            }
            let (done, receiver) = oneshot::channel();
            inner.first_writers.push(done);
            self.ensure_worker(&mut inner);
            receiver
        };
        receiver.await.unwrap_or(Err(Error::Withdrawn))
    }

    /// Counts a close of a handle open for writing.
    pub fn remove_writer(self: &Arc<Self>) {
        let mut inner = self.inner();
        inner.writers = inner.writers.saturating_sub(1);
        // Page fills that waited for the exclusive state may need less now, and a drain may be
        // waiting for their pages.
        let granted = inner.grant_waiters(self);
        drop(inner);
        deliver(granted);
    }

    /// Drops what is cached of an inode whose block is given to a new one. The caller holds the
    /// glock exclusively.
    pub(crate) fn forget_former_life(&self) {
        self.blocks.lock().expect("invariant: no panic under this lock").clear();
        self.data.lock().expect("invariant: no panic under this lock").clear();
        self.inner().contents = Contents::Unknown;
    }

    /// Whether nobody in this node holds it, waits for it or has its inode open.
    pub(super) fn is_unused(&self) -> bool {
        let inner = self.inner();
        !inner.has_worker && !inner.has_holders() && inner.waiters.is_empty() && inner.opens == 0
    }

    /// Unlocked, unused and not open.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.inner();
        inner.held == State::Unlocked && !inner.has_worker && inner.waiters.is_empty() && inner.opens == 0
    }

    /// One line for status and logs: what is held, and each waiter with what it needs.
    pub fn describe(&self) -> String {
        let inner = self.inner();
        let waiters: Vec<String> = inner
            .waiters
            .iter()
            .map(|waiter| {
                let state = inner.needed(waiter.state, &waiter.class);
                let is_try = if waiter.is_try { " try" } else { "" };
                let is_parked = if waiter.is_parked { " parked" } else { "" };
                format!("{state:?} {:?}{is_try}{is_parked}", waiter.class)
            })
            .collect();
        format!(
            "{} {:?} holders {}{} waiters {} [{}] demote {:?} worker {} opens {} writers {} first writers {}",
            self.key,
            inner.held,
            inner.shared_holders,
            if inner.has_exclusive_holder { "+EX" } else { "" },
            inner.waiters.len(),
            waiters.join(", "),
            inner.demote_to,
            inner.has_worker,
            inner.opens,
            inner.writers,
            inner.first_writers.len()
        )
    }

    pub(super) fn release(this: &Arc<Glock>, state: State) {
        let mut inner = this.inner();
        match state {
            State::Exclusive => inner.has_exclusive_holder = false,
            State::Shared => inner.shared_holders -= 1,
            State::Unlocked => {}
        }
        if !inner.has_exclusive_holder {
            this.holders_gone.notify_one();
        }
        let granted = inner.grant_waiters(this);
        if inner.has_work() {
            this.ensure_worker(&mut inner);
        }
        drop(inner);
        deliver(granted);
    }

    fn ensure_worker(self: &Arc<Self>, inner: &mut Inner) {
        if inner.has_worker {
            return;
        }
        let Some(table) = self.table.upgrade() else { return };
        inner.has_worker = true;
        let this = self.clone();
        let host = table.host.clone();
        host.spawn(Box::pin(async move { this.work(table).await }));
    }

    async fn work(self: Arc<Self>, table: Arc<GlockTable>) {
        loop {
            let step = {
                let mut inner = self.inner();
                let granted = inner.grant_waiters(&self);
                let step = inner.next_step();
                if matches!(step, Step::Rest) {
                    inner.has_worker = false;
                    for done in inner.demote_waiters.drain(..) {
                        let _ = done.send(Ok(()));
                    }
                }
                drop(inner);
                deliver(granted);
                step
            };
            let is_lowering = matches!(step, Step::Demote(_));
            let result = match step {
                Step::Rest => return,
                Step::Demote(target) => self.lower(&table, target).await,
                Step::PromoteTo(state, is_try) => self.raise(&table, state, is_try).await,
                Step::DrainForWriter => self.drain_for_writer(&table).await,
            };
            if let Err(error) = result {
                self.fail(&error, is_lowering);
                return;
            }
        }
    }

    /// Stops the glock after an error: it stays held as it is, since what it protects may not be
    /// on the disk, and everybody who waits here is told.
    fn fail(&self, error: &Error, is_lowering: bool) {
        error!(glock = %self.key, %error, is_lowering, "the glock cannot change its state");
        let mut inner = self.inner();
        inner.has_worker = false;
        // A drain that did not end leaves the gate closed; a request that was refused can be
        // made again.
        if is_lowering || !inner.gate.may_cache() {
            inner.stuck = Some(error.clone());
        }
        let waiters: Vec<_> = inner.waiters.drain(..).collect();
        let mut demoters: Vec<_> = inner.demote_waiters.drain(..).collect();
        demoters.append(&mut inner.first_writers);
        drop(inner);
        for waiter in waiters {
            let _ = waiter.granted.send(Err(error.clone()));
        }
        for done in demoters {
            let _ = done.send(Err(error.clone()));
        }
    }

    /// Demotes: drain the kernel, wait for local holders, flush, forget, tell the lock manager.
    async fn lower(self: &Arc<Self>, table: &Arc<GlockTable>, target: State) -> Result<()> {
        let (held, contents) = {
            let mut inner = self.inner();
            inner.begin_drain();
            (inner.held, inner.contents)
        };
        debug!(glock = %self.key, ?held, ?target, "demoting");
        let number = self.key.number;
        let is_inode = self.key.kind == GlockKind::Inode;
        if is_inode && contents == Contents::Directory && target == State::Unlocked {
            table.caches.drop_names(number).await;
        }
        self.drain_pages(table).await;
        self.wait_for_holders(target).await;
        if is_inode && contents != Contents::Unknown && target == State::Unlocked {
            table.caches.drop_attributes(number).await;
        }
        // While the mount is being made nothing has been changed under any glock.
        if held == State::Exclusive && table.has_owner() {
            let owner = table.owner().ok_or(Error::Withdrawn)?;
            owner.sync_glock(self).await?;
        }
        if target == State::Unlocked {
            self.forget();
        }
        let lock = self.inner().lock;
        if let Some(lock) = lock {
            match target.mode() {
                None => table.locks.unlock(lock, None).await?,
                Some(mode) => {
                    table.locks.convert(lock, mode, Flags::NONE, None).await?;
                }
            }
        }
        let mut inner = self.inner();
        if target == State::Unlocked {
            inner.lock = None;
            inner.request += 1;
        }
        inner.held = target;
        inner.end_drain();
        Ok(())
    }

    /// Passes over the kernel's pages until the gate closes.
    async fn drain_pages(self: &Arc<Self>, table: &Arc<GlockTable>) {
        let mut except: Vec<Range<u64>> = Vec::new();
        loop {
            if self.inner().gate.has_filled_pages() {
                let mut pass = table.caches.drop_pages(self.key.number, std::mem::take(&mut except));
                // A pass that takes long may be waiting for a page of a parked READ.
                while !ends_within(&mut pass, table.host.sleep_until(table.host.now() + PASS_PATIENCE)).await {
                    let mut inner = self.inner();
                    if inner.gate.relent() {
                        for waiter in &mut inner.waiters {
                            waiter.is_parked = matches!(waiter.class, RequestClass::Ordinary);
                        }
                        let granted = inner.grant_waiters(self);
                        drop(inner);
                        deliver(granted);
                    }
                }
            }
            match self.inner().gate.end_pass() {
                NextPass::Closed => return,
                NextPass::Again { except: ranges } => except = ranges,
            }
        }
    }

    async fn drain_for_writer(self: &Arc<Self>, table: &Arc<GlockTable>) -> Result<()> {
        self.inner().begin_drain();
        self.drain_pages(table).await;
        let mut inner = self.inner();
        let waiting: Vec<_> = inner.first_writers.drain(..).collect();
        for done in waiting {
            inner.writers += 1;
            if done.send(Ok(())).is_err() {
                inner.writers -= 1;
            }
        }
        inner.end_drain();
        Ok(())
    }

    /// Waits until nobody here holds more than `target` allows: readers may stay when it is only
    /// lowered to shared.
    async fn wait_for_holders(&self, target: State) {
        loop {
            let gone = self.holders_gone.notified();
            {
                let inner = self.inner();
                if !inner.has_exclusive_holder && (target == State::Shared || inner.shared_holders == 0) {
                    return;
                }
            }
            gone.await;
        }
    }

    fn forget(&self) {
        self.blocks.lock().expect("invariant: no panic under this lock").clear();
        self.logged.lock().expect("invariant: no panic under this lock").clear();
        self.data.lock().expect("invariant: no panic under this lock").clear();
    }

    async fn raise(self: &Arc<Self>, table: &Arc<GlockTable>, state: State, is_try: IsTry) -> Result<()> {
        let mode = state.mode().expect("invariant: nobody waits for Unlocked");
        let noqueue = if is_try == IsTry::Yes { Flags::NOQUEUE } else { Flags::NONE };
        let lock = self.inner().lock;
        if let Some(lock) = lock {
            // Two nodes that raise at once would wait for one another: only try, and if another
            // node stands in the way give the shared lock up and queue for the exclusive one.
            match table.locks.convert(lock, mode, Flags::NOQUEUE, None).await {
                Ok(_) => {
                    self.inner().held = state;
                    return Ok(());
                }
                Err(LockError::WouldBlock | LockError::Deadlock) if is_try == IsTry::No => {
                    self.lower(table, State::Unlocked).await?;
                }
                Err(error) => return self.refuse_try(error, is_try),
            }
        }
        let request = {
            let mut inner = self.inner();
            inner.request += 1;
            inner.demote_to = None;
            inner.request
        };
        let this = Arc::downgrade(self);
        let blocking = Arc::new(move |wanted: Mode| {
            if let Some(glock) = this.upgrade() {
                glock.blocked(request, wanted);
            }
        });
        let (lock, granted) = table.locks.lock(self.key.resource_name(), mode, noqueue, blocking);
        match granted.await {
            Ok(_) => {
                let mut inner = self.inner();
                inner.lock = Some(lock);
                inner.held = state;
                Ok(())
            }
            Err(error) => self.refuse_try(error, is_try),
        }
    }

    /// A try that would have to wait is an answer, anything else is a failure.
    fn refuse_try(&self, error: LockError, is_try: IsTry) -> Result<()> {
        if is_try == IsTry::No || error != LockError::WouldBlock {
            return Err(error.into());
        }
        let waiter = self.inner().waiters.pop_front();
        if let Some(waiter) = waiter {
            debug_assert!(waiter.is_try);
            let _ = waiter.granted.send(Err(error.into()));
        }
        Ok(())
    }

    /// Another node waits for `wanted`.
    fn blocked(self: &Arc<Self>, request: u64, wanted: Mode) {
        let mut inner = self.inner();
        if inner.request != request {
            return;
        }
        let target = state_beside(wanted);
        inner.demote_to = Some(inner.demote_to.map_or(target, |other| other.min(target)));
        self.ensure_worker(&mut inner);
    }
}

impl Inner {
    fn has_holders(&self) -> bool {
        self.has_exclusive_holder || self.shared_holders > 0
    }

    /// The state that a request has to have: a page fill takes the exclusive one as soon as a
    /// handle is open for writing. Asked anew each time, since that may change while it waits.
    fn needed(&self, state: State, class: &RequestClass) -> State {
        let is_fill = matches!(class, RequestClass::Drains { pages: Some(_) });
        if is_fill && self.writers > 0 { State::Exclusive } else { state }
    }

    /// Whether a try has to be refused because of a holder in this node: an iopen glock is held
    /// for as long as a file is open.
    fn is_refused(&self, waiter: &Waiter) -> bool {
        waiter.is_try && self.is_uncached && !self.is_free_for(waiter.state)
    }

    fn is_free_for(&self, state: State) -> bool {
        match state {
            State::Exclusive => !self.has_holders(),
            _ => !self.has_exclusive_holder,
        }
    }

    fn take(&mut self, glock: &Arc<Glock>, state: State) -> Guard {
        match state {
            State::Exclusive => self.has_exclusive_holder = true,
            _ => self.shared_holders += 1,
        }
        Guard::new(glock.clone(), state)
    }

    /// Takes waiters that can hold now off the queue: in order while the gate is open; while it
    /// drains, only those whose page locks the drain waits for.
    fn grant_waiters(&mut self, glock: &Arc<Glock>) -> Vec<(Waiter, Result<Guard>)> {
        let mut granted = Vec::new();
        let is_open = self.gate.may_cache();
        let mut index = 0;
        while index < self.waiters.len() {
            let waiter = &self.waiters[index];
            let (state, is_parked) = (self.needed(waiter.state, &waiter.class), waiter.is_parked);
            if self.is_refused(waiter) {
                let waiter = self.waiters.remove(index).expect("invariant: index is in range");
                granted.push((waiter, Err(Error::Lock(LockError::WouldBlock))));
                continue;
            }
            let can_hold = self.held >= state && self.is_free_for(state);
            if is_open && !can_hold {
                break;
            }
            if !can_hold || is_parked && !is_open {
                index += 1;
                continue;
            }
            let waiter = &mut self.waiters[index];
            if self.gate.admit(&waiter.class) == Admission::Park {
                waiter.is_parked = true;
                index += 1;
                continue;
            }
            let waiter = self.waiters.remove(index).expect("invariant: index is in range");
            let guard = self.take(glock, state);
            granted.push((waiter, Ok(guard)));
        }
        granted
    }

    /// Held by the node and by nobody in it, and not worth keeping.
    fn is_leftover(&self) -> bool {
        self.is_uncached && self.held > State::Unlocked && !self.has_holders() && self.waiters.is_empty()
    }

    fn has_work(&self) -> bool {
        self.is_leftover()
            || self.demote_to.is_some_and(|target| self.held > target)
            || !self.first_writers.is_empty()
            || self.waiters.front().is_some_and(|waiter| self.needed(waiter.state, &waiter.class) > self.held)
    }

    fn next_step(&mut self) -> Step {
        if let Some(target) = self.demote_to.take()
            && self.held > target
        {
            return Step::Demote(target);
        }
        if self.is_leftover() {
            // Closed in the same step: a holder that slipped in would be waited for.
            self.begin_drain();
            self.gate.close();
            return Step::Demote(State::Unlocked);
        }
        if !self.first_writers.is_empty() {
            return Step::DrainForWriter;
        }
        let Some(waiter) = self.waiters.front() else { return Step::Rest };
        let state = self.needed(waiter.state, &waiter.class);
        if state > self.held {
            Step::PromoteTo(state, if waiter.is_try { IsTry::Yes } else { IsTry::No })
        } else {
            Step::Rest
        }
    }

    fn begin_drain(&mut self) {
        self.gate.begin_drain();
        self.lifetime += 1;
        for waiter in &mut self.waiters {
            waiter.is_parked = matches!(waiter.class, RequestClass::Ordinary);
        }
    }

    fn end_drain(&mut self) {
        self.gate.reopen();
        for waiter in &mut self.waiters {
            waiter.is_parked = false;
        }
    }
}

/// How long a pass may take before parked READs are served after all.
const PASS_PATIENCE: Duration = Duration::from_millis(5);

/// Whether `work` ended before `alarm` did.
async fn ends_within(work: &mut BoxFuture<'static, ()>, mut alarm: BoxFuture<'static, ()>) -> bool {
    std::future::poll_fn(|context| {
        if work.as_mut().poll(context).is_ready() {
            Poll::Ready(true)
        } else {
            alarm.as_mut().poll(context).map(|()| false)
        }
    })
    .await
}

/// Hands guards over outside of the glock's mutex: a waiter that has gone drops its guard, and
/// that takes the mutex again.
fn deliver(granted: Vec<(Waiter, Result<Guard>)>) {
    for (waiter, result) in granted {
        let _ = waiter.granted.send(result);
    }
}
