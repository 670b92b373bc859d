//! One session over one connection: phases, numbers, and what the shell answers.
//!
//! ```text
//! Login ──► FullFeature ──(logout, and nothing in flight)──► Closed
//!   └────────────┴──── any failure ─────────────────────────► Closed
//! ```
//! Invariants: a task is in `tasks` from its arrival until its response is queued; the window that was announced
//! never shrinks and never allows more tasks than `queue_depth`.

use std::collections::{BTreeMap, VecDeque};

use base::Instant;
use bytes::{Bytes, BytesMut};

use super::event::{CloseReason, Input, LoginDecision, Output, TargetConfig, TaskId, TaskResult};
use super::login::{LoginStep, TargetLogin};
use super::tasks::{Progress, Task};
use crate::negotiate::Negotiated;
use crate::pdu::{LoginStatus, LunField, TaskFunction, TaskManagementResponse};
use crate::serial::SerialNumber;
use crate::text::Collector;
use crate::wire::{Receiver, TransmitQueue};

/// The target's side of a session. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct TargetSession {
    pub(super) config: TargetConfig,
    pub(super) phase: Phase,
    pub(super) negotiated: Negotiated,
    pub(super) receiver: Receiver,
    pub(super) transmit: TransmitQueue,
    pub(super) outputs: VecDeque<Output>,
    pub(super) tasks: BTreeMap<u32, Task>,
    /// Tasks that take a place in the command window.
    pub(super) windowed: u32,
    /// Task management that waits for the end of tasks, or for the shell.
    pub(super) managements: Vec<Management>,
    pub(super) text: TextExchange,
    /// Tasks that wait until the session's solicited data is below its limit, oldest first.
    pub(super) awaiting_data: VecDeque<TaskId>,
    /// Solicited data of tasks that are not finished, in bytes.
    pub(super) solicited: u32,
    /// Receive buffers that tasks keep alive.
    pub(super) slices: usize,
    pub(super) next_sequence: u64,
    pub(super) next_transfer_tag: u32,
    /// Number of the next status.
    pub(super) status_sn: SerialNumber,
    /// Number of the next non-immediate request.
    pub(super) expected_command_sn: SerialNumber,
    pub(super) max_command_sn: SerialNumber,
    pub(super) login_deadline: Instant,
    pub(super) heard_at: Instant,
    /// When the initiator was asked for a sign of life, while nothing has come since.
    pub(super) asked_at: Option<Instant>,
}

/// Where the session is.
#[derive(Debug)]
pub(super) enum Phase {
    Login(Box<TargetLogin>),
    FullFeature {
        is_discovery: bool,
    },
    /// The logout's response waits for the end of the tasks.
    LoggingOut {
        tag: u32,
    },
    Closed,
}

/// A task management request that is not answered yet.
#[derive(Debug)]
pub(super) struct Management {
    pub id: TaskId,
    pub function: TaskFunction,
    pub lun: LunField,
    /// The tasks it ends.
    pub waits_for: Vec<TaskId>,
    /// Whether the shell is at it.
    pub is_with_shell: bool,
}

/// The one text exchange that a session allows at a time.
#[derive(Debug, Default)]
pub(super) enum TextExchange {
    #[default]
    Idle,
    /// The request goes on in the next PDU.
    Gathering { tag: u32, text: Collector },
    /// The shell is asked.
    WithShell { id: TaskId },
    /// The rest of an answer that does not fit one PDU.
    Answering { tag: u32, transfer_tag: u32, rest: Bytes },
}

/// While more than this waits to be written, nothing more is read.
const TRANSMIT_PAUSE: usize = 8 * 1024 * 1024;

impl TargetSession {
    /// A session at the start of a fresh connection.
    pub fn new(config: TargetConfig, now: Instant) -> Self {
        Self {
            phase: Phase::Login(Box::new(TargetLogin::new())),
            negotiated: Negotiated::default(),
            receiver: Receiver::new(),
            transmit: TransmitQueue::new(),
            outputs: VecDeque::new(),
            tasks: BTreeMap::new(),
            windowed: 0,
            managements: Vec::new(),
            text: TextExchange::Idle,
            awaiting_data: VecDeque::new(),
            solicited: 0,
            slices: 0,
            next_sequence: 0,
            next_transfer_tag: 0,
            status_sn: SerialNumber(0),
            expected_command_sn: SerialNumber(0),
            max_command_sn: SerialNumber(0),
            login_deadline: now + config.login_timeout,
            heard_at: now,
            asked_at: None,
            config,
        }
    }

    /// Where the shell appends what it received, before [`Input::Received`].
    pub fn receive_buffer(&mut self) -> &mut BytesMut {
        self.receiver.buffer()
    }

    /// What the shell has to write; it advances the queue by what the socket took.
    pub fn transmit(&mut self) -> &mut TransmitQueue {
        &mut self.transmit
    }

    /// Whether the shell may read more: not while too many answers wait to be written, nor after a logout.
    pub fn wants_input(&self) -> bool {
        let is_open = matches!(self.phase, Phase::Login(_) | Phase::FullFeature { .. });
        is_open && self.transmit.len() < TRANSMIT_PAUSE
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The next event for the shell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Timer`] at the latest; `None` once closed.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (&self.phase, self.asked_at) {
            (Phase::Closed, _) => None,
            (Phase::Login(_), _) => Some(self.login_deadline),
            (_, Some(asked_at)) => Some(asked_at + self.config.ping_timeout),
            (_, None) => Some(self.heard_at + self.config.ping_interval),
        }
    }

    /// Takes one input. Never fails: trouble is an [`Output::Closed`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.is_closed() {
            return;
        }
        let step = match input {
            Input::Received => {
                self.heard_at = now;
                self.asked_at = None;
                self.receive()
            }
            Input::Timer => self.check_time(now),
            Input::StreamEnded { what } => Err(CloseReason::StreamEnded { what }),
            Input::LoginDecided(decision) => self.login_decided(decision).and_then(|()| self.receive()),
            Input::Established(result) => self.established(result, now).and_then(|()| self.receive()),
            Input::WantData { task, length } => {
                self.want_data(task, length);
                Ok(())
            }
            Input::Finished { task, result } => {
                self.finished(task, result);
                Ok(())
            }
            Input::TaskManagementDone { task, response } => {
                self.management_done(task, response);
                Ok(())
            }
            Input::Targets { task, targets } => {
                self.answer_targets(task, &targets);
                Ok(())
            }
        };
        if let Err(reason) = step.and_then(|()| self.end_logout()) {
            self.close(reason);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.tasks.clear();
        self.managements.clear();
        self.awaiting_data.clear();
        self.text = TextExchange::Idle;
        self.outputs.push_back(Output::Closed(reason));
    }

    fn check_time(&mut self, now: Instant) -> Result<(), CloseReason> {
        match (&self.phase, self.asked_at) {
            (Phase::Closed, _) => Ok(()),
            (Phase::Login(_), _) if now >= self.login_deadline => Err(CloseReason::LoginTimedOut),
            (Phase::Login(_), _) => Ok(()),
            (_, Some(asked_at)) if now >= asked_at + self.config.ping_timeout => Err(CloseReason::PeerSilent),
            (_, Some(_)) => Ok(()),
            (_, None) => {
                if now >= self.heard_at + self.config.ping_interval {
                    self.asked_at = Some(now);
                    self.send_ping();
                }
                Ok(())
            }
        }
    }

    // ---- login ----

    fn login_decided(&mut self, decision: LoginDecision) -> Result<(), CloseReason> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        match login.decided(&self.config.willing, decision) {
            Some(step) => self.follow_login(step),
            None => Ok(()),
        }
    }

    fn established(&mut self, result: Result<u16, LoginStatus>, now: Instant) -> Result<(), CloseReason> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        self.heard_at = now;
        match login.established(result) {
            Some(step) => self.follow_login(step),
            None => Ok(()),
        }
    }

    pub(super) fn follow_login(&mut self, step: LoginStep) -> Result<(), CloseReason> {
        match step {
            LoginStep::Send(response) => self.send_login(response),
            LoginStep::Decide(identity) => self.outputs.push_back(Output::LoginStarted(identity)),
            LoginStep::End(identity) => self.outputs.push_back(Output::LoginEnding(identity)),
            LoginStep::Refuse(response, why) => {
                let status = response.status;
                self.send_login(response);
                return Err(CloseReason::LoginRefused { status, why });
            }
            LoginStep::Done(response, negotiated) => {
                self.send_login(response);
                let is_discovery = matches!(&self.phase, Phase::Login(login) if login.is_discovery());
                let longest = self.config.willing.max_recv_data_segment_length;
                self.receiver.enter_full_feature(negotiated.header_digest, negotiated.data_digest, longest);
                self.transmit.set_digests(negotiated.header_digest, negotiated.data_digest);
                self.negotiated = negotiated.clone();
                self.phase = Phase::FullFeature { is_discovery };
                self.outputs.push_back(Output::LoggedIn { negotiated });
            }
        }
        Ok(())
    }

    // ---- tasks ----

    fn want_data(&mut self, id: TaskId, length: u32) {
        let Some(task) = self.tasks.get_mut(&id.tag).filter(|task| task.id == id && !task.is_aborted) else { return };
        if task.failure.is_some() {
            return self.outputs.push_back(Output::Aborted { task: id });
        }
        task.progress = Progress::Receiving { wanted: length.min(task.expected), is_admitted: false };
        self.awaiting_data.push_back(id);
        self.solicit();
    }

    /// Asks for data, oldest command first, and hands on what is complete. A command is admitted with all the data it
    /// wants, so that commands never hold parts and wait for one another.
    pub(super) fn solicit(&mut self) {
        let mut index = 0;
        while let Some(id) = self.awaiting_data.get(index).copied() {
            let is_done = match self.tasks.get(&id.tag) {
                Some(task) if task.id == id => self.advance_data(id),
                _ => true,
            };
            if is_done {
                self.awaiting_data.remove(index);
            } else {
                index += 1;
            }
        }
    }

    /// Moves one command's data on; true if it is complete.
    fn advance_data(&mut self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(&id.tag) else { return true };
        let Progress::Receiving { wanted, is_admitted } = task.progress else { return true };
        if task.failure.is_some() {
            return true;
        }
        if task.incoming.is_unasked_open() {
            return false;
        }
        if task.incoming.received >= wanted {
            let data = task.incoming.take_buffers(wanted);
            task.progress = Progress::Executing;
            self.outputs.push_back(Output::DataReady { task: id, data });
            return true;
        }
        if !is_admitted {
            let missing = wanted - task.incoming.received;
            if self.solicited > 0 && self.solicited.saturating_add(missing) > self.config.solicited_data_max {
                return false;
            }
            self.solicited = self.solicited.saturating_add(missing);
            task.incoming.charged = missing;
            task.progress = Progress::Receiving { wanted, is_admitted: true };
        }
        self.request_data(id, wanted);
        false
    }

    fn finished(&mut self, id: TaskId, result: TaskResult) {
        let Some(task) = self.tasks.get_mut(&id.tag).filter(|task| task.id == id) else { return };
        if task.incoming.is_unasked_open() && !task.is_aborted {
            // Its remaining data must not be taken for another command's.
            task.progress = Progress::Finished(result);
            return;
        }
        self.respond(id.tag, Some(result));
    }

    /// Removes a task and answers it, unless it was aborted.
    pub(super) fn respond(&mut self, tag: u32, result: Option<TaskResult>) {
        let Some(task) = self.tasks.remove(&tag) else { return };
        self.solicited = self.solicited.saturating_sub(task.incoming.charged);
        self.slices -= task.incoming.slices;
        self.windowed -= u32::from(!task.is_immediate);
        if let (Some(result), false) = (result, task.is_aborted) {
            let result = task.failure.map_or(result, TaskResult::from);
            self.send_result(&task, result);
        }
        for management in &mut self.managements {
            management.waits_for.retain(|id| *id != task.id);
        }
        self.advance_managements();
        if task.incoming.charged > 0 {
            self.solicit();
        }
    }

    /// Marks tasks as aborted and tells the shell; gives their names.
    pub(super) fn abort_tasks(&mut self, is_concerned: impl Fn(&Task) -> bool) -> Vec<TaskId> {
        let mut aborted = Vec::new();
        let mut ended = Vec::new();
        for (tag, task) in self.tasks.iter_mut().filter(|(_, task)| is_concerned(task)) {
            aborted.push(task.id);
            if task.is_aborted {
                continue;
            }
            task.is_aborted = true;
            match task.progress {
                // The shell is done with it already.
                Progress::Finished(_) => ended.push(*tag),
                Progress::Executing | Progress::Receiving { .. } => {
                    self.outputs.push_back(Output::Aborted { task: task.id });
                }
            }
        }
        for tag in ended {
            aborted.retain(|id| id.tag != tag);
            self.respond(tag, None);
        }
        aborted
    }

    pub(super) fn advance_managements(&mut self) {
        let mut answers = Vec::new();
        for management in &mut self.managements {
            if !management.waits_for.is_empty() || management.is_with_shell {
                continue;
            }
            management.is_with_shell = true;
            match management.function {
                TaskFunction::AbortTask => answers.push(management.id),
                function => {
                    let (task, lun) = (management.id, management.lun);
                    self.outputs.push_back(Output::TaskManagement { task, function, lun });
                }
            }
        }
        for id in answers {
            self.management_done(id, TaskManagementResponse::Complete);
        }
    }

    fn management_done(&mut self, id: TaskId, response: TaskManagementResponse) {
        let Some(index) = self.managements.iter().position(|management| management.id == id) else { return };
        self.managements.remove(index);
        self.send_management_response(id.tag, response);
    }

    fn end_logout(&mut self) -> Result<(), CloseReason> {
        match self.phase {
            Phase::LoggingOut { tag } if self.tasks.is_empty() => {
                self.send_logout_response(tag, 0);
                Err(CloseReason::LoggedOut)
            }
            _ => Ok(()),
        }
    }
}
