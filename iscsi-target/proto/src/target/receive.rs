//! What a session does with each PDU that arrives.

use bytes::Bytes;

use super::event::{CloseReason, Command, Direction, Output, TaskId};
use super::session::{Management, Phase, TargetSession, TextExchange};
use super::tasks::{Incoming, Keep, Progress, Task};
use crate::error::{ProtocolError, WireError};
use crate::pdu::*;
use crate::scsi::{AdditionalSense, Cdb, Sense, SenseKey};
use crate::serial::SerialNumber;
use crate::text::Collector;

/// Immediate commands that may be in flight besides the window.
const IMMEDIATE_MAX: usize = 8;
/// Task management requests that may be unanswered.
const MANAGEMENTS_MAX: usize = 16;
/// Receive buffers that tasks may keep alive; beyond it data is copied. Four times the usual queue depth.
const SLICES_MAX: usize = 512;

impl TargetSession {
    /// Takes whole PDUs out of what was received.
    pub(super) fn receive(&mut self) -> Result<(), CloseReason> {
        while let Some(pdu) = self.receiver.next_pdu()? {
            let at_byte = pdu.at_byte;
            let misbehaved = |cause| CloseReason::PeerMisbehaved(WireError { at_byte, cause });
            match self.phase {
                Phase::Closed | Phase::LoggingOut { .. } => return Ok(()),
                Phase::Login(_) => self.receive_login(&pdu)?,
                Phase::FullFeature { is_discovery: true } => self.receive_discovery(pdu).map_err(misbehaved)?,
                Phase::FullFeature { is_discovery: false } => self.receive_pdu(pdu).map_err(misbehaved)?,
            }
        }
        Ok(())
    }

    fn receive_login(&mut self, pdu: &Pdu) -> Result<(), CloseReason> {
        let at_byte = pdu.at_byte;
        if pdu.opcode() != Some(Opcode::LoginRequest) {
            let cause = ProtocolError::UnexpectedPdu { opcode: pdu.header[0], phase: "login phase" };
            return Err(CloseReason::PeerMisbehaved(WireError { at_byte, cause }));
        }
        let header: LoginRequestHeader = pdu.header();
        if at_byte == 0 {
            self.status_sn = SerialNumber(header.expected_status_sn.get());
            self.expected_command_sn = SerialNumber(header.command_sn.get());
            self.max_command_sn = self.expected_command_sn;
        }
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        let step = login.request(&self.config.willing, header, &pdu.data);
        self.follow_login(step)
    }

    fn receive_discovery(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        match pdu.opcode() {
            Some(Opcode::TextRequest | Opcode::LogoutRequest | Opcode::NopOut) => self.receive_pdu(pdu),
            _ => {
                self.send_reject(&pdu, RejectReason::CommandNotSupported);
                Ok(())
            }
        }
    }

    fn receive_pdu(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        match pdu.opcode() {
            Some(Opcode::ScsiCommand) => self.receive_command(pdu),
            Some(Opcode::DataOut) => self.receive_data(pdu),
            Some(Opcode::NopOut) => self.receive_nop(&pdu),
            Some(Opcode::TaskManagementRequest) => self.receive_task_management(&pdu),
            Some(Opcode::TextRequest) => self.receive_text(&pdu),
            Some(Opcode::LogoutRequest) => self.receive_logout(&pdu),
            Some(Opcode::SnackRequest) => {
                self.send_reject(&pdu, RejectReason::SnackReject);
                Ok(())
            }
            Some(Opcode::LoginRequest) => {
                Err(ProtocolError::UnexpectedPdu { opcode: pdu.header[0], phase: "full feature phase" })
            }
            Some(
                Opcode::NopIn
                | Opcode::ScsiResponse
                | Opcode::TaskManagementResponse
                | Opcode::LoginResponse
                | Opcode::TextResponse
                | Opcode::DataIn
                | Opcode::LogoutResponse
                | Opcode::ReadyToTransfer
                | Opcode::AsyncMessage
                | Opcode::Reject,
            )
            | None => {
                self.send_reject(&pdu, RejectReason::CommandNotSupported);
                Ok(())
            }
        }
    }

    /// Puts a request into the command order. False if it is to be ignored: it is outside of the window
    /// (RFC 7143 §4.2.2.1).
    fn take_command_sn(&mut self, pdu: &Pdu, command_sn: u32) -> Result<bool, ProtocolError> {
        if pdu.is_immediate() {
            return Ok(true);
        }
        let (received, expected) = (SerialNumber(command_sn), self.expected_command_sn);
        if !received.is_within(expected, self.max_command_sn) {
            return Ok(false);
        }
        // On one connection requests come in order, so a gap would never be filled (ErrorRecoveryLevel 0).
        if received != expected {
            return Err(ProtocolError::OutOfSequence { what: "CmdSN", expected, received });
        }
        self.expected_command_sn = expected.next();
        Ok(true)
    }

    fn receive_command(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        let header: ScsiCommandHeader = pdu.header();
        if !self.take_command_sn(&pdu, header.command_sn.get())? {
            return Ok(());
        }
        let tag = header.initiator_task_tag.get();
        if tag == RESERVED_TAG {
            return Err(ProtocolError::BadField { pdu: "SCSI Command", field: "task tag", value: tag.into() });
        }
        if self.tasks.contains_key(&tag) {
            return Err(ProtocolError::TagInUse { tag });
        }
        if pdu.is_immediate() && self.tasks.values().filter(|task| task.is_immediate).count() >= IMMEDIATE_MAX {
            self.send_reject(&pdu, RejectReason::TooManyImmediateCommands);
            return Ok(());
        }
        let direction = match (header.flags & CommandFlags::READ != 0, header.flags & CommandFlags::WRITE != 0) {
            (false, false) => Direction::None,
            (true, false) => Direction::In,
            (false, true) => Direction::Out,
            (true, true) => Direction::Both,
        };
        let expected = header.expected_data_transfer_length.get();
        let unasked_up_to = self.check_unasked(tag, &header, direction, pdu.data.len() as u32)?;
        let id = self.take_id(tag);
        let incoming = Incoming::new(pdu.data, unasked_up_to, self.how_to_keep());
        self.slices += incoming.slices;
        let task = Task {
            id,
            lun: header.lun,
            direction,
            expected,
            is_immediate: header.opcode & IMMEDIATE != 0,
            incoming,
            sent_count: 0,
            progress: Progress::Executing,
            is_aborted: false,
            failure: None,
        };
        self.windowed += u32::from(!task.is_immediate);
        self.tasks.insert(tag, task);
        let (lun, cdb) = (header.lun, Cdb(header.cdb));
        self.outputs.push_back(Output::Command(Command { task: id, lun, cdb, direction, expected }));
        Ok(())
    }

    /// Checks the data that comes with a command against what was agreed on, and says how far more may follow
    /// unasked.
    fn check_unasked(
        &self,
        tag: u32,
        header: &ScsiCommandHeader,
        direction: Direction,
        immediate: u32,
    ) -> Result<Option<u32>, ProtocolError> {
        let is_final = header.flags & FINAL != 0;
        let limit = match direction {
            Direction::Out | Direction::Both => {
                header.expected_data_transfer_length.get().min(self.negotiated.first_burst_length)
            }
            Direction::None | Direction::In => 0,
        };
        let allowed = if self.negotiated.immediate_data { limit } else { 0 };
        if immediate > allowed {
            return Err(ProtocolError::DataOutOfRange {
                tag,
                offset: 0,
                length: immediate,
                allowed_from: 0,
                allowed_to: allowed,
            });
        }
        match (is_final, self.negotiated.initial_r2t) {
            (true, _) => Ok(None),
            (false, false) if limit > 0 => Ok(Some(limit)),
            (false, _) => {
                Err(ProtocolError::BadField { pdu: "SCSI Command", field: "F bit", value: u64::from(header.flags) })
            }
        }
    }

    fn receive_data(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
        let header: DataOutHeader = pdu.header();
        let tag = header.initiator_task_tag.get();
        let keep = self.how_to_keep();
        // Data for a command that was ignored, or whose abort the initiator has not heard of yet, has nowhere to go.
        let Some(task) = self.tasks.get_mut(&tag) else { return Ok(()) };
        let is_wanted = !task.is_aborted && !matches!(task.progress, Progress::Finished(_));
        let slices = task.incoming.slices;
        task.incoming.take(tag, &header, pdu.data, if is_wanted { keep } else { Keep::Not })?;
        self.slices += task.incoming.slices - slices;
        if task.incoming.is_unasked_open() {
            return Ok(());
        }
        if task.incoming.is_spoiled && task.failure.is_none() {
            task.failure = Some(Sense::new(SenseKey::AbortedCommand, AdditionalSense::PROTOCOL_SERVICE_CRC_ERROR));
            if matches!(task.progress, Progress::Receiving { .. }) {
                self.outputs.push_back(Output::Aborted { task: task.id });
            }
        }
        match std::mem::replace(&mut task.progress, Progress::Executing) {
            Progress::Finished(result) => self.respond(tag, Some(result)),
            progress @ (Progress::Executing | Progress::Receiving { .. }) => {
                task.progress = progress;
                self.solicit();
            }
        }
        Ok(())
    }

    fn receive_nop(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: NopOutHeader = pdu.header();
        if !self.take_command_sn(pdu, header.command_sn.get())? {
            return Ok(());
        }
        // The answer to our own question has no task tag, and has done its work by arriving.
        if header.initiator_task_tag.get() != RESERVED_TAG {
            self.send_pong(&header, &pdu.data);
        }
        Ok(())
    }

    fn receive_task_management(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: TaskManagementRequestHeader = pdu.header();
        if !self.take_command_sn(pdu, header.command_sn.get())? {
            return Ok(());
        }
        let tag = header.initiator_task_tag.get();
        if self.managements.len() >= MANAGEMENTS_MAX {
            self.send_management_response(tag, TaskManagementResponse::Rejected);
            return Ok(());
        }
        let lun = header.lun;
        let function = TaskFunction::from_byte(header.function);
        let waits_for = match function {
            Some(TaskFunction::AbortTask) => {
                let referenced = header.referenced_task_tag.get();
                if !self.tasks.contains_key(&referenced) {
                    self.send_management_response(tag, TaskManagementResponse::NoSuchTask);
                    return Ok(());
                }
                self.abort_tasks(|task| task.id.tag == referenced)
            }
            Some(TaskFunction::AbortTaskSet | TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset) => {
                self.abort_tasks(|task| task.lun == lun)
            }
            Some(TaskFunction::TaskReassign) => {
                self.send_management_response(tag, TaskManagementResponse::ReassignmentUnsupported);
                return Ok(());
            }
            Some(TaskFunction::ClearAca | TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset) | None => {
                self.send_management_response(tag, TaskManagementResponse::FunctionUnsupported);
                return Ok(());
            }
        };
        let id = self.take_id(tag);
        if let Some(function) = function {
            self.managements.push(Management { id, function, lun, waits_for, is_with_shell: false });
        }
        self.advance_managements();
        Ok(())
    }

    fn receive_text(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: TextRequestHeader = pdu.header();
        if !self.take_command_sn(pdu, header.command_sn.get())? {
            return Ok(());
        }
        let tag = header.initiator_task_tag.get();
        let mut text = match std::mem::take(&mut self.text) {
            TextExchange::Answering { tag: of, transfer_tag, rest } => {
                if of == tag && transfer_tag == header.target_transfer_tag.get() {
                    self.send_text(tag, rest);
                    return Ok(());
                }
                // A new request ends the old exchange.
                Collector::default()
            }
            TextExchange::Gathering { tag: of, text } if of == tag => text,
            TextExchange::Gathering { .. } | TextExchange::Idle => Collector::default(),
            busy @ TextExchange::WithShell { .. } => {
                self.text = busy;
                self.send_reject(pdu, RejectReason::ProtocolError);
                return Ok(());
            }
        };
        text.add(&pdu.data)?;
        if header.flags & CONTINUE != 0 {
            self.text = TextExchange::Gathering { tag, text };
            self.send_text_part(tag, self.next_transfer_tag, 0, Bytes::new());
            return Ok(());
        }
        let parameters = text.finish()?;
        match parameters.get("SendTargets") {
            Some(which) => {
                let id = self.take_id(tag);
                self.text = TextExchange::WithShell { id };
                self.outputs.push_back(Output::SendTargets { task: id, which: which.to_owned() });
            }
            None => self.answer_unknown_keys(tag, &parameters),
        }
        Ok(())
    }

    fn receive_logout(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
        let header: LogoutRequestHeader = pdu.header();
        if !self.take_command_sn(pdu, header.command_sn.get())? {
            return Ok(());
        }
        let tag = header.initiator_task_tag.get();
        match LogoutReason::from_byte(header.reason) {
            Some(LogoutReason::CloseSession | LogoutReason::CloseConnection) => {
                self.abort_tasks(|_| true);
                self.phase = Phase::LoggingOut { tag };
            }
            Some(LogoutReason::RemoveForRecovery) => self.send_logout_response(tag, RECOVERY_UNSUPPORTED),
            None => self.send_reject(pdu, RejectReason::InvalidPduField),
        }
        Ok(())
    }

    fn take_id(&mut self, tag: u32) -> TaskId {
        self.next_sequence += 1;
        TaskId { tag, sequence: self.next_sequence }
    }

    fn how_to_keep(&self) -> Keep {
        if self.slices < SLICES_MAX { Keep::Slice } else { Keep::Copy }
    }
}

/// Logout response: recovery of connections is not supported.
const RECOVERY_UNSUPPORTED: u8 = 2;
