//! Every PDU an initiator sends: the headers, their numbers, and how data is cut.

use bytes::Bytes;
use zerocopy::byteorder::big_endian::U32;

use super::event::{CommandToken, Output};
use super::login::Request;
use super::session::{InitiatorSession, Phase, Urgent, Waiting};
use super::tasks::{CommandTask, Task};
use crate::pdu::*;
use crate::scsi::{DataPhase, ScsiCommand};
use crate::text::{Collector, Parameters};

impl InitiatorSession {
    pub(super) fn send_login(&mut self, request: Request) {
        let mut header = request.header;
        header.command_sn = self.command_sn.0.into();
        header.expected_status_sn = self.expected_status_field();
        self.transmit.push(&header, &[request.parameters.encode()]);
    }

    /// Sends what waits, as far as the window allows, and at last the logout.
    pub(super) fn send_waiting(&mut self) {
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

    pub(super) fn send_command(&mut self, token: CommandToken, command: ScsiCommand) {
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
    pub(super) fn send_data(
        &mut self,
        task: &mut CommandTask,
        tag: u32,
        transfer_tag: u32,
        lun: LunField,
        length: u32,
    ) {
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

    pub(super) fn abort(&mut self, token: CommandToken) {
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
    pub(super) fn send_task_management(&mut self, task: Task, function: TaskFunction, lun: u16, referenced: u32) {
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

    pub(super) fn send_ping(&mut self, token: Option<CommandToken>) {
        let tag = self.take_tag();
        self.send_nop(tag, RESERVED_TAG, LunField::default(), Bytes::new());
        self.tasks.insert(tag, Task::Ping { token });
    }

    pub(super) fn send_nop(&mut self, tag: u32, transfer_tag: u32, lun: LunField, data: Bytes) {
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

    pub(super) fn send_targets_request(&mut self) {
        let mut parameters = Parameters::new();
        parameters.push("SendTargets", "All");
        let tag = self.take_tag();
        self.send_text(tag, RESERVED_TAG, &parameters);
        self.tasks.insert(tag, Task::SendTargets { answer: Collector::default() });
    }

    pub(super) fn send_text(&mut self, tag: u32, transfer_tag: u32, parameters: &Parameters) {
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

    pub(super) fn send_logout(&mut self) {
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

    pub(super) fn expected_status_field(&self) -> U32 {
        self.expected_status_sn.unwrap_or_default().0.into()
    }

    pub(super) fn take_tag(&mut self) -> u32 {
        loop {
            let tag = self.next_tag;
            self.next_tag = self.next_tag.wrapping_add(1);
            if tag != RESERVED_TAG && !self.tasks.contains_key(&tag) {
                return tag;
            }
        }
    }
}
