//! Every PDU a target sends: the headers, their numbers, and how data is cut.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U32;

use super::event::{Direction, PortalTarget, TaskId, TaskResult};
use super::login::Response;
use super::session::{TargetSession, TextExchange};
use super::tasks::Task;
use crate::negotiate::NOT_UNDERSTOOD;
use crate::pdu::*;
use crate::scsi::Status;
use crate::serial::SerialNumber;
use crate::text::Parameters;

/// Flag that must be set in byte 1 of most responses, where requests have FINAL.
const ALWAYS: u8 = 0x80;

impl TargetSession {
    pub(super) fn send_login(&mut self, response: Response) {
        let request = &response.request;
        let status_sn = match response.status {
            LoginStatus::SUCCESS => self.take_status_sn(),
            _ => self.status_sn.0.into(),
        };
        let (expected_command_sn, max_command_sn) = self.window();
        let header = LoginResponseHeader {
            opcode: Opcode::LoginResponse as u8,
            flags: response.flags,
            version_max: 0,
            version_active: 0,
            additional_header_words: 0,
            data_segment_length: U24::default(),
            isid: request.isid,
            tsih: response.tsih.into(),
            initiator_task_tag: request.initiator_task_tag,
            reserved: [0; 4],
            status_sn,
            expected_command_sn,
            max_command_sn,
            status_class: response.status.class,
            status_detail: response.status.detail,
            reserved_end: [0; 10],
        };
        self.transmit.push(&header, &[response.parameters.encode()]);
    }

    /// A command's data and status.
    pub(super) fn send_result(&mut self, task: &Task, result: TaskResult) {
        let may_send = match task.direction {
            Direction::In | Direction::Both => task.expected,
            Direction::None | Direction::Out => 0,
        };
        let expected = match task.direction {
            Direction::None => 0,
            Direction::In | Direction::Out | Direction::Both => task.expected,
        };
        let residual = Residual::between(expected, result.transfer_length);
        let mut data = result.data;
        data.truncate(may_send as usize);
        let is_status_with_data = result.status == Status::Good && !data.is_empty();
        let mut data_count = task.sent_count;
        if !data.is_empty() {
            let status = is_status_with_data.then_some(residual);
            data_count += self.send_data(task, data, status);
        }
        if !is_status_with_data {
            self.send_response(task, result.status, result.sense.map(|sense| sense.encode()), residual, data_count);
        }
    }

    /// Data-In PDUs; with `status` the last one ends the command with GOOD. Gives their number.
    fn send_data(&mut self, task: &Task, mut data: Bytes, status: Option<Residual>) -> u32 {
        let burst = self.negotiated.max_burst_length as usize;
        let part_max = self.negotiated.peer_max_data_segment as usize;
        let (expected_command_sn, max_command_sn) = self.window();
        let (mut data_sn, mut offset, mut burst_left) = (0, 0, burst);
        while !data.is_empty() {
            let part = data.split_to(data.len().min(part_max).min(burst_left));
            burst_left -= part.len();
            let is_last = data.is_empty();
            let mut header = DataInHeader {
                opcode: Opcode::DataIn as u8,
                flags: if is_last || burst_left == 0 { FINAL } else { 0 },
                reserved: 0,
                status: 0,
                additional_header_words: 0,
                data_segment_length: U24::default(),
                lun: LunField::default(),
                initiator_task_tag: task.id.tag.into(),
                target_transfer_tag: RESERVED_TAG.into(),
                status_sn: 0.into(),
                expected_command_sn,
                max_command_sn,
                data_sn: U32::new(data_sn),
                buffer_offset: U32::new(offset),
                residual: 0.into(),
            };
            if let (true, Some(residual)) = (is_last, status) {
                header.flags |= DataInHeader::STATUS | residual.flags();
                header.status_sn = self.take_status_sn();
                header.residual = residual.count().into();
            }
            if burst_left == 0 {
                burst_left = burst;
            }
            data_sn += 1;
            offset += part.len() as u32;
            self.transmit.push(&header, &[part]);
        }
        data_sn
    }

    fn send_response(&mut self, task: &Task, status: Status, sense: Option<[u8; 18]>, residual: Residual, count: u32) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = ScsiResponseHeader {
            opcode: Opcode::ScsiResponse as u8,
            flags: ALWAYS | residual.flags(),
            response: 0,
            status: status.to_byte(),
            additional_header_words: 0,
            data_segment_length: U24::default(),
            reserved: [0; 8],
            initiator_task_tag: task.id.tag.into(),
            snack_tag: 0.into(),
            status_sn: self.take_status_sn(),
            expected_command_sn,
            max_command_sn,
            expected_data_sn: count.into(),
            bidirectional_residual: 0.into(),
            residual: residual.count().into(),
        };
        let data = sense.map(|sense| {
            let mut data = BytesMut::with_capacity(2 + sense.len());
            data.put_u16(sense.len() as u16);
            data.put_slice(&sense);
            data.freeze()
        });
        self.transmit.push(&header, data.as_slice());
    }

    /// Asks for more of a command's data, up to `wanted` bytes together.
    pub(super) fn request_data(&mut self, id: TaskId, wanted: u32) {
        let (expected_command_sn, max_command_sn) = self.window();
        let Some(task) = self.tasks.get_mut(&id.tag) else { return };
        while task.incoming.outstanding() < self.negotiated.max_outstanding_r2t as usize {
            let transfer_tag = self.next_transfer_tag;
            let next = task.incoming.next_request(wanted, self.negotiated.max_burst_length, transfer_tag);
            let Some((offset, length)) = next else { break };
            self.next_transfer_tag = following_tag(transfer_tag);
            let header = ReadyToTransferHeader {
                opcode: Opcode::ReadyToTransfer as u8,
                flags: ALWAYS,
                reserved: [0; 2],
                additional_header_words: 0,
                data_segment_length: U24::default(),
                lun: task.lun,
                initiator_task_tag: id.tag.into(),
                target_transfer_tag: transfer_tag.into(),
                status_sn: self.status_sn.0.into(),
                expected_command_sn,
                max_command_sn,
                request_sn: task.sent_count.into(),
                buffer_offset: offset.into(),
                desired_length: length.into(),
            };
            task.sent_count += 1;
            self.transmit.push(&header, &[]);
        }
    }

    pub(super) fn send_management_response(&mut self, tag: u32, response: TaskManagementResponse) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = TaskManagementResponseHeader {
            opcode: Opcode::TaskManagementResponse as u8,
            flags: ALWAYS,
            response: response as u8,
            reserved: 0,
            additional_header_words: 0,
            data_segment_length: U24::default(),
            reserved_lun: [0; 8],
            initiator_task_tag: tag.into(),
            reserved_tag: [0; 4],
            status_sn: self.take_status_sn(),
            expected_command_sn,
            max_command_sn,
            reserved_end: [0; 12],
        };
        self.transmit.push(&header, &[]);
    }

    /// Asks the initiator for a sign of life.
    pub(super) fn send_ping(&mut self) {
        let transfer_tag = self.next_transfer_tag;
        self.next_transfer_tag = following_tag(transfer_tag);
        let status_sn = self.status_sn.0.into();
        self.send_nop(LunField::default(), RESERVED_TAG, transfer_tag, status_sn, Bytes::new());
    }

    /// Answers the initiator's ping with its own data.
    pub(super) fn send_pong(&mut self, request: &NopOutHeader, data: &Bytes) {
        let data = data.slice(..data.len().min(self.negotiated.peer_max_data_segment as usize));
        let status_sn = self.take_status_sn();
        self.send_nop(request.lun, request.initiator_task_tag.get(), RESERVED_TAG, status_sn, data);
    }

    fn send_nop(&mut self, lun: LunField, tag: u32, transfer_tag: u32, status_sn: U32, data: Bytes) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = NopInHeader {
            opcode: Opcode::NopIn as u8,
            flags: ALWAYS,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun,
            initiator_task_tag: tag.into(),
            target_transfer_tag: transfer_tag.into(),
            status_sn,
            expected_command_sn,
            max_command_sn,
            reserved_end: [0; 12],
        };
        self.transmit.push(&header, &[data]);
    }

    pub(super) fn answer_targets(&mut self, id: TaskId, targets: &[PortalTarget]) {
        if !matches!(self.text, TextExchange::WithShell { id: asked } if asked == id) {
            return;
        }
        let mut answer = Parameters::new();
        for target in targets {
            answer.push("TargetName", target.name.as_str());
            for address in &target.addresses {
                answer.push("TargetAddress", address.as_str());
            }
        }
        self.send_text(id.tag, answer.encode());
    }

    /// A text request without a key we know.
    pub(super) fn answer_unknown_keys(&mut self, tag: u32, parameters: &Parameters) {
        let mut answer = Parameters::new();
        for (key, _) in parameters.iter() {
            answer.push(key, NOT_UNDERSTOOD);
        }
        self.send_text(tag, answer.encode());
    }

    /// Sends as much of a text answer as fits; the initiator asks for the rest.
    pub(super) fn send_text(&mut self, tag: u32, mut rest: Bytes) {
        let part = rest.split_to(rest.len().min(self.negotiated.peer_max_data_segment as usize));
        if rest.is_empty() {
            self.text = TextExchange::Idle;
            return self.send_text_part(tag, RESERVED_TAG, FINAL, part);
        }
        let transfer_tag = self.next_transfer_tag;
        self.next_transfer_tag = following_tag(transfer_tag);
        self.text = TextExchange::Answering { tag, transfer_tag, rest };
        self.send_text_part(tag, transfer_tag, CONTINUE, part);
    }

    pub(super) fn send_text_part(&mut self, tag: u32, transfer_tag: u32, flags: u8, part: Bytes) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = TextResponseHeader {
            opcode: Opcode::TextResponse as u8,
            flags,
            reserved: [0; 2],
            additional_header_words: 0,
            data_segment_length: U24::default(),
            lun: LunField::default(),
            initiator_task_tag: tag.into(),
            target_transfer_tag: transfer_tag.into(),
            status_sn: self.take_status_sn(),
            expected_command_sn,
            max_command_sn,
            reserved_end: [0; 12],
        };
        self.transmit.push(&header, &[part]);
    }

    pub(super) fn send_logout_response(&mut self, tag: u32, response: u8) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = LogoutResponseHeader {
            opcode: Opcode::LogoutResponse as u8,
            flags: ALWAYS,
            response,
            reserved: 0,
            additional_header_words: 0,
            data_segment_length: U24::default(),
            reserved_lun: [0; 8],
            initiator_task_tag: tag.into(),
            reserved_tag: [0; 4],
            status_sn: self.take_status_sn(),
            expected_command_sn,
            max_command_sn,
            reserved_sn: [0; 4],
            time_to_wait: 0.into(),
            time_to_retain: 0.into(),
            reserved_end: [0; 4],
        };
        self.transmit.push(&header, &[]);
    }

    /// Refuses a PDU; the initiator gets its header back.
    pub(super) fn send_reject(&mut self, pdu: &Pdu, reason: RejectReason) {
        let (expected_command_sn, max_command_sn) = self.window();
        let header = RejectHeader {
            opcode: Opcode::Reject as u8,
            flags: ALWAYS,
            reason: reason as u8,
            reserved: 0,
            additional_header_words: 0,
            data_segment_length: U24::default(),
            reserved_lun: [0; 8],
            initiator_task_tag: RESERVED_TAG.into(),
            reserved_tag: [0; 4],
            status_sn: self.take_status_sn(),
            expected_command_sn,
            max_command_sn,
            data_sn: 0.into(),
            reserved_end: [0; 8],
        };
        self.transmit.push(&header, &[Bytes::copy_from_slice(pdu.header.as_bytes())]);
    }

    fn take_status_sn(&mut self) -> U32 {
        let status_sn = self.status_sn;
        self.status_sn = status_sn.next();
        status_sn.0.into()
    }

    /// ExpCmdSN and MaxCmdSN. What was allowed once is never taken back.
    fn window(&mut self) -> (U32, U32) {
        let free = self.config.queue_depth.saturating_sub(self.windowed);
        let max = SerialNumber(self.expected_command_sn.0.wrapping_add(free).wrapping_sub(1));
        if max.is_after(self.max_command_sn) {
            self.max_command_sn = max;
        }
        (self.expected_command_sn.0.into(), self.max_command_sn.0.into())
    }
}

/// The transfer tag after `tag`, leaving out the one that means none.
fn following_tag(tag: u32) -> u32 {
    match tag.wrapping_add(1) {
        RESERVED_TAG => 0,
        next => next,
    }
}
