//! What the session remembers of one SCSI command: its data on the way in, whether it still matters.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::event::{Direction, TaskId, TaskResult};
use crate::error::ProtocolError;
use crate::pdu::{DataOutHeader, FINAL, LunField, RESERVED_TAG};
use crate::scsi::Sense;

/// A command between its arrival and its response.
#[derive(Debug)]
pub(super) struct Task {
    pub id: TaskId,
    pub lun: LunField,
    pub direction: Direction,
    /// Bytes that the initiator expects to move.
    pub expected: u32,
    pub is_immediate: bool,
    pub incoming: Incoming,
    /// Data-In and R2T PDUs sent.
    pub sent_count: u32,
    pub progress: Progress,
    pub is_aborted: bool,
    /// Why it fails whatever the shell makes of it.
    pub failure: Option<Sense>,
}

/// How far a command is.
#[derive(Debug)]
pub(super) enum Progress {
    /// The shell has it; it has not asked for data, or has got it.
    Executing,
    /// The shell waits for this many bytes; `is_admitted` once they count against the session's limit.
    Receiving { wanted: u32, is_admitted: bool },
    /// Its response waits for the end of data that comes unasked.
    Finished(TaskResult),
}

/// Data on its way from the initiator. It comes in order (DataPDUInOrder, DataSequenceInOrder).
#[derive(Debug, Default)]
pub(super) struct Incoming {
    buffers: Vec<Bytes>,
    /// Copied data behind the last buffer.
    copied: BytesMut,
    /// Buffers that are slices of what was received, and so keep a whole receive buffer alive.
    pub slices: usize,
    /// Bytes received; also the offset of the next byte.
    pub received: u32,
    /// Unasked data goes on up to this offset; `None` once its last PDU is here.
    unasked_up_to: Option<u32>,
    next_unasked_sn: u32,
    /// Requests that were sent and not answered in full, oldest first.
    requests: VecDeque<Request>,
    /// Bytes that were received or asked for.
    requested: u32,
    /// Bytes that count against the session's limit.
    pub charged: u32,
    /// A PDU of it was lost: what comes is thrown away.
    pub is_spoiled: bool,
}

#[derive(Debug)]
struct Request {
    transfer_tag: u32,
    end: u32,
    next_sn: u32,
}

impl Incoming {
    /// A command's data at its arrival. `unasked_up_to` says how far Data-Out PDUs may follow unasked.
    pub(super) fn new(immediate: Bytes, unasked_up_to: Option<u32>, keep: Keep) -> Self {
        let received = immediate.len() as u32;
        let mut incoming = Self { received, unasked_up_to, requested: received, ..Self::default() };
        incoming.keep(immediate, keep);
        incoming
    }

    /// Whether data still comes that nobody asked for.
    pub(super) fn is_unasked_open(&self) -> bool {
        self.unasked_up_to.is_some()
    }

    /// Requests that are not answered in full.
    pub(super) fn outstanding(&self) -> usize {
        self.requests.len()
    }

    /// The part to ask for next: its offset and length, `None` if everything up to `wanted` was asked for.
    pub(super) fn next_request(&mut self, wanted: u32, burst_max: u32, transfer_tag: u32) -> Option<(u32, u32)> {
        let offset = self.requested;
        let length = wanted.saturating_sub(offset).min(burst_max);
        if length == 0 {
            return None;
        }
        self.requested = offset + length;
        self.requests.push_back(Request { transfer_tag, end: offset + length, next_sn: 0 });
        Some((offset, length))
    }

    /// Takes a Data-Out PDU. A gap in its numbers spoils the command, not the session (RFC 7143 §7.9).
    pub(super) fn take(
        &mut self,
        tag: u32,
        header: &DataOutHeader,
        data: Bytes,
        keep: Keep,
    ) -> Result<(), ProtocolError> {
        let is_last = header.flags & FINAL != 0;
        let offset = header.buffer_offset.get();
        let length = data.len() as u32;
        let is_unasked = header.target_transfer_tag.get() == RESERVED_TAG;
        let (end, next_sn) = match (is_unasked, self.unasked_up_to, self.requests.front_mut()) {
            (true, Some(end), _) => (end, &mut self.next_unasked_sn),
            (false, None, Some(request)) if request.transfer_tag == header.target_transfer_tag.get() => {
                (request.end, &mut request.next_sn)
            }
            _ => {
                let value = u64::from(header.target_transfer_tag.get());
                return Err(ProtocolError::BadField { pdu: "Data-Out", field: "target transfer tag", value });
            }
        };
        self.is_spoiled |= header.data_sn.get() != *next_sn;
        *next_sn += 1;
        if self.is_spoiled {
            if is_last {
                self.end_sequence(is_unasked);
            }
            return Ok(());
        }
        let after = u64::from(offset) + u64::from(length);
        // A request is answered in full; unasked data may end early.
        let is_short = is_last && !is_unasked && after != u64::from(end);
        if offset != self.received || after > u64::from(end) || is_short {
            let allowed_from = self.received;
            return Err(ProtocolError::DataOutOfRange { tag, offset, length, allowed_from, allowed_to: end });
        }
        self.received += length;
        self.keep(data, keep);
        if is_last {
            self.end_sequence(is_unasked);
        }
        Ok(())
    }

    /// The first `wanted` bytes, as received.
    pub(super) fn take_buffers(&mut self, wanted: u32) -> Vec<Bytes> {
        let mut missing = wanted as usize;
        self.end_copied();
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.retain_mut(|buffer| {
            buffer.truncate(missing);
            missing -= buffer.len();
            !buffer.is_empty()
        });
        buffers
    }

    fn end_sequence(&mut self, is_unasked: bool) {
        if is_unasked {
            self.unasked_up_to = None;
            self.requested = self.received;
        } else {
            self.requests.pop_front();
        }
    }

    fn keep(&mut self, data: Bytes, keep: Keep) {
        match keep {
            Keep::Not => {}
            Keep::Slice if data.len() >= SLICE_MIN => {
                self.end_copied();
                self.slices += 1;
                self.buffers.push(data);
            }
            Keep::Slice | Keep::Copy => self.copied.extend_from_slice(&data),
        }
    }

    fn end_copied(&mut self) {
        if !self.copied.is_empty() {
            self.buffers.push(self.copied.split().freeze());
        }
    }
}

/// What happens to data that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It is only checked.
    Not,
    /// It stays where it was received.
    Slice,
    /// It is copied, because too many receive buffers are kept alive already.
    Copy,
}

/// Less data than this is copied in any case.
const SLICE_MIN: usize = 512;
