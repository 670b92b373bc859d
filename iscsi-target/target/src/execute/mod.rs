//! What each command means for a logical unit.
//!
//! [`begin`] looks at a command and says what is to be done: an answer, data to wait for, or a job for the device. It
//! never waits and never touches the session. Reads and writes are here; what does more than one request to the device
//! is in the files below.

mod control;
mod copy;
mod medium;
mod reserve;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base::BoxFuture;
use block_core::{BlockError, ByteLen, ByteOffset, IoFuture};
use bytes::{Bytes, BytesMut};
use iscsi_target_proto::scsi::{
    Access, AdditionalSense, InquiryIdentity, Nexus, Operation, ReserveInAction, Sense, SenseKey, Status,
    copy_parameters, encode_luns, inquiry_page, log_page, mode_sense, report_opcodes, report_tmfs,
};
use iscsi_target_proto::target::{Command, Direction, TaskResult};
use tokio::sync::OwnedRwLockReadGuard;

pub use self::copy::CopyResults;
use crate::attention::{Attentions, Origin};
use crate::registry::Target;
use crate::unit::LogicalUnit;

/// Whose command it is.
pub struct From<'a> {
    pub target: &'a Arc<Target>,
    pub nexus: &'a Nexus,
    pub attentions: &'a Arc<Attentions>,
}

impl From<'_> {
    /// Of the task that begins now.
    fn origin(&self) -> Origin {
        Origin::new(self.nexus, self.attentions)
    }
}

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
    origin: Origin,
    at: ByteOffset,
    /// What is read: no more than the initiator expects.
    pub length: u64,
    transfer_length: u64,
}

/// A command that waits for its data.
pub enum WritePlan {
    Medium(MediumWrite),
    /// Any other: `length` bytes from the initiator, then this.
    Other {
        unit: Option<u16>,
        origin: Origin,
        length: u32,
        then: Box<dyn FnOnce(Vec<Bytes>) -> Job + Send>,
    },
}

/// A write that waits for its data.
pub struct MediumWrite {
    unit: Arc<LogicalUnit>,
    origin: Origin,
    at: ByteOffset,
    /// What the initiator sends.
    length: u32,
    transfer_length: u64,
    is_forced: bool,
}

/// A request that the device has.
pub enum Job {
    Read {
        answer: IoFuture<Bytes>,
        transfer_length: u64,
        /// The unit's gate, of a read that could see half of an atomic write.
        gate: Option<OwnedRwLockReadGuard<()>>,
    },
    Write {
        answer: IoFuture<()>,
        transfer_length: u64,
        /// The unit's gate; free before the answer is on its way.
        gate: Option<OwnedRwLockReadGuard<()>>,
    },
    Task(BoxFuture<'static, TaskResult>),
}

/// Decides what a command needs.
pub fn begin(from: &From<'_>, command: &Command) -> Step {
    let operation = match command.cdb.parse() {
        Ok(operation) => operation,
        Err(error) => return Step::Done(Sense::from(error).into()),
    };
    let Some(unit) = command.lun.number().and_then(|number| from.target.unit(number)) else {
        return Step::Done(without_unit(from.target, operation));
    };
    if let Some(result) = attention(from.attentions, unit.number, operation) {
        return Step::Done(result);
    }
    if unit.reservations.conflicts(from.nexus, access(operation)) {
        return Step::Done(TaskResult::status(Status::ReservationConflict));
    }
    begin_on(from, unit, command, operation)
}

/// What the initiator must be told before its command is carried out. INQUIRY and REPORT LUNS leave it for later, and
/// REQUEST SENSE asks for it (SAM-5 §5.14).
fn attention(attentions: &Attentions, unit: u16, operation: Operation) -> Option<TaskResult> {
    match operation {
        Operation::Inquiry { .. } | Operation::ReportLuns { .. } => None,
        Operation::RequestSense { descriptor, allocation } => {
            attentions.take(unit).map(|sense| request_sense(&sense, descriptor, allocation))
        }
        _ => attentions.take(unit).map(TaskResult::from),
    }
}

/// What reservations say about a command (SPC-4 table 65, SBC-3 table 13). MODE SENSE counts as reading, so that a node
/// can look at a unit before it registers.
fn access(operation: Operation) -> Access {
    use Operation::*;
    match operation {
        Inquiry { .. } | ReportLuns { .. } | RequestSense { .. } | Reserve6 | Release6 => Access::Free,
        TestUnitReady
        | ReadCapacity10
        | ReadCapacity16 { .. }
        | LogSense { .. }
        | ReserveIn { .. }
        | ReserveOut { .. }
        | ReportOpcodes { .. }
        | ReportTmfs { .. }
        | CopyParameters { .. }
        | CopyStatus { .. }
        | StartStop { start: true, .. }
        | PreventAllow { prevent: false } => Access::Harmless,
        GetLbaStatus { .. } | ModeSense { .. } | Read { .. } | Verify { .. } | Prefetch { .. } => Access::Read,
        Write { .. }
        | WriteAtomic { .. }
        | WriteVerify { .. }
        | WriteSame { .. }
        | Unmap { .. }
        | OrWrite { .. }
        | CompareAndWrite { .. }
        | SynchronizeCache { .. }
        | ModeSelect { .. }
        | StartStop { start: false, .. }
        | PreventAllow { prevent: true }
        | ExtendedCopy { .. } => Access::Write,
    }
}

/// The commands that are answered for numbers without a unit too (SPC-4 §5.3, SAM-5 §4.7.3).
fn without_unit(target: &Target, operation: Operation) -> TaskResult {
    let not_supported = Sense::illegal_request(AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    match operation {
        Operation::ReportLuns { select, allocation } => report_luns(target, select, allocation),
        Operation::Inquiry { page: None, allocation } => cut(InquiryIdentity::nobody(), allocation),
        Operation::RequestSense { descriptor, allocation } => request_sense(&not_supported, descriptor, allocation),
        _ => not_supported.into(),
    }
}

fn begin_on(from: &From<'_>, unit: &Arc<LogicalUnit>, command: &Command, operation: Operation) -> Step {
    let step = match operation {
        Operation::Read { lba, blocks, force: _ } => begin_read(from, unit, command, lba, blocks),
        Operation::Write { lba, blocks, force } => begin_write(from, unit, command, lba, blocks, force),
        Operation::SynchronizeCache { lba, blocks, immediate: _ } => check_range(unit, lba, blocks).map(|_| {
            // The whole device is flushed, and waited for even with IMMED: both are more than was asked.
            let answer = unit.device.flush();
            task(async move { answer.await.map(|()| TaskResult::good(0)) })
        }),
        Operation::WriteAtomic { lba, blocks, force } => medium::write_atomic(from, unit, command, lba, blocks, force),
        Operation::WriteVerify { lba, blocks, check } => medium::write_verify(from, unit, command, lba, blocks, check),
        Operation::Verify { lba, blocks, check } => medium::verify(from, unit, command, lba, blocks, check),
        Operation::WriteSame { lba, blocks, unmap, no_data } => {
            medium::write_same(from, unit, command, (lba, blocks), unmap, no_data)
        }
        Operation::Unmap { length } => medium::unmap(from, unit, command, length),
        Operation::OrWrite { lba, blocks, force } => medium::or_write(from, unit, command, lba, blocks, force),
        Operation::CompareAndWrite { lba, blocks, force } => {
            medium::compare_and_write(from, unit, command, lba, blocks, force)
        }
        Operation::Prefetch { lba, blocks } => {
            // A hint. The page cache reads what it needs; what is promised is that the blocks fit into it.
            check_range(unit, lba, blocks).map(|_| Step::Done(TaskResult::status(Status::ConditionMet)))
        }
        Operation::GetLbaStatus { lba, allocation } => medium::lba_status(unit, lba, allocation),
        Operation::ModeSelect { long, save, length } => control::mode_select(from, unit, command, long, save, length),
        Operation::StartStop { start, load_eject, power_condition } => {
            control::start_stop(unit, start, load_eject, power_condition)
        }
        Operation::ReserveOut { action, kind, length } => reserve::out(from, unit, command, action, kind, length),
        Operation::Reserve6 => reserve::six(from, unit, true),
        Operation::Release6 => reserve::six(from, unit, false),
        Operation::ExtendedCopy { length } => copy::extended_copy(from, unit, command, length),
        other => answer(from, unit, other).map(Step::Done),
    };
    step.unwrap_or_else(|sense| Step::Done(sense.into()))
}

/// Commands that only tell something.
fn answer(from: &From<'_>, unit: &Arc<LogicalUnit>, operation: Operation) -> Result<TaskResult, Sense> {
    let not_there = || Sense::invalid_field(2);
    Ok(match operation {
        Operation::RequestSense { descriptor, allocation } => {
            request_sense(&Sense::new(SenseKey::NoSense, AdditionalSense::NONE), descriptor, allocation)
        }
        Operation::Inquiry { page: None, allocation } => cut(unit.profile().standard(), allocation),
        Operation::Inquiry { page: Some(page), allocation } => {
            cut(inquiry_page(&unit.profile(), page).ok_or_else(not_there)?, allocation)
        }
        Operation::ReportLuns { select, allocation } => report_luns(from.target, select, allocation),
        Operation::ReadCapacity10 => TaskResult::data(unit.capacity().encode_short().to_vec()),
        Operation::ReadCapacity16 { allocation } => cut(unit.capacity().encode_long().to_vec(), allocation),
        Operation::ModeSense { long, no_block_descriptors, control, page, subpage, allocation } => {
            cut(mode_sense(&unit.mode_profile(), long, no_block_descriptors, control, page, subpage)?, allocation)
        }
        Operation::LogSense { page, subpage, allocation } => {
            cut(log_page(page, subpage).ok_or_else(not_there)?, allocation)
        }
        Operation::ReserveIn { action, allocation } => {
            let data = unit.reservations.read(|table| match action {
                ReserveInAction::ReadKeys => table.read_keys(),
                ReserveInAction::ReadReservation => table.read_reservation(),
                ReserveInAction::ReportCapabilities => table.report_capabilities(),
                ReserveInAction::ReadFullStatus => table.read_full_status(),
            });
            cut(data, allocation)
        }
        Operation::CopyParameters { allocation } => cut(copy_parameters(), allocation),
        Operation::CopyStatus { list, allocation } => {
            cut(unit.copies.status(from.nexus, list).ok_or_else(not_there)?, allocation)
        }
        Operation::ReportOpcodes { query, timeouts, allocation } => {
            cut(report_opcodes(query, timeouts, unit.is_thin).ok_or_else(not_there)?, allocation)
        }
        Operation::ReportTmfs { extended, allocation } => cut(report_tmfs(extended), allocation),
        // TEST UNIT READY, and PREVENT ALLOW MEDIUM REMOVAL: there is nothing that could be removed.
        _ => TaskResult::good(0),
    })
}

/// What a command is answered that may not be carried out any more, whatever it waited for.
fn refusal(unit: &LogicalUnit, origin: &Origin, access: Access) -> Option<TaskResult> {
    let status = if origin.is_aborted(unit.number) {
        Status::TaskAborted
    } else if unit.reservations.conflicts(&origin.nexus, access) {
        Status::ReservationConflict
    } else {
        return None;
    };
    Some(TaskResult::status(status))
}

/// The position and length in bytes, if the blocks exist.
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

fn check_writable(unit: &LogicalUnit) -> Result<(), Sense> {
    match unit.is_read_only {
        true => Err(Sense::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED)),
        false => Ok(()),
    }
}

/// What the initiator lets go to the target, in bytes.
fn sends(command: &Command) -> u32 {
    match command.direction {
        Direction::Out | Direction::Both => command.expected,
        Direction::None | Direction::In => 0,
    }
}

fn begin_read(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
) -> Result<Step, Sense> {
    let (at, transfer_length) = check_transfer(unit, lba, blocks)?;
    let expected = match command.direction {
        Direction::In | Direction::Both => u64::from(command.expected),
        Direction::None | Direction::Out => 0,
    };
    let block = u64::from(unit.device.geometry().sector);
    let length = transfer_length.min(expected.next_multiple_of(block));
    if length == 0 {
        return Ok(Step::Done(TaskResult::good(transfer_length)));
    }
    // A read with FUA needs nothing more: our cache is never behind what was written.
    Ok(Step::Read(ReadPlan { unit: unit.clone(), origin: from.origin(), at, length, transfer_length }))
}

fn begin_write(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    is_forced: bool,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    let (at, transfer_length) = check_transfer(unit, lba, blocks)?;
    let length = whole(unit, command, transfer_length);
    if length == 0 {
        return Ok(Step::Done(TaskResult::good(transfer_length)));
    }
    let (unit, origin) = (unit.clone(), from.origin());
    Ok(Step::Write(WritePlan::Medium(MediumWrite { unit, origin, at, length, transfer_length, is_forced })))
}

/// Only whole blocks are written; what is missing shows as a residual overflow.
fn whole(unit: &LogicalUnit, command: &Command, transfer_length: u64) -> u32 {
    let block = unit.device.geometry().sector;
    let whole = u64::from(sends(command) / block * block).min(transfer_length);
    whole as u32
}

/// A command that takes exactly `length` bytes: another number from the initiator is refused, because half of a list or
/// of a comparison is none. `work` has them in one piece.
fn take_all<W, F>(from: &From<'_>, command: &Command, length: u64, work: W) -> Result<Step, Sense>
where
    W: FnOnce(Bytes) -> F + Send + 'static,
    F: Future<Output = Result<TaskResult, BlockError>> + Send + 'static,
{
    match u64::from(sends(command)) == length {
        true => take(from, command, length as u32, work),
        false => Err(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB)),
    }
}

/// A command that takes the first `length` bytes of what the initiator sends.
fn take<W, F>(from: &From<'_>, command: &Command, length: u32, work: W) -> Result<Step, Sense>
where
    W: FnOnce(Bytes) -> F + Send + 'static,
    F: Future<Output = Result<TaskResult, BlockError>> + Send + 'static,
{
    if length == 0 {
        return Ok(task(work(Bytes::new())));
    }
    let then = Box::new(move |data| job(work(joined(data))));
    let (unit, origin) = (command.lun.number(), from.origin());
    Ok(Step::Write(WritePlan::Other { unit, origin, length, then }))
}

fn task(work: impl Future<Output = Result<TaskResult, BlockError>> + Send + 'static) -> Step {
    Step::Run(job(work))
}

/// Completes when every write that the unit's device has now is over.
pub fn writes_ended(unit: Arc<LogicalUnit>) -> Job {
    Job::Task(Box::pin(async move {
        drop(unit.gate.write().await);
        TaskResult::good(0)
    }))
}

/// A failure of the device is told as one of writing; [`medium`] tells those of reading itself.
fn job(work: impl Future<Output = Result<TaskResult, BlockError>> + Send + 'static) -> Job {
    Job::Task(Box::pin(async move { work.await.unwrap_or_else(|error| failure(&error, AdditionalSense::WRITE_ERROR)) }))
}

impl ReadPlan {
    /// Whether somebody else has ended the command.
    pub fn is_aborted(&self) -> bool {
        self.origin.is_aborted(self.unit.number)
    }

    pub fn begin(self) -> Job {
        // The device gives one block whole; only of several could some be read before an atomic write and some after.
        if self.length <= u64::from(self.unit.device.geometry().sector) {
            return self.start(None);
        }
        match self.unit.gate.clone().try_read_owned() {
            Ok(gate) => self.start(Some(gate)),
            Err(_) => Job::Task(Box::pin(async move {
                let gate = self.unit.gate.clone().read_owned().await;
                let mut job = self.start(Some(gate));
                std::future::poll_fn(|context| job.poll(context)).await
            })),
        }
    }

    fn start(self, gate: Option<OwnedRwLockReadGuard<()>>) -> Job {
        let answer = self.unit.device.read(self.at, ByteLen(self.length));
        Job::Read { answer, transfer_length: self.transfer_length, gate }
    }
}

impl WritePlan {
    /// Bytes that the initiator is to send; not 0.
    pub fn length(&self) -> u32 {
        match self {
            Self::Medium(write) => write.length,
            Self::Other { length, .. } => *length,
        }
    }

    /// Whether somebody else has ended the command.
    pub fn is_aborted(&self) -> bool {
        match self {
            Self::Medium(write) => write.origin.is_aborted(write.unit.number),
            Self::Other { unit, origin, .. } => unit.is_some_and(|unit| origin.is_aborted(unit)),
        }
    }

    /// Goes on with the data, which is [`WritePlan::length`] bytes.
    pub fn begin(self, data: Vec<Bytes>) -> Job {
        match self {
            Self::Other { then, .. } => then(data),
            Self::Medium(write) => match write.unit.gate.clone().try_read_owned() {
                Ok(gate) => write.begin(data, gate),
                Err(_) => Job::Task(Box::pin(async move {
                    let gate = write.unit.gate.clone().read_owned().await;
                    let mut job = write.begin(data, gate);
                    std::future::poll_fn(|context| job.poll(context)).await
                })),
            },
        }
    }
}

impl MediumWrite {
    /// Reservations may have changed while the data was on its way.
    fn begin(self, data: Vec<Bytes>, gate: OwnedRwLockReadGuard<()>) -> Job {
        if let Some(refused) = refusal(&self.unit, &self.origin, Access::Write) {
            return Job::Task(Box::pin(async { refused }));
        }
        let data = whole_blocks(data, self.unit.device.geometry().sector);
        let durability = self.unit.durability(self.is_forced);
        let answer = self.unit.device.write(self.at, data, durability);
        Job::Write { answer, transfer_length: self.transfer_length, gate: Some(gate) }
    }
}

impl Job {
    /// Asks the device whether it is done.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<TaskResult> {
        Poll::Ready(match self {
            Self::Read { answer, transfer_length, gate } => {
                let result = ready!(Pin::new(answer).poll(context));
                drop(gate.take());
                match result {
                    Ok(data) => TaskResult { transfer_length: *transfer_length, ..TaskResult::data(data) },
                    Err(error) => failure(&error, AdditionalSense::UNRECOVERED_READ_ERROR),
                }
            }
            Self::Write { answer, transfer_length, gate } => {
                let result = ready!(Pin::new(answer).poll(context));
                drop(gate.take());
                match result {
                    Ok(()) => TaskResult::good(*transfer_length),
                    Err(error) => failure(&error, AdditionalSense::WRITE_ERROR),
                }
            }
            Self::Task(work) => ready!(work.as_mut().poll(context)),
        })
    }
}

/// The device port takes buffers of whole sectors. Initiators cut data that way too, so this copies hardly ever.
fn whole_blocks(data: Vec<Bytes>, block: u32) -> Vec<Bytes> {
    if data.iter().all(|buffer| buffer.len() % block as usize == 0) {
        return data;
    }
    vec![joined(data)]
}

fn joined(mut data: Vec<Bytes>) -> Bytes {
    if data.len() == 1 {
        return data.swap_remove(0);
    }
    let mut joined = BytesMut::with_capacity(data.iter().map(Bytes::len).sum());
    for buffer in &data {
        joined.extend_from_slice(buffer);
    }
    joined.freeze()
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
