//! One session over one connection: what is sent, what is expected, what came back.
//!
//! ```text
//! Login ──► FullFeature ──(Logout, and nothing in flight)──► LoggingOut ──► Closed
//!   └──────────────┴────────────── any failure ──────────────────┴──────────► Closed
//! ```
//! Invariants: a task is in `tasks` from the moment it is sent until it is answered; non-immediate requests are
//! numbered in the order they are sent and never beyond the target's window.

use std::collections::{BTreeMap, VecDeque};

use base::Instant;
use bytes::{Bytes, BytesMut};

use super::event::{CloseReason, CommandToken, DiscoveredTarget, InitiatorConfig, Input, Output};
use super::login::{Login, LoginStep, Request};
use super::tasks::{CommandTask, Task};
use crate::error::ProtocolError;
use crate::negotiate::Negotiated;
use crate::pdu::*;
use crate::scsi::{AdditionalSense, Completion, DataPhase, ScsiCommand, Sense, SenseKey, Status};
use crate::serial::SerialNumber;
use crate::text::{Collector, Parameters};
use crate::wire::{Receiver, TransmitQueue};

/// The initiator's side of a session. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct InitiatorSession {
    config: InitiatorConfig,
    phase: Phase,
    negotiated: Negotiated,
    receiver: Receiver,
    transmit: TransmitQueue,
    outputs: VecDeque<Output>,
    /// Requests that wait for the login or for room in the command window.
    waiting: VecDeque<Waiting>,
    /// Requests that wait for the login only.
    urgent: VecDeque<Urgent>,
    tasks: BTreeMap<u32, Task>,
    next_tag: u32,
    /// Number of the next non-immediate request.
    command_sn: SerialNumber,
    max_command_sn: SerialNumber,
    /// Number of the next status.
    expected_status_sn: Option<SerialNumber>,
    wants_logout: bool,
    login_deadline: Instant,
    heard_at: Instant,
    /// When our own sign-of-life question was sent, while nothing has come since.
    asked_at: Option<Instant>,
    /// Answers to the target's pings since the transmit queue was last empty.
    unsent_answers: usize,
}

#[derive(Debug)]
enum Phase {
    Login(Login),
    FullFeature,
    LoggingOut,
    Closed,
}

#[derive(Debug)]
enum Waiting {
    Command { token: CommandToken, command: ScsiCommand },
    SendTargets,
}

#[derive(Debug)]
enum Urgent {
    ResetLun { token: CommandToken, lun: u16 },
    Ping { token: CommandToken },
}

type Step = Result<(), CloseReason>;

/// A target that sends more pings than this without reading the answers is flooding us.
const UNSENT_ANSWERS_MAX: usize = 64;

impl InitiatorSession {
    /// A session at the start of a fresh connection; the first login request waits in [`Self::transmit`].
    pub fn new(config: InitiatorConfig, now: Instant) -> Self {
        let (login, request) = Login::new(&config);
        let mut session = Self {
            login_deadline: now + config.login_timeout,
            config,
            phase: Phase::Login(login),
            negotiated: Negotiated::default(),
            receiver: Receiver::new(),
            transmit: TransmitQueue::new(),
            outputs: VecDeque::new(),
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            tasks: BTreeMap::new(),
            next_tag: 1,
            command_sn: SerialNumber(1),
            max_command_sn: SerialNumber(1),
            expected_status_sn: None,
            wants_logout: false,
            heard_at: now,
            asked_at: None,
            unsent_answers: 0,
        };
        session.send_login(request);
        session
    }

    /// Where the shell appends what it received, before [`Input::Received`].
    pub fn receive_buffer(&mut self) -> &mut BytesMut {
        self.receiver.buffer()
    }

    /// What the shell has to write; it advances the queue by what the socket took.
    pub fn transmit(&mut self) -> &mut TransmitQueue {
        &mut self.transmit
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

    /// Requests that were handed in and not answered.
    pub fn unanswered(&self) -> usize {
        self.tasks.len() + self.waiting.len() + self.urgent.len()
    }

    /// What was agreed on; the RFC's defaults until [`Output::LoggedIn`].
    pub fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// Takes one input. Never fails: trouble is an [`Output::Closed`].
    pub fn handle(&mut self, input: Input, now: Instant) {
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        if self.transmit.is_empty() {
            self.unsent_answers = 0;
        }
        let step = match input {
            Input::Received => {
                self.heard_at = now;
                self.asked_at = None;
                self.receive(now)
            }
            Input::Timer => self.check_time(now),
            Input::StreamEnded { what } => Err(CloseReason::StreamEnded { what }),
            Input::Command { token, command } => {
                self.waiting.push_back(Waiting::Command { token, command });
                Ok(())
            }
            Input::Abort { token } => {
                self.abort(token);
                Ok(())
            }
            Input::ResetLun { token, lun } => {
                self.urgent.push_back(Urgent::ResetLun { token, lun });
                Ok(())
            }
            Input::Ping { token } => {
                self.urgent.push_back(Urgent::Ping { token });
                Ok(())
            }
            Input::SendTargets => {
                self.waiting.push_back(Waiting::SendTargets);
                Ok(())
            }
            Input::Logout => {
                self.wants_logout = true;
                Ok(())
            }
        };
        if let Err(reason) = step {
            return self.close(reason);
        }
        self.send_waiting();
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.tasks.clear();
        self.waiting.clear();
        self.urgent.clear();
        self.outputs.push_back(Output::Closed(reason));
    }

    fn check_time(&mut self, now: Instant) -> Step {
        match (&self.phase, self.asked_at) {
            (Phase::Closed, _) => Ok(()),
            (Phase::Login(_), _) if now >= self.login_deadline => Err(CloseReason::LoginTimedOut),
            (Phase::Login(_), _) => Ok(()),
            (_, Some(asked_at)) if now >= asked_at + self.config.ping_timeout => Err(CloseReason::PeerSilent),
            (_, Some(_)) => Ok(()),
            (_, None) => {
                if now >= self.heard_at + self.config.ping_interval {
                    self.asked_at = Some(now);
                    self.send_ping(None);
                }
                Ok(())
            }
        }
    }

    // ---- sending ----

    fn send_login(&mut self, request: Request) {
        let mut header = request.header;
        header.command_sn = self.command_sn.0.into();
        header.expected_status_sn = self.expected_status_field();
        self.transmit.push(&header, &[request.parameters.encode()]);
    }

    /// Sends what waits, as far as the window allows, and at last the logout.
    fn send_waiting(&mut self) {
        if !matches!(self.phase, Phase::FullFeature) {
            return;
        }
        while let Some(request) = self.urgent.pop_front() {
            match request {
                Urgent::ResetLun { token, lun } => {
                    let task = Task::ResetLun { token, lun };
                    self.send_task_management(task, TaskFunction::LogicalUnitReset, lun, RESERVED_TAG);
                }
                Urgent::Ping { token } => self.send_ping(Some(token)),
            }
        }
        while !self.command_sn.is_after(self.max_command_sn) {
            match self.waiting.pop_front() {
                Some(Waiting::Command { token, command }) => self.send_command(token, command),
                Some(Waiting::SendTargets) => self.send_targets_request(),
                None => break,
            }
        }
        if self.wants_logout && self.waiting.is_empty() && self.tasks.is_empty() {
            self.send_logout();
        }
    }

    fn send_command(&mut self, token: CommandToken, command: ScsiCommand) {
        let tag = self.take_tag();
        let mut task = CommandTask::new(token, tag, &command);
        let (direction, expected) = match &command.data {
            DataPhase::None => (0, 0),
            DataPhase::In { length } => (CommandFlags::READ, *length),
            DataPhase::Out { .. } => (CommandFlags::WRITE, task.outgoing().total),
        };
        let total = task.outgoing().total;
        let unasked = total.min(self.negotiated.first_burst_length);
        let immediate = match self.negotiated.immediate_data {
            true => unasked.min(self.negotiated.peer_max_data_segment),
            false => 0,
        };
        let follows = if self.negotiated.initial_r2t { 0 } else { unasked - immediate };
        let lun = LunField::single_level(command.lun);
        let header = ScsiCommandHeader {
            opcode: Opcode::ScsiCommand as u8,
            flags: direction | CommandFlags::SIMPLE | if follows == 0 { FINAL } else { 0 },
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun,
            initiator_task_tag: tag.into(),
            expected_data_transfer_length: expected.into(),
            command_sn: self.command_sn.0.into(),
            expected_status_sn: self.expected_status_field(),
            cdb: command.cdb.0,
        };
        self.command_sn = self.command_sn.next();
        let data = task.outgoing().take(immediate);
        self.transmit.push(&header, &data);
        if follows > 0 {
            self.send_data(&mut task, tag, RESERVED_TAG, lun, follows);
        }
        self.tasks.insert(tag, Task::Command(task));
    }

    /// One sequence of Data-Out PDUs.
    fn send_data(&mut self, task: &mut CommandTask, tag: u32, transfer_tag: u32, lun: LunField, length: u32) {
        let mut missing = length;
        let mut data_sn = 0;
        while missing > 0 {
            let part = missing.min(self.negotiated.peer_max_data_segment);
            missing -= part;
            let header = DataOutHeader {
                opcode: Opcode::DataOut as u8,
                flags: if missing == 0 { FINAL } else { 0 },
                reserved: [0; 2],
                additional_header_words: 0,
                data_segment_length: U24::default(),
                lun,
                initiator_task_tag: tag.into(),
                target_transfer_tag: transfer_tag.into(),
                reserved_sn: [0; 4],
                expected_status_sn: self.expected_status_field(),
                reserved_max: [0; 4],
                data_sn: data_sn.into(),
                buffer_offset: task.outgoing().sent.into(),
                reserved_end: [0; 4],
            };
            let data = task.outgoing().take(part);
            self.transmit.push(&header, &data);
            data_sn += 1;
        }
    }

    fn abort(&mut self, token: CommandToken) {
        let waiting = self.waiting.iter().position(|w| matches!(w, Waiting::Command { token: t, .. } if *t == token));
        if let Some(position) = waiting {
            self.waiting.remove(position);
            return self.outputs.push_back(Output::TaskManaged { token, response: TaskManagementResponse::Complete });
        }
        let sent = self.tasks.iter().find_map(|(tag, task)| match task {
            Task::Command(command) if command.token == token => Some((*tag, command.lun)),
            _ => None,
        });
        match sent {
            Some((aborted_tag, lun)) => {
                let task = Task::Abort { token, aborted_tag };
                self.send_task_management(task, TaskFunction::AbortTask, lun, aborted_tag);
            }
            None => {
                self.outputs.push_back(Output::TaskManaged { token, response: TaskManagementResponse::NoSuchTask });
            }
        }
    }

    /// Task management is sent as immediate: it must not wait for the window.
    fn send_task_management(&mut self, task: Task, function: TaskFunction, lun: u16, referenced: u32) {
        let tag = self.take_tag();
        let header = TaskManagementRequestHeader {
            opcode: Opcode::TaskManagementRequest as u8 | IMMEDIATE,
            function: FINAL | function as u8,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun: LunField::single_level(lun),
            initiator_task_tag: tag.into(),
            referenced_task_tag: referenced.into(),
            command_sn: self.command_sn.0.into(),
            expected_status_sn: self.expected_status_field(),
            referenced_command_sn: 0.into(),
            expected_data_sn: 0.into(),
            reserved_end: [0; 8],
        };
        self.transmit.push(&header, &[]);
        self.tasks.insert(tag, task);
    }

    fn send_ping(&mut self, token: Option<CommandToken>) {
        let tag = self.take_tag();
        self.send_nop(tag, RESERVED_TAG, LunField::default(), Bytes::new());
        self.tasks.insert(tag, Task::Ping { token });
    }

    fn send_nop(&mut self, tag: u32, transfer_tag: u32, lun: LunField, data: Bytes) {
        let header = NopOutHeader {
            opcode: Opcode::NopOut as u8 | IMMEDIATE,
            flags: FINAL,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun,
            initiator_task_tag: tag.into(),
            target_transfer_tag: transfer_tag.into(),
            command_sn: self.command_sn.0.into(),
            expected_status_sn: self.expected_status_field(),
            reserved_end: [0; 16],
        };
        self.transmit.push(&header, &[data]);
    }

    fn send_targets_request(&mut self) {
        let mut parameters = Parameters::new();
        parameters.push("SendTargets", "All");
        let tag = self.take_tag();
        self.send_text(tag, RESERVED_TAG, &parameters);
        self.tasks.insert(tag, Task::SendTargets { answer: Collector::default() });
    }

    fn send_text(&mut self, tag: u32, transfer_tag: u32, parameters: &Parameters) {
        let header = TextRequestHeader {
            opcode: Opcode::TextRequest as u8,
            flags: FINAL,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun: LunField::default(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: transfer_tag.into(),
            command_sn: self.command_sn.0.into(),
            expected_status_sn: self.expected_status_field(),
            reserved_end: [0; 16],
        };
        self.command_sn = self.command_sn.next();
        self.transmit.push(&header, &[parameters.encode()]);
    }

    fn send_logout(&mut self) {
        let tag = self.take_tag();
        let header = LogoutRequestHeader {
            opcode: Opcode::LogoutRequest as u8 | IMMEDIATE,
            reason: FINAL | LogoutReason::CloseSession as u8,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            reserved_lun: [0; 8],
            initiator_task_tag: tag.into(),
            connection_id: 0.into(),
            reserved_id: [0; 2],
            command_sn: self.command_sn.0.into(),
            expected_status_sn: self.expected_status_field(),
            reserved_end: [0; 16],
        };
        self.transmit.push(&header, &[]);
        self.tasks.insert(tag, Task::Logout);
        self.phase = Phase::LoggingOut;
    }

    fn expected_status_field(&self) -> zerocopy::byteorder::big_endian::U32 {
        self.expected_status_sn.unwrap_or_default().0.into()
    }

    fn take_tag(&mut self) -> u32 {
        loop {
            let tag = self.next_tag;
            self.next_tag = self.next_tag.wrapping_add(1);
            if tag != RESERVED_TAG && !self.tasks.contains_key(&tag) {
                return tag;
            }
        }
    }

    // ---- receiving ----

    fn receive(&mut self, now: Instant) -> Step {
        while let Some(pdu) = self.receiver.next_pdu()? {
            let at_byte = pdu.at_byte;
            match self.phase {
                Phase::Closed => return Ok(()),
                Phase::Login(_) => self.receive_login(pdu, now)?,
                Phase::FullFeature | Phase::LoggingOut => self.receive_pdu(pdu, at_byte)?,
            }
        }
        Ok(())
    }

    fn receive_login(&mut self, pdu: Pdu, now: Instant) -> Step {
        let misbehaved = |cause| CloseReason::misbehaved(pdu.at_byte, cause);
        if pdu.opcode() != Some(Opcode::LoginResponse) {
            let opcode = pdu.header[0];
            return Err(misbehaved(ProtocolError::UnexpectedPdu { opcode, phase: "login phase" }));
        }
        let header: LoginResponseHeader = pdu.header();
        // A refusal need not carry meaningful numbers.
        if header.status_class == 0 {
            match self.expected_status_sn {
                Some(_) => self.take_status_sn(header.status_sn.get()).map_err(misbehaved)?,
                None => self.expected_status_sn = Some(SerialNumber(header.status_sn.get()).next()),
            }
            self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        }
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        match login.handle(&self.config, &header, &pdu.data, pdu.at_byte)? {
            LoginStep::Send(request) => self.send_login(request),
            LoginStep::Done(negotiated) => {
                self.receiver.enter_full_feature(
                    negotiated.header_digest,
                    negotiated.data_digest,
                    self.config.willing.max_recv_data_segment_length,
                );
                self.transmit.set_digests(negotiated.header_digest, negotiated.data_digest);
                self.negotiated = negotiated.clone();
                self.phase = Phase::FullFeature;
                self.heard_at = now;
                self.outputs.push_back(Output::LoggedIn { negotiated, tsih: header.tsih.get() });
            }
        }
        Ok(())
    }

    fn receive_pdu(&mut self, pdu: Pdu, at_byte: u64) -> Step {
        let misbehaved = |cause| CloseReason::misbehaved(at_byte, cause);
        match pdu.opcode() {
            Some(Opcode::ScsiResponse) => self.receive_response(pdu).map_err(misbehaved),
            Some(Opcode::DataIn) => self.receive_data(pdu).map_err(misbehaved),
            Some(Opcode::ReadyToTransfer) => self.receive_request(&pdu).map_err(misbehaved),
            Some(Opcode::NopIn) => self.receive_nop(pdu).map_err(misbehaved),
            Some(Opcode::TaskManagementResponse) => self.receive_task_management(&pdu).map_err(misbehaved),
            Some(Opcode::TextResponse) => self.receive_text(&pdu).map_err(misbehaved),
            Some(Opcode::LogoutResponse) => {
                let header: LogoutResponseHeader = pdu.header();
                match self.tasks.remove(&header.initiator_task_tag.get()) {
                    Some(Task::Logout) => Err(CloseReason::LoggedOut),
                    _ => Err(misbehaved(unknown_task("Logout Response", header.initiator_task_tag.get()))),
                }
            }
            Some(Opcode::AsyncMessage) => self.receive_async(&pdu),
            Some(Opcode::Reject) => self.receive_reject(&pdu).map_err(misbehaved),
            Some(
                Opcode::LoginResponse
                | Opcode::NopOut
                | Opcode::ScsiCommand
                | Opcode::TaskManagementRequest
                | Opcode::LoginRequest
                | Opcode::TextRequest
                | Opcode::DataOut
                | Opcode::LogoutRequest
                | Opcode::SnackRequest,
            )
            | None => {
                let opcode = pdu.header[0];
                Err(misbehaved(ProtocolError::UnexpectedPdu { opcode, phase: "full feature phase" }))
            }
        }
    }

    fn receive_response(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        let header: ScsiResponseHeader = pdu.header();
        self.take_status_sn(header.status_sn.get())?;
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let task = self.take_command(header.initiator_task_tag.get(), "SCSI Response")?;
        let (status, sense) = match header.response {
            0 => (Status::from_byte(header.status), sense_of(&pdu.data)),
            // The target could not deliver the command to the unit: nothing more is known.
            _ => (
                Status::CheckCondition,
                Some(Sense::new(SenseKey::HardwareError, AdditionalSense::INTERNAL_TARGET_FAILURE)),
            ),
        };
        let residual = Residual::from_wire(header.flags, header.residual.get());
        self.complete(task, status, sense, residual);
        Ok(())
    }

    fn receive_data(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        let header: DataInHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let Some(Task::Command(task)) = self.tasks.get_mut(&tag) else { return Err(unknown_task("Data-In", tag)) };
        task.take_data(&header, pdu.data)?;
        if header.flags & DataInHeader::STATUS != 0 {
            self.take_status_sn(header.status_sn.get())?;
            let task = self.take_command(tag, "Data-In")?;
            let residual = Residual::from_wire(header.flags, header.residual.get());
            self.complete(task, Status::from_byte(header.status), None, residual);
        }
        Ok(())
    }

    fn receive_request(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: ReadyToTransferHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let mut task = self.take_command(tag, "R2T")?;
        let length = task.take_request(&header, self.negotiated.max_burst_length)?;
        let lun = LunField::single_level(task.lun);
        self.send_data(&mut task, tag, header.target_transfer_tag.get(), lun, length);
        self.tasks.insert(tag, Task::Command(task));
        Ok(())
    }

    fn receive_nop(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        let header: NopInHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        if tag != RESERVED_TAG {
            self.take_status_sn(header.status_sn.get())?;
            match self.tasks.remove(&tag) {
                Some(Task::Ping { token: Some(token) }) => self.outputs.push_back(Output::Pong { token }),
                Some(Task::Ping { token: None }) => {}
                Some(_) | None => return Err(unknown_task("NOP-In", tag)),
            }
        }
        if header.target_transfer_tag.get() != RESERVED_TAG {
            self.unsent_answers += 1;
            if self.unsent_answers > UNSENT_ANSWERS_MAX {
                return Err(ProtocolError::TooMany { what: "unread answers to NOP-In", limit: UNSENT_ANSWERS_MAX });
            }
            let data = pdu.data.slice(..pdu.data.len().min(self.negotiated.peer_max_data_segment as usize));
            self.send_nop(RESERVED_TAG, header.target_transfer_tag.get(), header.lun, data);
        }
        Ok(())
    }

    fn receive_task_management(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: TaskManagementResponseHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        self.take_status_sn(header.status_sn.get())?;
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let response = TaskManagementResponse::from_byte(header.response);
        let is_complete = response == TaskManagementResponse::Complete;
        let token = match self.tasks.remove(&tag) {
            Some(Task::Abort { token, aborted_tag }) => {
                if is_complete {
                    self.tasks.remove(&aborted_tag);
                }
                token
            }
            Some(Task::ResetLun { token, lun }) => {
                if is_complete {
                    self.tasks.retain(|_, task| !matches!(task, Task::Command(command) if command.lun == lun));
                }
                token
            }
            Some(_) | None => return Err(unknown_task("Task Management Response", tag)),
        };
        self.outputs.push_back(Output::TaskManaged { token, response });
        Ok(())
    }

    fn receive_text(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: TextResponseHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        self.take_status_sn(header.status_sn.get())?;
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let Some(Task::SendTargets { answer }) = self.tasks.get_mut(&tag) else {
            return Err(unknown_task("Text Response", tag));
        };
        answer.add(&pdu.data)?;
        if header.flags & FINAL == 0 {
            self.send_text(tag, header.target_transfer_tag.get(), &Parameters::new());
            return Ok(());
        }
        let targets = discovered(&answer.finish()?);
        self.tasks.remove(&tag);
        self.outputs.push_back(Output::Targets { targets });
        Ok(())
    }

    fn receive_async(&mut self, pdu: &Pdu) -> Step {
        let header: AsyncMessageHeader = pdu.header();
        self.take_status_sn(header.status_sn.get()).map_err(|cause| CloseReason::misbehaved(pdu.at_byte, cause))?;
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        match header.event {
            // Asked to log out, or to negotiate anew, which we answer by logging out too.
            1 | 4 => {
                self.wants_logout = true;
                self.outputs.push_back(Output::LogoutRequested { within_seconds: header.parameter3.get() });
                Ok(())
            }
            2 | 3 => Err(CloseReason::DroppedByTarget),
            // SCSI events come again as unit attentions; vendor's events are not for us.
            _ => Ok(()),
        }
    }

    fn receive_reject(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: RejectHeader = pdu.header();
        self.take_status_sn(header.status_sn.get())?;
        self.take_window(header.expected_command_sn.get(), header.max_command_sn.get());
        let refused = <BasicHeader as zerocopy::FromBytes>::read_from_prefix(&pdu.data);
        let Ok((refused, _)) = refused else {
            return Err(ProtocolError::BadField {
                pdu: "Reject",
                field: "rejected header",
                value: pdu.data.len() as u64,
            });
        };
        let tag = refused.initiator_task_tag.get();
        match self.tasks.remove(&tag) {
            Some(Task::Command(task)) => {
                self.outputs.push_back(Output::Rejected { token: task.token, reason: header.reason });
                Ok(())
            }
            Some(Task::Abort { token, .. } | Task::ResetLun { token, .. }) => {
                self.outputs.push_back(Output::TaskManaged { token, response: TaskManagementResponse::Rejected });
                Ok(())
            }
            // An answer to a question nobody waits for any more.
            None => Ok(()),
            Some(Task::Ping { .. } | Task::SendTargets { .. } | Task::Logout) => {
                Err(ProtocolError::BadField { pdu: "Reject", field: "reason", value: u64::from(header.reason) })
            }
        }
    }

    fn complete(&mut self, task: CommandTask, status: Status, sense: Option<Sense>, residual: Residual) {
        let token = task.token;
        let completion = Completion { status, sense, data: task.into_data(), residual };
        self.outputs.push_back(Output::Completed { token, completion });
    }

    fn take_command(&mut self, tag: u32, pdu: &'static str) -> Result<CommandTask, ProtocolError> {
        match self.tasks.remove(&tag) {
            Some(Task::Command(task)) => Ok(task),
            Some(_) | None => Err(unknown_task(pdu, tag)),
        }
    }

    /// At ErrorRecoveryLevel 0 a status that was skipped is lost for good, so the numbers must follow one another.
    fn take_status_sn(&mut self, received: u32) -> Result<(), ProtocolError> {
        let received = SerialNumber(received);
        let expected = self.expected_status_sn.unwrap_or(received);
        if received != expected {
            return Err(ProtocolError::OutOfSequence { what: "StatSN", expected, received });
        }
        self.expected_status_sn = Some(expected.next());
        Ok(())
    }

    /// Moves the command window; one that would close it below what was allowed is ignored (RFC 7143 §4.2.2.1).
    fn take_window(&mut self, expected: u32, max: u32) {
        let (expected, max) = (SerialNumber(expected), SerialNumber(max));
        if !max.next().is_before(expected) && max.is_after(self.max_command_sn) {
            self.max_command_sn = max;
        }
    }
}

fn unknown_task(pdu: &'static str, tag: u32) -> ProtocolError {
    ProtocolError::UnknownTask { pdu, tag }
}

/// Sense data in a SCSI response follows its own length.
fn sense_of(data: &[u8]) -> Option<Sense> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Sense::parse(rest.get(..length).unwrap_or(rest))
}

/// The answer to SendTargets: each name is followed by its addresses.
fn discovered(answer: &Parameters) -> Vec<DiscoveredTarget> {
    let mut targets: Vec<DiscoveredTarget> = Vec::new();
    for (key, value) in answer.iter() {
        match (key, targets.last_mut()) {
            ("TargetName", _) => targets.push(DiscoveredTarget { name: value.to_owned(), addresses: Vec::new() }),
            ("TargetAddress", Some(target)) => target.addresses.push(value.to_owned()),
            _ => {}
        }
    }
    targets
}
