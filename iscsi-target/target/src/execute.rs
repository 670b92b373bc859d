//! What each command means for a logical unit.
//!
//! [`begin`] looks at a command and says what is to be done: an answer, data to wait for, or a job for the device. It
//! never waits and never touches the session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use block_core::{BlockError, ByteLen, ByteOffset, IoFuture};
use bytes::{Bytes, BytesMut};
use iscsi_target_proto::scsi::{
    AdditionalSense, InquiryIdentity, Operation, Sense, SenseKey, Status, encode_luns, inquiry_page, mode_sense,
};
use iscsi_target_proto::target::{Command, Direction, TaskResult};

use crate::attention::Attentions;
use crate::registry::Target;
use crate::unit::LogicalUnit;

/// What a command needs next.
pub enum Step {
    /// Nothing: this is its result.
    Done(TaskResult),
    /// Read from the device. Not begun yet, because its buffer counts against the session's memory.
    Read(ReadPlan),
    /// This much data from the initiator, then [`WritePlan::begin`].
    Write(WritePlan),
    /// Wait for the device.
    Run(Job),
}

/// A read that can be begun.
pub struct ReadPlan {
    unit: Arc<LogicalUnit>,
    at: ByteOffset,
    /// What is read: no more than the initiator expects.
    pub length: u64,
    transfer_length: u64,
}

/// A write that waits for its data.
pub struct WritePlan {
    unit: Arc<LogicalUnit>,
    at: ByteOffset,
    /// What the initiator sends.
    pub length: u32,
    transfer_length: u64,
    is_forced: bool,
}

/// A request that the device has.
pub enum Job {
    Read { answer: IoFuture<Bytes>, transfer_length: u64 },
    Write { answer: IoFuture<()>, transfer_length: u64 },
    Flush { answer: IoFuture<()> },
}

/// Decides what a command needs.
pub fn begin(target: &Target, attentions: &Attentions, command: &Command) -> Step {
    let operation = match command.cdb.parse() {
        Ok(operation) => operation,
        Err(error) => return Step::Done(Sense::from(error).into()),
    };
    let unit = command.lun.number().and_then(|number| target.unit(number));
    match unit {
        Some(unit) => match attention(attentions, unit.number, operation) {
            Some(result) => Step::Done(result),
            None => begin_on(target, unit, command, operation),
        },
        None => Step::Done(without_unit(target, operation)),
    }
}

/// What the initiator must be told before its command is carried out. INQUIRY and REPORT LUNS leave it for later, and
/// REQUEST SENSE asks for it (SAM-5 §5.14).
fn attention(attentions: &Attentions, unit: u16, operation: Operation) -> Option<TaskResult> {
    match operation {
        Operation::Inquiry { .. } | Operation::ReportLuns { .. } => None,
        Operation::RequestSense { descriptor, allocation } => {
            attentions.take(unit).map(|sense| request_sense(&sense, descriptor, allocation))
        }
        Operation::TestUnitReady
        | Operation::ReadCapacity10
        | Operation::ReadCapacity16 { .. }
        | Operation::ModeSense { .. }
        | Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::SynchronizeCache { .. } => attentions.take(unit).map(TaskResult::from),
    }
}

/// The commands that are answered for numbers without a unit too (SPC-4 §5.3, SAM-5 §4.7.3).
fn without_unit(target: &Target, operation: Operation) -> TaskResult {
    let not_supported = Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    match operation {
        Operation::ReportLuns { select, allocation } => report_luns(target, select, allocation),
        Operation::Inquiry { page: None, allocation } => cut(InquiryIdentity::nobody(), allocation),
        Operation::RequestSense { descriptor, allocation } => request_sense(&not_supported, descriptor, allocation),
        Operation::Inquiry { page: Some(_), .. }
        | Operation::TestUnitReady
        | Operation::ReadCapacity10
        | Operation::ReadCapacity16 { .. }
        | Operation::ModeSense { .. }
        | Operation::Read { .. }
        | Operation::Write { .. }
        | Operation::SynchronizeCache { .. } => not_supported.into(),
    }
}

fn begin_on(target: &Target, unit: &Arc<LogicalUnit>, command: &Command, operation: Operation) -> Step {
    let result = match operation {
        Operation::TestUnitReady => TaskResult::good(0),
        Operation::RequestSense { descriptor, allocation } => {
            request_sense(&Sense::new(SenseKey::NoSense, AdditionalSense::NONE), descriptor, allocation)
        }
        Operation::Inquiry { page: None, allocation } => cut(unit.profile().standard(), allocation),
        Operation::Inquiry { page: Some(page), allocation } => match inquiry_page(&unit.profile(), page) {
            Some(data) => cut(data, allocation),
            None => Sense::invalid_field(2).into(),
        },
        Operation::ReportLuns { select, allocation } => report_luns(target, select, allocation),
        Operation::ReadCapacity10 => TaskResult::data(unit.capacity().encode_short().to_vec()),
        Operation::ReadCapacity16 { allocation } => cut(unit.capacity().encode_long().to_vec(), allocation),
        Operation::ModeSense { long, no_block_descriptors, control, page, subpage, allocation } => {
            match mode_sense(&unit.mode_profile(), long, no_block_descriptors, control, page, subpage) {
                Ok(data) => cut(data, allocation),
                Err(sense) => sense.into(),
            }
        }
        Operation::Read { lba, blocks, force: _ } => return begin_read(unit, command, lba, blocks),
        Operation::Write { lba, blocks, force } => return begin_write(unit, command, lba, blocks, force),
        Operation::SynchronizeCache { lba, blocks, immediate: _ } => match check_range(unit, lba, blocks) {
            // The whole device is flushed, and waited for even with IMMED: both are more than was asked.
            Ok(_) => return Step::Run(Job::Flush { answer: unit.device.flush() }),
            Err(sense) => sense.into(),
        },
    };
    Step::Done(result)
}

/// The answer's position and length in bytes, if the blocks exist.
fn check_range(unit: &LogicalUnit, lba: u64, blocks: u32) -> Result<(ByteOffset, u64), Sense> {
    let capacity = unit.capacity();
    match lba.checked_add(u64::from(blocks)) {
        Some(end) if end <= capacity.blocks => {
            let block = u64::from(capacity.block_length);
            Ok((ByteOffset(lba * block), u64::from(blocks) * block))
        }
        _ => Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE)),
    }
}

fn check_transfer(unit: &LogicalUnit, lba: u64, blocks: u32) -> Result<(ByteOffset, u64), Sense> {
    if blocks > unit.transfer_blocks_max() {
        return Err(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB));
    }
    check_range(unit, lba, blocks)
}

fn begin_read(unit: &Arc<LogicalUnit>, command: &Command, lba: u64, blocks: u32) -> Step {
    let (at, transfer_length) = match check_transfer(unit, lba, blocks) {
        Ok(range) => range,
        Err(sense) => return Step::Done(sense.into()),
    };
    let expected = match command.direction {
        Direction::In | Direction::Both => u64::from(command.expected),
        Direction::None | Direction::Out => 0,
    };
    let block = u64::from(unit.device.geometry().sector);
    let length = transfer_length.min(expected.next_multiple_of(block));
    if length == 0 {
        return Step::Done(TaskResult::good(transfer_length));
    }
    // A read with FUA needs nothing more: our cache is never behind what was written.
    Step::Read(ReadPlan { unit: unit.clone(), at, length, transfer_length })
}

fn begin_write(unit: &Arc<LogicalUnit>, command: &Command, lba: u64, blocks: u32, is_forced: bool) -> Step {
    if unit.is_read_only {
        return Step::Done(Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED).into());
    }
    let (at, transfer_length) = match check_transfer(unit, lba, blocks) {
        Ok(range) => range,
        Err(sense) => return Step::Done(sense.into()),
    };
    let sends = match command.direction {
        Direction::Out | Direction::Both => command.expected,
        Direction::None | Direction::In => 0,
    };
    // Only whole blocks are written; what is missing shows as a residual overflow.
    let block = unit.device.geometry().sector;
    let whole = u64::from(sends / block * block).min(transfer_length);
    match u32::try_from(whole) {
        Ok(0) | Err(_) => Step::Done(TaskResult::good(transfer_length)),
        Ok(length) => Step::Write(WritePlan { unit: unit.clone(), at, length, transfer_length, is_forced }),
    }
}

impl ReadPlan {
    pub fn begin(self) -> Job {
        let answer = self.unit.device.read(self.at, ByteLen(self.length));
        Job::Read { answer, transfer_length: self.transfer_length }
    }
}

impl WritePlan {
    /// Writes the data, which is [`WritePlan::length`] bytes.
    pub fn begin(self, data: Vec<Bytes>) -> Job {
        let data = whole_blocks(data, self.unit.device.geometry().sector);
        let durability = self.unit.durability(self.is_forced);
        let answer = self.unit.device.write(self.at, data, durability);
        Job::Write { answer, transfer_length: self.transfer_length }
    }
}

impl Job {
    /// Asks the device whether it is done.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<TaskResult> {
        match self {
            Self::Read { answer, transfer_length } => Pin::new(answer).poll(context).map(|result| match result {
                Ok(data) => TaskResult { transfer_length: *transfer_length, ..TaskResult::data(data) },
                Err(error) => failure(&error, AdditionalSense::UNRECOVERED_READ_ERROR),
            }),
            Self::Write { answer, transfer_length } => Pin::new(answer).poll(context).map(|result| match result {
                Ok(()) => TaskResult::good(*transfer_length),
                Err(error) => failure(&error, AdditionalSense::WRITE_ERROR),
            }),
            Self::Flush { answer } => Pin::new(answer).poll(context).map(|result| match result {
                Ok(()) => TaskResult::good(0),
                Err(error) => failure(&error, AdditionalSense::WRITE_ERROR),
            }),
        }
    }
}

/// The device port takes buffers of whole sectors. Initiators cut data that way too, so this copies hardly ever.
fn whole_blocks(data: Vec<Bytes>, block: u32) -> Vec<Bytes> {
    if data.iter().all(|buffer| buffer.len() % block as usize == 0) {
        return data;
    }
    let mut joined = BytesMut::with_capacity(data.iter().map(Bytes::len).sum());
    for buffer in &data {
        joined.extend_from_slice(buffer);
    }
    vec![joined.freeze()]
}

fn request_sense(sense: &Sense, descriptor: bool, allocation: u32) -> TaskResult {
    let data = if descriptor { sense.encode_descriptor().to_vec() } else { sense.encode().to_vec() };
    cut(data, allocation)
}

fn report_luns(target: &Target, select: u8, allocation: u32) -> TaskResult {
    const WELL_KNOWN_ONLY: u8 = 1;
    match select {
        0 | 2 => cut(encode_luns(&target.unit_numbers()), allocation),
        WELL_KNOWN_ONLY => cut(encode_luns(&[]), allocation),
        _ => Sense::invalid_field(2).into(),
    }
}

/// Parameter data, cut to the allocation length.
fn cut(mut data: Vec<u8>, allocation: u32) -> TaskResult {
    data.truncate(allocation as usize);
    TaskResult::data(data)
}

fn failure(error: &BlockError, medium: AdditionalSense) -> TaskResult {
    tracing::warn!(%error, "the device refused a request");
    let sense = match error {
        BlockError::Misaligned { .. } | BlockError::OutOfRange { .. } => {
            Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE)
        }
        BlockError::ReadOnly => Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED),
        BlockError::NoSpace => Sense::new(SenseKey::DataProtect, AdditionalSense::SPACE_ALLOCATION_FAILED),
        BlockError::Fenced => return TaskResult::status(Status::ReservationConflict),
        BlockError::Unsupported { .. } => Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE),
        BlockError::Unavailable { .. } => Sense::new(SenseKey::NotReady, AdditionalSense::NOT_READY),
        BlockError::Io { .. } => Sense::new(SenseKey::MediumError, medium),
    };
    sense.into()
}
