//! What one glock knows of its state, its local holders and its queue of waiters, and the rules by which they hold.
//!
//! Plain data behind the glock's mutex: nothing here waits. `machine` is its face to the engine, `worker` does what
//! `next_step` says.

use std::collections::VecDeque;
use std::sync::Arc;

use base::Instant;
use dlm_api::{LockError, LockId};
use tokio::sync::oneshot;

use super::gate::{Admission, Gate, RequestClass};
use super::machine::{Contents, Glock};
use super::{Guard, State};
use crate::error::{Error, Result};

/// One who asked for the glock and waits for it.
pub(super) struct Waiter {
    pub(super) state: State,
    pub(super) class: RequestClass,
    /// Fail rather than wait for another node.
    pub(super) is_try: bool,
    /// Arrived while the glock was being drained, and waits until that is over.
    pub(super) is_parked: bool,
    pub(super) granted: oneshot::Sender<Result<Guard>>,
}

/// State, holders and waiters of a glock.
pub(super) struct Queue {
    pub(super) lock: Option<LockId>,
    pub(super) held: State,
    pub(super) contents: Contents,
    pub(super) gate: Gate,
    pub(super) shared_holders: u32,
    pub(super) has_exclusive_holder: bool,
    pub(super) waiters: VecDeque<Waiter>,
    /// What another node, or we ourselves, want it lowered to.
    pub(super) demote_to: Option<State>,
    pub(super) demote_waiters: Vec<oneshot::Sender<Result<()>>>,
    /// Opens for writing that wait until no page is cached.
    pub(super) first_writers: Vec<oneshot::Sender<Result<()>>>,
    /// Handles open for writing: with one, a page may be dirtied without a request, so page fills
    /// take the glock exclusively.
    pub(super) writers: u32,
    /// Handles open at all.
    pub(super) opens: u32,
    /// Holds the iopen glock while `opens` is not 0.
    pub(super) iopen: Option<Guard>,
    pub(super) has_worker: bool,
    /// Why it can never be lowered again: what it protects may not be on the disk.
    pub(super) stuck: Option<Error>,
    /// Given up as soon as nobody holds it: others only ever try for an iopen glock.
    pub(super) is_uncached: bool,
    /// Changes when a drain begins: a reply may carry a lifetime only if it did not.
    pub(super) lifetime: u64,
    /// Number of the lock request; callbacks of an earlier lock are ignored.
    pub(super) request: u64,
    /// When it was last raised to exclusive.
    pub(super) raised_at: Option<Instant>,
    /// When it was last about to be lowered.
    pub(super) lowered_at: Option<Instant>,
    /// Somebody here wanted it again right after it was lowered.
    pub(super) is_streaming: bool,
    /// How often it was held here, to see whether it is in use.
    pub(super) holds: u64,
}

/// What the worker has to do next.
pub(super) enum Step {
    Demote(State),
    PromoteTo(State, IsTry),
    DrainForWriter,
    Rest,
}

/// Whether a request fails rather than waits for another node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IsTry {
    Yes,
    No,
}

impl Queue {
    pub(super) fn new(is_uncached: bool) -> Queue {
        Queue {
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
            is_uncached,
            lifetime: 0,
            request: 0,
            raised_at: None,
            lowered_at: None,
            is_streaming: false,
            holds: 0,
        }
    }

    pub(super) fn has_holders(&self) -> bool {
        self.has_exclusive_holder || self.shared_holders > 0
    }

    /// The state that a request has to have: a page fill takes the exclusive one as soon as a
    /// handle is open for writing. Asked anew each time, since that may change while it waits.
    pub(super) fn needed(&self, state: State, class: &RequestClass) -> State {
        let is_fill = matches!(class, RequestClass::Drains { pages: Some(_) });
        if is_fill && self.writers > 0 { State::Exclusive } else { state }
    }

    /// Whether a try has to be refused because of a holder in this node: an iopen glock is held
    /// for as long as a file is open.
    fn is_refused(&self, waiter: &Waiter) -> bool {
        waiter.is_try && self.is_uncached && !self.is_free_for(waiter.state)
    }

    pub(super) fn is_free_for(&self, state: State) -> bool {
        match state {
            State::Exclusive => !self.has_holders(),
            _ => !self.has_exclusive_holder,
        }
    }

    pub(super) fn take(&mut self, glock: &Arc<Glock>, state: State) -> Guard {
        self.holds += 1;
        match state {
            State::Exclusive => self.has_exclusive_holder = true,
            _ => self.shared_holders += 1,
        }
        Guard::new(glock.clone(), state)
    }

    /// Takes waiters that can hold now off the queue: in order while the gate is open; while it
    /// drains, only those whose page locks the drain waits for.
    pub(super) fn grant_waiters(&mut self, glock: &Arc<Glock>) -> Vec<(Waiter, Result<Guard>)> {
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

    pub(super) fn has_work(&self) -> bool {
        self.is_leftover()
            || self.demote_to.is_some_and(|target| self.held > target)
            || !self.first_writers.is_empty()
            || self.waiters.front().is_some_and(|waiter| self.needed(waiter.state, &waiter.class) > self.held)
    }

    pub(super) fn next_step(&mut self) -> Step {
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

    pub(super) fn begin_drain(&mut self) {
        self.gate.begin_drain();
        self.lifetime += 1;
        for waiter in &mut self.waiters {
            waiter.is_parked = matches!(waiter.class, RequestClass::Ordinary);
        }
    }

    pub(super) fn end_drain(&mut self) {
        self.gate.reopen();
        for waiter in &mut self.waiters {
            waiter.is_parked = false;
        }
    }
}

/// Hands guards over outside of the glock's mutex: a waiter that has gone drops its guard, and
/// that takes the mutex again.
pub(super) fn deliver(granted: Vec<(Waiter, Result<Guard>)>) {
    for (waiter, result) in granted {
        let _ = waiter.granted.send(result);
    }
}
