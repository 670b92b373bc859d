//! What the session remembers of one task: which data still goes out, which has come in.

use bytes::{Bytes, BytesMut};

use super::event::CommandToken;
use crate::error::ProtocolError;
use crate::pdu::{DataInHeader, ReadyToTransferHeader};
use crate::scsi::{DataPhase, ScsiCommand};
use crate::text::Collector;

/// A request that the target has not answered yet.
#[derive(Debug)]
pub(super) enum Task {
    Command(CommandTask),
    /// ABORT TASK for the task with this tag.
    Abort {
        token: CommandToken,
        aborted_tag: u32,
    },
    ResetLun {
        token: CommandToken,
        lun: u16,
    },
    /// `None`: our own sign-of-life question.
    Ping {
        token: Option<CommandToken>,
    },
    SendTargets {
        answer: Collector,
    },
    Logout,
}

/// A SCSI command that was sent.
#[derive(Debug)]
pub(super) struct CommandTask {
    pub token: CommandToken,
    pub lun: u16,
    tag: u32,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Data-In PDUs received.
    data_in_count: u32,
    /// Requests for data received.
    request_count: u32,
}

impl CommandTask {
    pub(super) fn new(token: CommandToken, tag: u32, command: &ScsiCommand) -> Self {
        let (buffers, expected) = match &command.data {
            DataPhase::None => (Vec::new(), 0),
            DataPhase::In { length } => (Vec::new(), *length),
            DataPhase::Out { buffers } => (buffers.clone(), 0),
        };
        Self {
            token,
            lun: command.lun,
            tag,
            outgoing: Outgoing::new(buffers),
            incoming: Incoming { expected, received: Received::Nothing },
            data_in_count: 0,
            request_count: 0,
        }
    }

    pub(super) fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// Takes one Data-In PDU's data. Data comes in order and without gaps (DataPDUInOrder, DataSequenceInOrder).
    pub(super) fn take_data(&mut self, header: &DataInHeader, data: Bytes) -> Result<(), ProtocolError> {
        let (offset, length) = (header.buffer_offset.get(), data.len() as u64);
        let at = self.incoming.received.len() as u64;
        if u64::from(offset) != at || at + length > u64::from(self.incoming.expected) {
            return Err(ProtocolError::DataOutOfRange {
                tag: self.tag,
                offset,
                length: data.len() as u32,
                allowed_from: at as u32,
                allowed_to: self.incoming.expected,
            });
        }
        // A PDU that brings only the status has no data and need not be numbered by every target.
        if header.data_sn.get() != self.data_in_count && !data.is_empty() {
            return Err(ProtocolError::OutOfSequence {
                what: "DataSN",
                expected: crate::serial::SerialNumber(self.data_in_count),
                received: crate::serial::SerialNumber(header.data_sn.get()),
            });
        }
        self.data_in_count += 1;
        self.incoming.take(data);
        Ok(())
    }

    /// Checks a request for data and gives the length to send, in bytes. Requests come in order and without overlap,
    /// so that no target can make us queue a buffer twice.
    pub(super) fn take_request(
        &mut self,
        header: &ReadyToTransferHeader,
        burst_max: u32,
    ) -> Result<u32, ProtocolError> {
        let (offset, length) = (header.buffer_offset.get(), header.desired_length.get());
        let (at, end) = (self.outgoing.sent, self.outgoing.total);
        if offset != at || length == 0 || length > burst_max || u64::from(offset) + u64::from(length) > u64::from(end) {
            return Err(ProtocolError::DataOutOfRange {
                tag: self.tag,
                offset,
                length,
                allowed_from: at,
                allowed_to: end,
            });
        }
        if header.request_sn.get() != self.request_count {
            return Err(ProtocolError::OutOfSequence {
                what: "R2TSN",
                expected: crate::serial::SerialNumber(self.request_count),
                received: crate::serial::SerialNumber(header.request_sn.get()),
            });
        }
        self.request_count += 1;
        Ok(length)
    }

    /// The data that was received, in one piece.
    pub(super) fn into_data(self) -> Bytes {
        match self.incoming.received {
            Received::Nothing => Bytes::new(),
            Received::Whole(data) => data,
            Received::Parts(parts) => parts.freeze(),
        }
    }
}

/// A write's buffers, handed out from front to back.
#[derive(Debug)]
pub(super) struct Outgoing {
    buffers: std::collections::VecDeque<Bytes>,
    /// Bytes of all buffers together.
    pub total: u32,
    /// Bytes handed out.
    pub sent: u32,
}

impl Outgoing {
    fn new(buffers: Vec<Bytes>) -> Self {
        let total = buffers.iter().map(Bytes::len).sum::<usize>();
        let total = u32::try_from(total).expect("invariant: a command writes less than 4 GiB (DataPhase::Out says so)");
        Self { buffers: buffers.into(), total, sent: 0 }
    }

    /// The next `length` bytes, as slices of the buffers.
    pub(super) fn take(&mut self, length: u32) -> Vec<Bytes> {
        let mut missing = length as usize;
        let mut out = Vec::with_capacity(1);
        while missing > 0 {
            let Some(front) = self.buffers.front_mut() else { break };
            if front.len() > missing {
                out.push(front.split_to(missing));
                missing = 0;
            } else {
                missing -= front.len();
                out.extend(self.buffers.pop_front().filter(|buffer| !buffer.is_empty()));
            }
        }
        self.sent += length;
        out
    }
}

#[derive(Debug)]
struct Incoming {
    expected: u32,
    received: Received,
}

#[derive(Debug)]
enum Received {
    Nothing,
    /// One PDU's data: a slice of the receive buffer.
    Whole(Bytes),
    Parts(BytesMut),
}

impl Received {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Whole(data) => data.len(),
            Self::Parts(parts) => parts.len(),
        }
    }
}

impl Incoming {
    fn take(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.received = match std::mem::replace(&mut self.received, Received::Nothing) {
            Received::Nothing => Received::Whole(data),
            Received::Whole(first) => {
                let mut parts = BytesMut::with_capacity(self.expected as usize);
                parts.extend_from_slice(&first);
                parts.extend_from_slice(&data);
                Received::Parts(parts)
            }
            Received::Parts(mut parts) => {
                parts.extend_from_slice(&data);
                Received::Parts(parts)
            }
        };
    }
}
