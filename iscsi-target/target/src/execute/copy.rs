//! EXTENDED COPY between the units of one target, and what RECEIVE COPY RESULTS tells about it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use block_core::{BlockError, ByteLen, ByteOffset};
use iscsi_target_proto::scsi::{
    Access, AdditionalSense, Amount, COPY_LIST_MAX, Nexus, SEGMENT_BYTES_MAX, Segment, Sense, Status, copy_aborted,
    copy_status, parse_copy,
};
use iscsi_target_proto::target::{Command, TaskResult};

use super::{From, Step, refusal, take_all};
use crate::attention::Origin;
use crate::unit::LogicalUnit;

/// Results that are kept of one unit.
const RESULTS_MAX: usize = 64;
/// Copied at once, in bytes: a multiple of every block length.
const PIECE: u64 = 1024 * 1024;

/// How the last copies ended, oldest first.
#[derive(Default)]
pub struct CopyResults {
    ended: Mutex<VecDeque<Ended>>,
}

struct Ended {
    nexus: Nexus,
    list: u8,
    is_good: bool,
    segments: u16,
}

impl CopyResults {
    /// The status of a copy; once, as the standard has it.
    pub fn status(&self, nexus: &Nexus, list: u8) -> Option<Vec<u8>> {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let index = all.iter().position(|ended| ended.list == list && ended.nexus == *nexus)?;
        all.remove(index).map(|ended| copy_status(ended.is_good, ended.segments))
    }

    fn add(&self, ended: Ended) {
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.list != ended.list || other.nexus != ended.nexus);
        if all.len() >= RESULTS_MAX {
            all.pop_front();
        }
        all.push_back(ended);
    }
}

/// EXTENDED COPY (LID1). A status other than GOOD or CHECK CONDITION never leaves the copy half told.
pub fn extended_copy(from: &From<'_>, unit: &Arc<LogicalUnit>, command: &Command, length: u32) -> Result<Step, Sense> {
    if length > COPY_LIST_MAX {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    let (unit, target, origin) = (unit.clone(), from.target.clone(), from.origin());
    take_all(from, command, u64::from(length), move |data| async move {
        if data.is_empty() {
            return Ok(TaskResult::good(0));
        }
        let copy = match parse_copy(&data) {
            Ok(copy) => copy,
            Err(sense) => return Ok(sense.into()),
        };
        let units: Vec<_> = copy.units.iter().map(|naa| naa.and_then(|naa| target.unit_by_naa(naa)).cloned()).collect();
        let mut result = TaskResult::good(u64::from(length));
        let mut segments = 0;
        for segment in &copy.segments {
            let unit_of = |index: u16| units.get(usize::from(index)).cloned().flatten();
            let ended = match (unit_of(segment.source), unit_of(segment.destination)) {
                (Some(source), Some(destination)) => copy_segment(&source, &destination, segment, &origin).await,
                _ => Ok(Err(copy_aborted(AdditionalSense::UNREACHABLE_COPY_TARGET).into())),
            };
            match ended {
                Ok(Ok(())) => segments += 1,
                Ok(Err(refused)) => {
                    result = refused;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "a copy was ended by its device");
                    result = copy_aborted(AdditionalSense::NONE).into();
                    break;
                }
            }
        }
        if let Some(list) = copy.list {
            let nexus = origin.nexus;
            unit.copies.add(Ended { nexus, list, is_good: result.status == Status::Good, segments });
        }
        Ok(result)
    })
}

/// The ranges of a segment in bytes: source, destination, length. `None` if it does not fit.
fn ranges(source: &LogicalUnit, destination: &LogicalUnit, segment: &Segment) -> Option<(u64, u64, u64)> {
    let (from, to) = (source.capacity(), destination.capacity());
    let (length, skip, skip_to) = match segment.amount {
        Amount::Blocks { count, of_destination } => {
            let block = if of_destination { to.block_length } else { from.block_length };
            (u64::from(count) * u64::from(block), 0, 0)
        }
        Amount::Bytes { count, source_offset, destination_offset } => {
            (u64::from(count), u64::from(source_offset), u64::from(destination_offset))
        }
    };
    let place = |lba: u64, skip: u64, capacity: &iscsi_target_proto::scsi::Capacity| {
        let block = u64::from(capacity.block_length);
        let at = lba.checked_mul(block)?.checked_add(skip)?;
        let fits = at.checked_add(length)? <= capacity.blocks.checked_mul(block)?;
        (fits && at.is_multiple_of(block) && length.is_multiple_of(block)).then_some(at)
    };
    let at = place(segment.source_lba, skip, &from)?;
    let to = place(segment.destination_lba, skip_to, &to)?;
    (length <= u64::from(SEGMENT_BYTES_MAX)).then_some((at, to, length))
}

async fn copy_segment(
    source: &LogicalUnit,
    destination: &LogicalUnit,
    segment: &Segment,
    origin: &Origin,
) -> Result<Result<(), TaskResult>, BlockError> {
    let Some((at, to, length)) = ranges(source, destination, segment) else {
        return Ok(Err(copy_aborted(AdditionalSense::NONE).into()));
    };
    if destination.is_read_only {
        return Ok(Err(copy_aborted(AdditionalSense::WRITE_PROTECTED).into()));
    }
    // Where the ranges overlap within one unit, the end goes first if that is what keeps the source intact.
    let backwards = source.number == destination.number && to > at;
    let mut copied = 0;
    while copied < length {
        let count = PIECE.min(length - copied);
        let offset = if backwards { length - copied - count } else { copied };
        let _place = destination.place_for_piece().await;
        let _gate = destination.gate.read().await;
        let data = source.device.read(ByteOffset(at + offset), ByteLen(count)).await?;
        let refused = refusal(source, origin, Access::Read).or_else(|| refusal(destination, origin, Access::Write));
        if let Some(refused) = refused {
            return Ok(Err(refused));
        }
        destination.device.write(ByteOffset(to + offset), vec![data], destination.durability(false)).await?;
        copied += count;
    }
    Ok(Ok(()))
}
