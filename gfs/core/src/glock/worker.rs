//! The worker of one glock: a task that runs while there is something to do, a demotion that another node asked for, a
//! promotion that a waiter needs, a drain before the first writable open.
//!
//! It is the only one that talks to the lock manager about its glock, so its steps never overlap.

use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use base::BoxFuture;
use dlm_api::{Flags, LockError, Mode};
use tracing::{debug, error};

use super::gate::{NextPass, RequestClass};
use super::machine::{Contents, Glock};
use super::queue::{IsTry, Queue, Step, deliver};
use super::table::GlockTable;
use super::{GlockKind, State, state_beside};
use crate::error::{Error, Result};

impl Glock {
    pub(super) fn ensure_worker(self: &Arc<Self>, queue: &mut Queue) {
        if queue.has_worker {
            return;
        }
        let Some(table) = self.table.upgrade() else { return };
        queue.has_worker = true;
        let this = self.clone();
        let host = table.host.clone();
        host.spawn(Box::pin(async move { this.work(table).await }));
    }

    async fn work(self: Arc<Self>, table: Arc<GlockTable>) {
        loop {
            let step = {
                let mut queue = self.queue();
                let granted = queue.grant_waiters(&self);
                let step = queue.next_step();
                if matches!(step, Step::Rest) {
                    queue.has_worker = false;
                    for done in queue.demote_waiters.drain(..) {
                        let _ = done.send(Ok(()));
                    }
                }
                drop(queue);
                deliver(granted);
                step
            };
            let is_lowering = matches!(step, Step::Demote(_));
            let result = match step {
                Step::Rest => return,
                Step::Demote(target) => {
                    let target = self.linger(&table, target).await;
                    self.lower(&table, target).await
                }
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
        let mut queue = self.queue();
        queue.has_worker = false;
        // A drain that did not end leaves the gate closed; a request that was refused can be
        // made again.
        if is_lowering || !queue.gate.may_cache() {
            queue.stuck = Some(error.clone());
        }
        let waiters: Vec<_> = queue.waiters.drain(..).collect();
        let mut demoters: Vec<_> = queue.demote_waiters.drain(..).collect();
        demoters.append(&mut queue.first_writers);
        drop(queue);
        for waiter in waiters {
            let _ = waiter.granted.send(Err(error.clone()));
        }
        for done in demoters {
            let _ = done.send(Err(error.clone()));
        }
    }

    /// Keeps a glock that was raised just now for as long as it is in use without a pause, but not for long: giving it
    /// up costs several flushes, which many changes may share. Only where it was wanted again at once after it had
    /// gone the last time: nodes that take turns are not kept waiting. Gives the state to lower it to.
    async fn linger(&self, table: &Arc<GlockTable>, target: State) -> State {
        let target = self.linger_if_streaming(table, target).await;
        self.queue().lowered_at = Some(table.host.now());
        target
    }

    async fn linger_if_streaming(&self, table: &Arc<GlockTable>, target: State) -> State {
        let (mut holds, end) = {
            let queue = self.queue();
            // Whoever waits here for the demotion waits for nothing else.
            let may_linger = queue.is_streaming
                && queue.held == State::Exclusive
                && queue.demote_waiters.is_empty()
                && queue.gate.may_cache();
            match queue.raised_at {
                Some(raised) if may_linger => (queue.holds, raised + LINGER_MAX),
                _ => return target,
            }
        };
        while table.host.now() < end {
            table.host.sleep_until(table.host.now() + LINGER_PAUSE).await;
            let queue = self.queue();
            if queue.holds == holds && !queue.has_holders() || !queue.demote_waiters.is_empty() {
                break;
            }
            holds = queue.holds;
        }
        let mut queue = self.queue();
        queue.demote_to.take().map_or(target, |other| other.min(target))
    }

    /// Demotes: drain the kernel, wait for local holders, flush, forget, tell the lock manager.
    async fn lower(self: &Arc<Self>, table: &Arc<GlockTable>, target: State) -> Result<()> {
        let (held, contents) = {
            let queue = self.begin_drain();
            (queue.held, queue.contents)
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
        let lock = self.queue().lock;
        if let Some(lock) = lock {
            match target.mode() {
                None => table.locks.unlock(lock, None).await?,
                Some(mode) => {
                    table.locks.convert(lock, mode, Flags::NONE, None).await?;
                }
            }
        }
        let mut queue = self.queue();
        if target == State::Unlocked {
            queue.lock = None;
            queue.request += 1;
        }
        queue.held = target;
        queue.end_drain();
        Ok(())
    }

    /// From here on requests pass those that wait for more than is held: a fill among them has a page locked that the
    /// drain waits for.
    fn begin_drain(self: &Arc<Self>) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue();
        queue.begin_drain();
        let granted = queue.grant_waiters(self);
        drop(queue);
        deliver(granted);
        self.queue()
    }

    /// Passes over the kernel's pages until the gate closes.
    async fn drain_pages(self: &Arc<Self>, table: &Arc<GlockTable>) {
        let mut except: Vec<Range<u64>> = Vec::new();
        loop {
            if self.queue().gate.has_filled_pages() {
                let mut pass = table.caches.drop_pages(self.key.number, std::mem::take(&mut except));
                // A pass that takes long may be waiting for a page of a parked READ.
                while !ends_within(&mut pass, table.host.sleep_until(table.host.now() + PASS_PATIENCE)).await {
                    let mut queue = self.queue();
                    if queue.gate.relent() {
                        for waiter in &mut queue.waiters {
                            waiter.is_parked = matches!(waiter.class, RequestClass::Ordinary);
                        }
                        let granted = queue.grant_waiters(self);
                        drop(queue);
                        deliver(granted);
                    }
                }
            }
            match self.queue().gate.end_pass() {
                NextPass::Closed => return,
                NextPass::Again { except: ranges } => except = ranges,
            }
        }
    }

    async fn drain_for_writer(self: &Arc<Self>, table: &Arc<GlockTable>) -> Result<()> {
        drop(self.begin_drain());
        self.drain_pages(table).await;
        let mut queue = self.queue();
        let waiting: Vec<_> = queue.first_writers.drain(..).collect();
        for done in waiting {
            queue.writers += 1;
            if done.send(Ok(())).is_err() {
                queue.writers -= 1;
            }
        }
        queue.end_drain();
        Ok(())
    }

    /// Waits until nobody here holds more than `target` allows: readers may stay when it is only
    /// lowered to shared.
    async fn wait_for_holders(&self, target: State) {
        loop {
            let gone = self.holders_gone.notified();
            {
                let queue = self.queue();
                if !queue.has_exclusive_holder && (target == State::Shared || queue.shared_holders == 0) {
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
        let lock = self.queue().lock;
        if let Some(lock) = lock {
            // Two nodes that raise at once would wait for one another: only try, and if another
            // node stands in the way give the shared lock up and queue for the exclusive one.
            match table.locks.convert(lock, mode, Flags::NOQUEUE, None).await {
                Ok(_) => {
                    let mut queue = self.queue();
                    queue.held = state;
                    queue.raised_at = Some(table.host.now());
                    return Ok(());
                }
                Err(LockError::WouldBlock | LockError::Deadlock) if is_try == IsTry::No => {
                    self.lower(table, State::Unlocked).await?;
                }
                Err(error) => return self.refuse_try(error, is_try),
            }
        }
        let request = {
            let mut queue = self.queue();
            queue.request += 1;
            queue.demote_to = None;
            queue.request
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
                let mut queue = self.queue();
                queue.lock = Some(lock);
                queue.held = state;
                queue.raised_at = (state == State::Exclusive).then(|| table.host.now());
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
        let waiter = self.queue().waiters.pop_front();
        if let Some(waiter) = waiter {
            debug_assert!(waiter.is_try);
            let _ = waiter.granted.send(Err(error.into()));
        }
        Ok(())
    }

    /// Another node waits for `wanted`.
    fn blocked(self: &Arc<Self>, request: u64, wanted: Mode) {
        let mut queue = self.queue();
        if queue.request != request {
            return;
        }
        let target = state_beside(wanted);
        queue.demote_to = Some(queue.demote_to.map_or(target, |other| other.min(target)));
        self.ensure_worker(&mut queue);
    }
}

/// How long a glock is kept at most after it was raised, while another node waits for it.
const LINGER_MAX: Duration = Duration::from_millis(20);
/// Not held anew for so long, it is not in use.
const LINGER_PAUSE: Duration = Duration::from_millis(1);

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
