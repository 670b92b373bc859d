//! What a session does with each PDU that arrives.

use base::Instant;

use super::event::{CloseReason, DiscoveredTarget, Output};
use super::login::LoginStep;
use super::session::{InitiatorSession, Phase, Step};
use super::tasks::{CommandTask, Task};
use crate::error::ProtocolError;
use crate::pdu::*;
use crate::scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};
use crate::serial::SerialNumber;
use crate::text::Parameters;

/// A target that sends more pings than this without reading the answers is flooding us.
const UNSENT_ANSWERS_MAX: usize = 64;

impl InitiatorSession {
    pub(super) fn receive(&mut self, now: Instant) -> Step {
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

    pub(super) fn receive_login(&mut self, pdu: Pdu, now: Instant) -> Step {
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

    pub(super) fn receive_pdu(&mut self, pdu: Pdu, at_byte: u64) -> Step {
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

    pub(super) fn receive_response(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_data(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_request(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_nop(&mut self, pdu: Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_task_management(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_text(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn receive_async(&mut self, pdu: &Pdu) -> Step {
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

    pub(super) fn receive_reject(&mut self, pdu: &Pdu) -> Result<(), ProtocolError> {
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

    pub(super) fn complete(&mut self, task: CommandTask, status: Status, sense: Option<Sense>, residual: Residual) {
        let token = task.token;
        let completion = Completion { status, sense, data: task.into_data(), residual };
        self.outputs.push_back(Output::Completed { token, completion });
    }

    pub(super) fn take_command(&mut self, tag: u32, pdu: &'static str) -> Result<CommandTask, ProtocolError> {
        match self.tasks.remove(&tag) {
            Some(Task::Command(task)) => Ok(task),
            Some(_) | None => Err(unknown_task(pdu, tag)),
        }
    }

    /// At ErrorRecoveryLevel 0 a status that was skipped is lost for good, so the numbers must follow one another.
    pub(super) fn take_status_sn(&mut self, received: u32) -> Result<(), ProtocolError> {
        let received = SerialNumber(received);
        let expected = self.expected_status_sn.unwrap_or(received);
        if received != expected {
            return Err(ProtocolError::OutOfSequence { what: "StatSN", expected, received });
        }
        self.expected_status_sn = Some(expected.next());
        Ok(())
    }

    /// Moves the command window; one that would close it below what was allowed is ignored (RFC 7143 §4.2.2.1).
    pub(super) fn take_window(&mut self, expected: u32, max: u32) {
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
