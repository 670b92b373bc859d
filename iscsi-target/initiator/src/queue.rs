//! The table of requests: what callers asked for, what of it is with the target, what has to be sent again.
//!
//! Owns the session and the sending end of the socket, so that a caller's request goes out on the caller's own thread
//! when little is in flight. Callers submit; the task in `task` and `link` moves answers, time and connections.
//!
//! ```text
//! submit ─► Parked ◄──────────────┐ connection lost
//!             │ ready, room       │
//!             ▼                   │
//!            Sent ────────────────┤
//!             │ answered          │
//!             ├─► Delayed ────────┘ (or when its time has come: Sent)
//!             └─► gone, its caller has the answer
//! ```
//! Invariants: nothing but probes is with the session unless the state is `Ready`; a write whose answer was given and
//! that no flush has covered is in `kept`, unless the unit has no write cache.
//!
//! Locking: one mutex; answers are handed out after it is released.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Instant;
use block_core::completion::{Completer, Completion as Answer, completion};
use block_core::{BlockError, ByteLen, ByteOffset, Durability};
use bytes::{Buf, Bytes};
use iscsi_target_proto::initiator::{CloseReason, CommandToken, InitiatorSession, Input, Output};
use iscsi_target_proto::scsi::{Completion, DataPhase, ScsiCommand};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::clock;
use crate::kept::Kept;
use crate::verdict::{Verdict, judge};

/// What a request is for; decides what its answer changes.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Read {
        at: ByteOffset,
        len: ByteLen,
    },
    Write {
        at: ByteOffset,
        len: ByteLen,
        durability: Durability,
    },
    /// `mark`: what was answered when it was first sent.
    Flush {
        mark: u64,
    },
}

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

/// What the device and the connection's task share.
pub struct Shared {
    core: Mutex<Core>,
    /// Wakes the task: something to send, or the device is closed.
    pub wake: Notify,
    /// The unit said that its capacity has changed.
    pub capacity_changed: Notify,
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

impl Shared {
    pub fn new(limits: Limits) -> Arc<Shared> {
        let core = Core {
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
            write_cache: true,
            is_flushing: false,
            flush_failure: None,
            troubled_since: None,
            reconnects: 0,
            closing: Closing::No,
            capacity_changed: false,
            finished: Vec::new(),
        };
        Arc::new(Shared { core: Mutex::new(core), wake: Notify::new(), capacity_changed: Notify::new() })
    }

    /// Takes a caller's requests, in this order.
    pub fn submit(&self, requests: Vec<(ScsiCommand, Role)>) -> Vec<Answer<Result<Bytes, BlockError>>> {
        let now = clock::now();
        self.with(|core| {
            let answers = requests.into_iter().map(|(command, role)| core.take(command, role, now)).collect();
            core.push(&self.wake);
            answers
        })
    }

    /// Takes one request of a caller.
    pub fn submit_one(&self, command: ScsiCommand, role: Role) -> Answer<Result<Bytes, BlockError>> {
        let now = clock::now();
        self.with(|core| {
            let answer = core.take(command, role, now);
            core.push(&self.wake);
            answer
        })
    }

    /// Takes a flush, which covers what was answered until now.
    pub fn submit_flush(&self, command: ScsiCommand) -> Answer<Result<Bytes, BlockError>> {
        let mark = self.with(|core| core.kept.mark());
        self.submit_one(command, Role::Flush { mark })
    }

    /// Sends a question of the task's own, whatever the state; no answer if the connection ends first.
    pub fn ask(&self, command: ScsiCommand) -> Answer<Completion> {
        let (completer, answer) = completion();
        let now = clock::now();
        self.with(|core| {
            let token = core.new_token();
            let request = Request { command, waiter: Waiter::Question(completer), since: now, attempts: 0 };
            core.requests.insert(token, request);
            core.send(token, now);
            core.write_from_outside(&self.wake);
        });
        answer
    }

    /// Does `work` under the lock, then hands out the answers that came of it.
    pub fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        let (result, finished, capacity_changed) = {
            let mut core = self.lock();
            let result = work(&mut core);
            (result, std::mem::take(&mut core.finished), std::mem::take(&mut core.capacity_changed))
        };
        for finish in finished {
            finish.hand_out();
        }
        if capacity_changed {
            self.capacity_changed.notify_one();
        }
        result
    }

    /// Only for what creates no answers; everything else goes through [`Shared::with`].
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happens next on the connection.
pub enum Turn {
    /// The session is over.
    Closed(CloseReason),
    /// Wait for bytes, for the task's wake-up, for the deadline, and for room in the socket if it `wants_write`.
    Wait { wants_write: bool, deadline: Option<Instant> },
}

/// The table itself; used under the lock.
pub struct Core {
    limits: Limits,
    state: ConnectionState,
    session: Option<InitiatorSession>,
    writer: Option<Arc<OwnedWriteHalf>>,
    closed: Option<CloseReason>,
    login: Option<Completer<()>>,
    requests: BTreeMap<u64, Request>,
    parked: BTreeSet<u64>,
    delayed: BTreeSet<(Instant, u64)>,
    /// Commands in the order they were sent, with when; those answered since are skipped when they come first.
    sent: VecDeque<(Instant, u64)>,
    in_flight: usize,
    /// Bytes of callers' writes in flight.
    writing: u64,
    next_token: u64,
    kept: Kept,
    write_cache: bool,
    /// A flush of our own is under way.
    is_flushing: bool,
    /// A failed flush leaves in doubt what was answered before; so every later one fails too.
    flush_failure: Option<BlockError>,
    troubled_since: Option<Instant>,
    reconnects: u64,
    closing: Closing,
    capacity_changed: bool,
    finished: Vec<Finished>,
}

enum Written {
    All,
    /// The socket is full, or has failed.
    Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// When nothing is left to do.
    Wanted,
    /// The logout was sent; the target has until then.
    LoggingOut {
        until: Instant,
    },
}

struct Request {
    command: ScsiCommand,
    waiter: Waiter,
    since: Instant,
    attempts: u32,
}

enum Waiter {
    Caller {
        role: Role,
        completer: Completer<Result<Bytes, BlockError>>,
    },
    /// The initiator's own flush.
    Nobody {
        role: Role,
    },
    /// The task; it judges the answer itself.
    Question(Completer<Completion>),
}

impl Waiter {
    fn role(&self) -> Option<Role> {
        match self {
            Waiter::Caller { role, .. } | Waiter::Nobody { role } => Some(*role),
            Waiter::Question(_) => None,
        }
    }
}

enum Finished {
    Caller(Completer<Result<Bytes, BlockError>>, Result<Bytes, BlockError>),
    Question(Completer<Completion>, Completion),
    Login(Completer<()>),
}

impl Finished {
    fn hand_out(self) {
        match self {
            Finished::Caller(completer, result) => completer.complete(result),
            Finished::Question(completer, answer) => completer.complete(answer),
            Finished::Login(completer) => completer.complete(()),
        }
    }
}

impl Core {
    /// A fresh connection whose login begins. The answer comes when it has ended well.
    pub fn attach(&mut self, session: InitiatorSession, writer: Arc<OwnedWriteHalf>) -> Answer<()> {
        let (completer, answer) = completion();
        self.session = Some(session);
        self.writer = Some(writer);
        self.closed = None;
        self.login = Some(completer);
        answer
    }

    /// The connection is gone: nothing is with the target any more, everything has to be sent again.
    pub fn detach(&mut self, now: Instant) {
        if self.state == ConnectionState::Ready {
            self.state = ConnectionState::Recovering;
            self.reconnects += 1;
        }
        if !self.requests.is_empty() {
            self.troubled_since.get_or_insert(now);
        }
        (self.session, self.writer, self.login) = (None, None, None);
        self.sent.clear();
        self.delayed.clear();
        (self.in_flight, self.writing) = (0, 0);
        self.requests.retain(|_, request| !matches!(request.waiter, Waiter::Question(_)));
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
            if let Waiter::Caller { completer, .. } = request.waiter {
                self.finished.push(Finished::Caller(completer, Err(error.clone())));
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
    pub fn kept_runs(&self, run_max: ByteLen) -> Vec<(u64, Vec<Bytes>)> {
        self.kept.runs(run_max.0)
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

    /// The session, to receive into.
    pub fn session(&mut self) -> Option<&mut InitiatorSession> {
        self.session.as_mut()
    }

    /// One step of the connection: takes what the session has to say and the time, sends what there is.
    /// Never wakes the task: that would be itself, again and again, while the socket is full.
    pub fn turn(&mut self, input: Option<Input>) -> Turn {
        let now = clock::now();
        if let (Some(input), Some(session)) = (input, &mut self.session) {
            session.handle(input, now);
        }
        self.check_times(now);
        self.take_outputs(now);
        if self.closing == Closing::Wanted && self.requests.is_empty() && self.state == ConnectionState::Ready {
            self.closing = Closing::LoggingOut { until: now + LOGOUT_PATIENCE };
            self.session_input(Input::Logout, now);
        }
        // What was not taken is seen below: as bytes that wait, or as the end of the session.
        let _ = self.write();
        self.take_outputs(now);
        if let Some(reason) = self.closed.take() {
            return Turn::Closed(reason);
        }
        let wants_write = self.session.as_mut().is_some_and(|session| !session.transmit().is_empty());
        Turn::Wait { wants_write, deadline: self.next_deadline() }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        let logout = match self.closing {
            Closing::LoggingOut { until } => Some(until),
            Closing::No | Closing::Wanted => None,
        };
        let session = self.session.as_ref().and_then(InitiatorSession::next_deadline);
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let oldest = self.oldest_sent().map(|sent_at| sent_at + self.limits.command_timeout);
        [logout, session, delayed, oldest].into_iter().flatten().min()
    }

    fn check_times(&mut self, now: Instant) {
        if self.session.as_ref().and_then(InitiatorSession::next_deadline).is_some_and(|due| due <= now) {
            self.session_input(Input::Timer, now);
        }
        while let Some(&(due, token)) = self.delayed.first() {
            if due > now {
                break;
            }
            self.delayed.pop_first();
            self.send(token, now);
        }
        let is_overdue = self.oldest_sent().is_some_and(|sent_at| sent_at + self.limits.command_timeout <= now);
        if is_overdue {
            let what = format!("a command was not answered within {:?}", self.limits.command_timeout);
            self.session_input(Input::StreamEnded { what }, now);
        }
        if matches!(self.closing, Closing::LoggingOut { until } if until <= now) {
            self.session_input(Input::StreamEnded { what: "the logout was not answered".to_owned() }, now);
        }
    }

    fn oldest_sent(&mut self) -> Option<Instant> {
        while let Some((sent_at, token)) = self.sent.front() {
            if self.requests.contains_key(token) {
                return Some(*sent_at);
            }
            self.sent.pop_front();
        }
        None
    }

    fn session_input(&mut self, input: Input, now: Instant) {
        if let Some(session) = &mut self.session {
            session.handle(input, now);
        }
    }

    fn take(&mut self, command: ScsiCommand, role: Role, now: Instant) -> Answer<Result<Bytes, BlockError>> {
        let (completer, answer) = completion();
        if let Some(error) = self.refusal(role) {
            self.finished.push(Finished::Caller(completer, Err(error)));
            return answer;
        }
        let token = self.new_token();
        let waiter = Waiter::Caller { role, completer };
        self.requests.insert(token, Request { command, waiter, since: now, attempts: 0 });
        self.send_or_park(token, role, now);
        answer
    }

    fn refusal(&self, role: Role) -> Option<BlockError> {
        match (&self.state, role) {
            (ConnectionState::Dead(error), _) => Some(error.clone()),
            (_, Role::Flush { .. }) => self.flush_failure.clone(),
            (_, Role::Write { .. }) if self.kept.bytes() >= self.limits.unflushed_max.0 => self.flush_failure.clone(),
            (_, Role::Read { .. } | Role::Write { .. }) => None,
        }
    }

    fn send_or_park(&mut self, token: u64, role: Role, now: Instant) {
        let has_room = match role {
            // What is with the target will be kept when it is answered.
            Role::Write { .. } => self.kept.bytes() + self.writing < self.limits.unflushed_max.0,
            Role::Read { .. } | Role::Flush { .. } => true,
        };
        if has_room && self.state == ConnectionState::Ready {
            self.send(token, now);
        } else {
            self.parked.insert(token);
        }
        if self.state == ConnectionState::Recovering {
            self.troubled_since.get_or_insert(now);
        }
    }

    fn send_parked(&mut self, now: Instant) {
        for token in std::mem::take(&mut self.parked) {
            if let Some(role) = self.requests.get(&token).and_then(|request| request.waiter.role()) {
                self.send_or_park(token, role, now);
            }
        }
    }

    /// Hands a command to the session.
    fn send(&mut self, token: u64, now: Instant) {
        let (Some(session), Some(request)) = (&mut self.session, self.requests.get(&token)) else { return };
        session.handle(Input::Command { token: CommandToken(token), command: request.command.clone() }, now);
        self.sent.push_back((now, token));
        self.in_flight += 1;
        self.writing += request.waiter.role().map_or(0, written);
    }

    /// Sends what was handed in: at once where little is in flight, else through the task, which gathers what several
    /// callers hand in meanwhile.
    fn push(&mut self, wake: &Notify) {
        if self.in_flight <= INLINE_DEPTH { self.write_from_outside(wake) } else { wake.notify_one() }
    }

    /// Writes to the socket what it takes. Afterwards there is something for the task to do if not all was taken.
    fn write(&mut self) -> Written {
        let (Some(session), Some(writer)) = (&mut self.session, &self.writer) else { return Written::All };
        let queue = session.transmit();
        while queue.has_remaining() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = queue.chunks_vectored(&mut slices);
            let what = match writer.try_write_vectored(&slices[..count]) {
                Ok(0) => "the socket takes nothing".to_owned(),
                Ok(taken) => {
                    queue.advance(taken);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Part,
                Err(error) => error.to_string(),
            };
            session.handle(Input::StreamEnded { what }, clock::now());
            return Written::Part;
        }
        Written::All
    }

    /// As [`Core::write`], on another thread than the task's, which is woken for the rest.
    fn write_from_outside(&mut self, wake: &Notify) {
        match self.write() {
            Written::All => {}
            Written::Part => wake.notify_one(),
        }
    }

    fn take_outputs(&mut self, now: Instant) {
        while let Some(output) = self.session.as_mut().and_then(InitiatorSession::poll_output) {
            match output {
                Output::LoggedIn { .. } => self.finished.extend(self.login.take().map(Finished::Login)),
                Output::Completed { token, completion } => self.answered(token.0, Ok(completion), now),
                Output::Rejected { token, reason } => self.answered(token.0, Err(reason), now),
                Output::Closed(reason) => self.closed = Some(reason),
                // Never asked for, or carried out by the session itself.
                Output::TaskManaged { .. }
                | Output::Pong { .. }
                | Output::Targets { .. }
                | Output::LogoutRequested { .. } => {}
            }
        }
    }

    /// A command came back: `Err` is the reason code of a reject.
    fn answered(&mut self, token: u64, answer: Result<Completion, u8>, now: Instant) {
        let Some(mut request) = self.requests.remove(&token) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        self.writing = self.writing.saturating_sub(request.waiter.role().map_or(0, written));
        let role = match request.waiter {
            // A reject leaves the question without an answer.
            Waiter::Question(completer) => {
                return self.finished.extend(answer.ok().map(|answer| Finished::Question(completer, answer)));
            }
            Waiter::Caller { role, .. } | Waiter::Nobody { role } => role,
        };
        let is_flush = matches!(role, Role::Flush { .. });
        let (at, len) = range(role);
        let verdict = match answer {
            Ok(completion) => judge(&completion, at, len),
            Err(reason) => Verdict::Failed(BlockError::Io { at, what: format!("rejected, reason {reason:#04x}") }),
        };
        let result = match verdict {
            Verdict::Done(data) => self.done(role, &request.command, data),
            Verdict::Again { after, what, capacity_changed } => {
                self.capacity_changed |= capacity_changed;
                request.attempts += 1;
                let is_patient = now.saturating_since(request.since) < self.limits.recovery_limit;
                if is_patient && request.attempts < ATTEMPTS_MAX {
                    self.requests.insert(token, request);
                    self.delayed.insert((now + after, token));
                    return self.check_times(now);
                }
                Err(BlockError::Unavailable { what })
            }
            // A unit without a write cache need not know how to flush one.
            Verdict::Failed(BlockError::Io { .. }) if is_flush && !self.write_cache => Ok(Bytes::new()),
            Verdict::Failed(error) => Err(error),
        };
        self.troubled_since = None;
        if let (true, Err(error)) = (is_flush, &result) {
            self.flush_failure.get_or_insert_with(|| error.clone());
        }
        match request.waiter {
            Waiter::Caller { completer, .. } => self.finished.push(Finished::Caller(completer, result)),
            Waiter::Nobody { .. } => self.is_flushing = false,
            Waiter::Question(_) => {}
        }
        self.flush_if_much_is_kept(now);
        if !self.parked.is_empty() {
            self.send_parked(now);
        }
    }

    fn done(&mut self, role: Role, command: &ScsiCommand, data: Bytes) -> Result<Bytes, BlockError> {
        match role {
            Role::Read { at, len } if ByteLen::of(&data) != len => {
                let what = format!("the target returned {} of {len}", ByteLen::of(&data));
                return Err(BlockError::Io { at, what });
            }
            Role::Read { .. } => {}
            Role::Write { at, len, durability } => match (&command.data, durability) {
                (DataPhase::Out { buffers }, Durability::Cached) if self.write_cache => {
                    self.kept.insert(at.0, buffers);
                }
                _ => self.kept.remove(at.0, len.0),
            },
            Role::Flush { mark } => self.kept.flushed(mark),
        }
        Ok(data)
    }

    fn flush_if_much_is_kept(&mut self, now: Instant) {
        let is_much = self.kept.bytes() >= self.limits.unflushed_max.0 / 2;
        if !is_much || self.is_flushing || self.flush_failure.is_some() || self.state != ConnectionState::Ready {
            return;
        }
        self.is_flushing = true;
        let role = Role::Flush { mark: self.kept.mark() };
        let command = ScsiCommand::synchronize_cache_16(self.limits.lun);
        let token = self.new_token();
        self.requests.insert(token, Request { command, waiter: Waiter::Nobody { role }, since: now, attempts: 0 });
        self.send(token, now);
    }

    fn new_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}

/// Up to so many commands in flight, a caller writes to the socket itself.
const INLINE_DEPTH: usize = 4;

/// Buffers of one vectored write.
const SLICES: usize = 64;

/// How often one command is answered with "again" before that is an error.
const ATTEMPTS_MAX: u32 = 1000;

/// How long a logout may take.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(2);

fn range(role: Role) -> (ByteOffset, ByteLen) {
    match role {
        Role::Read { at, len } | Role::Write { at, len, .. } => (at, len),
        Role::Flush { .. } => (ByteOffset(0), ByteLen(0)),
    }
}

/// Bytes that a request writes.
fn written(role: Role) -> u64 {
    match role {
        Role::Write { len, .. } => len.0,
        Role::Read { .. } | Role::Flush { .. } => 0,
    }
}
