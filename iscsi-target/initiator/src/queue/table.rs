//! The table and its life: requests come in, a connection comes, goes and comes back, and in the end there is none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::Instant;
use block_core::completion::{Completer, Completion as Answer, completion};
use block_core::{BlockError, ByteLen, ByteOffset};
use bytes::Bytes;
use iscsi_target_proto::initiator::{CloseReason, InitiatorSession};
use iscsi_target_proto::scsi::{Completion, ScsiCommand};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use super::registration::Registered;
use super::request::{Finished, Once, OnceAnswer, Request, Role, Waiter};
use crate::kept::{Kept, Run};

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Being made, or being made again.
    Recovering,
    Ready,
    /// For good; every request gets this answer.
    Dead(BlockError),
}

/// A snapshot for people.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    pub state: ConnectionState,
    /// How long requests have been without progress, if they are.
    pub troubled_for: Option<Duration>,
    pub reconnects: u64,
    /// Requests that wait for their answer.
    pub requests: usize,
    /// Of them, those that are with the target.
    pub in_flight: usize,
    /// Data that was answered and not flushed yet.
    pub unflushed: ByteLen,
}

/// Limits the queue works with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The logical unit, for flushes of our own.
    pub lun: u16,
    pub command_timeout: Duration,
    pub recovery_limit: Duration,
    pub unflushed_max: ByteLen,
}

/// The table itself; used under the lock.
pub struct Core {
    pub(super) limits: Limits,
    pub(super) state: ConnectionState,
    pub(super) session: Option<InitiatorSession>,
    pub(super) writer: Option<Arc<OwnedWriteHalf>>,
    pub(super) closed: Option<CloseReason>,
    pub(super) login: Option<Completer<()>>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) parked: BTreeSet<u64>,
    pub(super) delayed: BTreeSet<(Instant, u64)>,
    /// Commands in the order they were sent, with when; those answered since are skipped when they come first.
    pub(super) sent: VecDeque<(Instant, u64)>,
    pub(super) in_flight: usize,
    /// Bytes of callers' writes in flight.
    pub(super) writing: u64,
    pub(super) next_token: u64,
    pub(super) kept: Kept,
    pub(super) registered: Registered,
    pub(super) write_cache: bool,
    /// A flush of our own is under way.
    pub(super) is_flushing: bool,
    /// A failed flush leaves in doubt what was answered before; so every later one fails too.
    pub(super) flush_failure: Option<BlockError>,
    pub(super) troubled_since: Option<Instant>,
    pub(super) reconnects: u64,
    pub(super) closing: Closing,
    pub(super) capacity_changed: bool,
    pub(super) finished: Vec<Finished>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    No,
    /// When nothing is left to do.
    Wanted,
    /// The logout was sent; the target has until then.
    LoggingOut {
        until: Instant,
    },
}

impl Core {
    pub(super) fn new(limits: Limits) -> Self {
        Core {
            limits,
            state: ConnectionState::Recovering,
            session: None,
            writer: None,
            closed: None,
            login: None,
            requests: BTreeMap::new(),
            parked: BTreeSet::new(),
            delayed: BTreeSet::new(),
            sent: VecDeque::new(),
            in_flight: 0,
            writing: 0,
            next_token: 0,
            kept: Kept::default(),
            registered: Registered::No,
            write_cache: true,
            is_flushing: false,
            flush_failure: None,
            troubled_since: None,
            reconnects: 0,
            closing: Closing::No,
            capacity_changed: false,
            finished: Vec::new(),
        }
    }

    /// A fresh connection whose login begins. The answer comes when it has ended well.
    pub fn attach(&mut self, session: InitiatorSession, writer: Arc<OwnedWriteHalf>) -> Answer<()> {
        let (completer, answer) = completion();
        self.session = Some(session);
        self.writer = Some(writer);
        self.closed = None;
        self.login = Some(completer);
        answer
    }

    /// The connection is gone: nothing is with the target any more, everything has to be sent again, but for what must
    /// not be done twice.
    pub fn detach(&mut self, now: Instant) {
        if self.state == ConnectionState::Ready {
            self.state = ConnectionState::Recovering;
            self.reconnects += 1;
        }
        (self.session, self.writer, self.login) = (None, None, None);
        self.sent.clear();
        self.delayed.clear();
        (self.in_flight, self.writing) = (0, 0);
        self.is_flushing = false;
        let was_parked = std::mem::take(&mut self.parked);
        for (token, request) in std::mem::take(&mut self.requests) {
            match request.waiter {
                Waiter::Question(_) => {}
                // Marked again below, once somebody wants it.
                Waiter::Nobody { .. } => {}
                Waiter::Once { once, completer } if !was_parked.contains(&token) => {
                    if let Once::Reservation(change) = &once {
                        self.registered.lost(change);
                    }
                    self.finished.push(Finished::Once(completer, OnceAnswer::Lost));
                }
                Waiter::Caller { .. } | Waiter::Once { .. } => {
                    self.requests.insert(token, request);
                }
            }
        }
        if !self.requests.is_empty() {
            self.troubled_since.get_or_insert(now);
        }
        self.parked = self.requests.keys().copied().collect();
    }

    /// The unit is known and the kept writes are with it again: callers' requests go out.
    pub fn open_for_business(&mut self, write_cache: bool, now: Instant, wake: &Notify) {
        self.state = ConnectionState::Ready;
        self.write_cache = write_cache;
        if self.requests.is_empty() {
            self.troubled_since = None;
        }
        self.send_parked(now);
        self.flush_if_much_is_kept(now);
        self.write_from_outside(wake);
    }

    /// Answers everything, now and later, with `error`. Who is dead stays dead of the first cause.
    pub fn die(&mut self, error: BlockError) {
        if matches!(self.state, ConnectionState::Dead(_)) {
            return;
        }
        self.state = ConnectionState::Dead(error.clone());
        self.detach(Instant::default());
        self.troubled_since = None;
        self.parked.clear();
        for request in std::mem::take(&mut self.requests).into_values() {
            match request.waiter {
                Waiter::Caller { completer, .. } => {
                    self.finished.push(Finished::Caller(completer, Err(error.clone())));
                }
                Waiter::Once { completer, .. } => {
                    self.finished.push(Finished::Once(completer, OnceAnswer::Refused(error.clone())));
                }
                Waiter::Nobody { .. } | Waiter::Question(_) => {}
            }
        }
    }

    /// Since when requests wait in vain; `None` if none does. The recovery limit counts from here, so a device that
    /// nobody uses outlives any absence of its target.
    pub fn troubled_since(&self) -> Option<Instant> {
        self.troubled_since
    }

    /// No further requests will come.
    pub fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Wanted;
        }
    }

    /// Closed, and every request answered.
    pub fn is_over(&self) -> bool {
        self.closing != Closing::No && self.requests.is_empty()
    }

    /// What has to be sent again before anything else.
    pub fn kept_runs(&self, run_max: ByteLen) -> Vec<Run> {
        self.kept.runs(run_max.0)
    }

    /// Whether answered writes of this range are not flushed yet.
    pub fn has_kept(&self, at: ByteOffset, len: ByteLen) -> bool {
        self.kept.overlaps(at.0, len.0)
    }

    /// Our registration.
    pub fn registered(&mut self) -> &mut Registered {
        &mut self.registered
    }

    pub fn status(&self, now: Instant) -> ConnectionStatus {
        ConnectionStatus {
            state: self.state.clone(),
            troubled_for: self.troubled_since.map(|since| now.saturating_since(since)),
            reconnects: self.reconnects,
            requests: self.requests.len(),
            in_flight: self.in_flight,
            unflushed: ByteLen(self.kept.bytes()),
        }
    }

    pub(super) fn take(&mut self, command: ScsiCommand, role: Role, now: Instant) -> Answer<Result<Bytes, BlockError>> {
        let (completer, answer) = completion();
        if let Some(error) = self.refusal(role) {
            self.finished.push(Finished::Caller(completer, Err(error)));
            return answer;
        }
        let token = self.new_token();
        let waiter = Waiter::Caller { role, completer };
        self.requests.insert(token, Request { command, waiter, since: now, attempts: 0 });
        self.send_or_park(token, now);
        answer
    }

    pub(super) fn take_once(&mut self, command: ScsiCommand, once: Once, now: Instant) -> Answer<OnceAnswer> {
        let (completer, answer) = completion();
        if let ConnectionState::Dead(error) = &self.state {
            self.finished.push(Finished::Once(completer, OnceAnswer::Refused(error.clone())));
            return answer;
        }
        let token = self.new_token();
        let waiter = Waiter::Once { once, completer };
        self.requests.insert(token, Request { command, waiter, since: now, attempts: 0 });
        self.send_or_park(token, now);
        answer
    }

    pub(super) fn take_question(&mut self, command: ScsiCommand, completer: Completer<Completion>, now: Instant) {
        let token = self.new_token();
        let waiter = Waiter::Question(completer);
        self.requests.insert(token, Request { command, waiter, since: now, attempts: 0 });
        self.send(token, now);
    }

    fn refusal(&self, role: Role) -> Option<BlockError> {
        match (&self.state, role) {
            (ConnectionState::Dead(error), _) => Some(error.clone()),
            (_, Role::Flush { .. }) => self.flush_failure.clone(),
            (_, Role::Write { .. } | Role::Zero { .. }) if self.kept.bytes() >= self.limits.unflushed_max.0 => {
                self.flush_failure.clone()
            }
            (_, Role::Read { .. } | Role::Write { .. } | Role::Zero { .. } | Role::Discard { .. } | Role::Query) => {
                None
            }
        }
    }

    pub(super) fn send_or_park(&mut self, token: u64, now: Instant) {
        let Some(request) = self.requests.get(&token) else { return };
        // What is with the target will be kept when it is answered.
        let has_room = request.waiter.written() == 0 || self.kept.bytes() + self.writing < self.limits.unflushed_max.0;
        if has_room && self.state == ConnectionState::Ready {
            self.send(token, now);
        } else {
            self.parked.insert(token);
        }
        if self.state == ConnectionState::Recovering {
            self.troubled_since.get_or_insert(now);
        }
    }

    pub(super) fn send_parked(&mut self, now: Instant) {
        for token in std::mem::take(&mut self.parked) {
            self.send_or_park(token, now);
        }
    }

    pub(super) fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}
