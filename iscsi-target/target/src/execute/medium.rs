//! Commands that do more with the blocks than one read or write.
//!
//! Whatever writes holds the unit's gate while it does and looks at the reservations under it. What reads and then
//! writes holds the gate exclusively, so no other write comes between.

use std::sync::Arc;

use block_core::{BlockError, ByteLen, ByteOffset, Durability};
use bytes::{Bytes, BytesMut};
use iscsi_target_proto::scsi::{
    Access, AdditionalSense, ByteCheck, COMPARE_BLOCKS_MAX, LbaExtent, Sense, SenseKey, encode_lba_status, parse_unmap,
};
use iscsi_target_proto::target::{Command, TaskResult};

use super::{
    From, Step, check_range, check_transfer, check_writable, cut, failure, refusal, take, take_all, task, whole,
};
use crate::attention::Origin;
use crate::unit::LogicalUnit;

/// Read or written at once, in bytes: a multiple of every block length.
const PIECE: u64 = 1024 * 1024;
/// Extents that one GET LBA STATUS tells, at most.
const EXTENTS_MAX: usize = 64;

type Outcome = Result<TaskResult, BlockError>;

/// VERIFY.
pub fn verify(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    check: ByteCheck,
) -> Result<Step, Sense> {
    let (at, length) = check_transfer(unit, lba, blocks)?;
    let block = u64::from(unit.device.geometry().sector);
    let whole = u64::from(whole(unit, command, length));
    let wanted = match check {
        ByteCheck::Nothing => 0,
        ByteCheck::Each => whole,
        ByteCheck::One => whole.min(block),
    };
    if check == ByteCheck::One && wanted < block && blocks > 0 {
        return Err(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB));
    }
    let (length, transfer_length) = if check == ByteCheck::Each { (wanted, length) } else { (length, wanted) };
    let unit = unit.clone();
    take(from, command, wanted as u32, move |data| async move {
        let _place = unit.place_for_piece().await;
        let _gate = unit.gate.read().await;
        compare(&unit, at, length, &data).await.map(|result| done(result, transfer_length))
    })
}

/// WRITE AND VERIFY. The comparison is with what the device then reads.
pub fn write_verify(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    check: ByteCheck,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    let (at, transfer_length) = check_transfer(unit, lba, blocks)?;
    let length = whole(unit, command, transfer_length);
    let (unit, origin) = (unit.clone(), from.origin());
    take(from, command, length, move |data| async move {
        let _place = unit.place_for_piece().await;
        let _gate = unit.gate.read().await;
        if let Some(refused) = refusal(&unit, &origin, Access::Write) {
            return Ok(refused);
        }
        if !data.is_empty() {
            unit.device.write(at, vec![data.clone()], Durability::Forced).await?;
        }
        let data = if check == ByteCheck::Nothing { Bytes::new() } else { data };
        compare(&unit, at, u64::from(length), &data).await.map(|result| done(result, transfer_length))
    })
}

fn done(result: Result<(), Sense>, transfer_length: u64) -> TaskResult {
    match result {
        Ok(()) => TaskResult::good(transfer_length),
        Err(sense) => sense.into(),
    }
}

/// Reads a range and compares it with `expected` over and over; with nothing if that is empty.
async fn compare(
    unit: &LogicalUnit,
    at: ByteOffset,
    length: u64,
    expected: &[u8],
) -> Result<Result<(), Sense>, BlockError> {
    let mut position = 0;
    while position < length {
        let count = PIECE.min(length - position);
        let read = unit.device.read(ByteOffset(at.0 + position), ByteLen(count)).await;
        let read = match read {
            Ok(read) => read,
            Err(BlockError::Io { .. }) => {
                return Ok(Err(Sense::new(SenseKey::MediumError, AdditionalSense::UNRECOVERED_READ_ERROR)));
            }
            Err(error) => return Err(error),
        };
        if !expected.is_empty() {
            let from = (position % expected.len() as u64) as usize;
            let expected = expected[from..].iter().chain(expected.iter().cycle());
            if let Some(differs) = read.iter().zip(expected).position(|(a, b)| a != b) {
                return Ok(Err(miscompare(position + differs as u64)));
            }
        }
        position += count;
    }
    Ok(Ok(()))
}

/// `offset`: of the first byte that differs.
fn miscompare(offset: u64) -> Sense {
    let sense = Sense::new(SenseKey::Miscompare, AdditionalSense::MISCOMPARE_DURING_VERIFY);
    Sense { information: Some(offset), ..sense }
}

/// WRITE SAME. Blocks of zeroes take no space on a thin unit if UNMAP is asked for.
pub fn write_same(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    (lba, blocks): (u64, u32),
    unmap: bool,
    no_data: bool,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    let (at, _) = check_range(unit, lba, blocks)?;
    // A length of 0 is everything from there on. With UNMAP that frees it whatever the data is (see docs/scsi.md).
    let frees_all = unmap && blocks == 0;
    let blocks = if blocks == 0 { unit.capacity().blocks - lba } else { u64::from(blocks) };
    if blocks > u64::from(unit.profile().same_blocks_max) || unmap && !unit.is_thin {
        return Err(Sense::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB));
    }
    let block = u64::from(unit.device.geometry().sector);
    let length = blocks * block;
    let wanted = if no_data { 0 } else { block };
    let (unit, origin) = (unit.clone(), from.origin());
    take_all(from, command, wanted, move |data| async move {
        let _place = unit.place_for_piece().await;
        let _gate = unit.gate.read().await;
        if let Some(refused) = refusal(&unit, &origin, Access::Write) {
            return Ok(refused);
        }
        let is_zero = data.iter().all(|byte| *byte == 0);
        if frees_all || is_zero && unmap {
            release(&unit, at, length).await?;
        } else if is_zero {
            unit.device.write_zeroes(at, ByteLen(length)).await?;
        } else {
            let piece = Bytes::from(data.repeat((PIECE.min(length) / block) as usize));
            let mut position = 0;
            while position < length {
                let count = PIECE.min(length - position);
                let part = piece.slice(..count as usize);
                unit.device.write(ByteOffset(at.0 + position), vec![part], Durability::Cached).await?;
                position += count;
            }
        }
        if !unit.has_write_cache() {
            unit.device.flush().await?;
        }
        Ok(TaskResult::good(wanted))
    })
}

/// Frees the space of a range; it reads as zeroes afterwards. A file punches holes of whole pages and zeroes the rest.
async fn release(unit: &LogicalUnit, at: ByteOffset, length: u64) -> Result<(), BlockError> {
    match unit.device.discard(at, ByteLen(length)).await {
        // A block device may not promise zeroes, a file system may have no holes: then it must at least read so.
        Err(BlockError::Unsupported { .. }) => unit.device.write_zeroes(at, ByteLen(length)).await,
        other => other,
    }
}

/// UNMAP.
pub fn unmap(from: &From<'_>, unit: &Arc<LogicalUnit>, command: &Command, length: u32) -> Result<Step, Sense> {
    if !unit.is_thin {
        return Err(Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE));
    }
    check_writable(unit)?;
    let (unit, origin) = (unit.clone(), from.origin());
    take_all(from, command, u64::from(length), move |data| async move {
        let ranges = parse_unmap(&data).and_then(|ranges| {
            ranges.into_iter().map(|(lba, blocks)| check_range(&unit, lba, blocks)).collect::<Result<Vec<_>, _>>()
        });
        let ranges = match ranges {
            Ok(ranges) => ranges,
            Err(sense) => return Ok(sense.into()),
        };
        let _gate = unit.gate.read().await;
        if let Some(refused) = refusal(&unit, &origin, Access::Write) {
            return Ok(refused);
        }
        for (at, length) in ranges {
            release(&unit, at, length).await?;
        }
        if !unit.has_write_cache() {
            unit.device.flush().await?;
        }
        Ok(TaskResult::good(u64::from(length)))
    })
}

/// ORWRITE: the bits of the data are set in the blocks.
pub fn or_write(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    force: bool,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    let (at, length) = check_transfer(unit, lba, blocks)?;
    let (unit, origin) = (unit.clone(), from.origin());
    take_all(from, command, length, move |data| async move {
        exclusively(&unit, &origin, async {
            if length > 0 {
                let mut blocks = BytesMut::from(&unit.device.read(at, ByteLen(length)).await?[..]);
                blocks.iter_mut().zip(&data).for_each(|(byte, bits)| *byte |= bits);
                unit.device.write(at, vec![blocks.freeze()], unit.durability(force)).await?;
            }
            Ok(TaskResult::good(length))
        })
        .await
    })
}

/// COMPARE AND WRITE: the first half of the data is what must be there, the second what is written then.
pub fn compare_and_write(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    force: bool,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    if blocks > u32::from(COMPARE_BLOCKS_MAX) {
        return Err(Sense::invalid_field(13));
    }
    let (at, length) = check_range(unit, lba, blocks)?;
    let (unit, origin) = (unit.clone(), from.origin());
    take_all(from, command, 2 * length, move |mut expected| async move {
        let new = expected.split_off(length as usize);
        exclusively(&unit, &origin, async {
            if let Err(sense) = compare(&unit, at, length, &expected).await? {
                return Ok(sense.into());
            }
            if length > 0 {
                unit.device.write(at, vec![new], unit.durability(force)).await?;
            }
            Ok(TaskResult::good(2 * length))
        })
        .await
    })
}

/// WRITE ATOMIC: no other command sees or leaves half of it, and a loss of power neither.
pub fn write_atomic(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    lba: u64,
    blocks: u32,
    force: bool,
) -> Result<Step, Sense> {
    check_writable(unit)?;
    let (at, length) = check_range(unit, lba, blocks)?;
    if blocks > unit.atomic_blocks_max() {
        return Err(Sense::invalid_field(12));
    }
    let (unit, origin) = (unit.clone(), from.origin());
    take_all(from, command, length, move |data| async move {
        exclusively(&unit, &origin, async {
            match &unit.atomic {
                _ if length == 0 => {}
                Some(journal) if blocks > 1 => journal.write(&*unit.device, at, data).await?,
                _ => unit.device.write(at, vec![data], unit.durability(force)).await?,
            }
            Ok(TaskResult::good(length))
        })
        .await
    })
}

/// Does `work` while no other write is under way.
async fn exclusively(unit: &LogicalUnit, origin: &Origin, work: impl Future<Output = Outcome>) -> Outcome {
    let _gate = unit.gate.write().await;
    match refusal(unit, origin, Access::Write) {
        Some(refused) => Ok(refused),
        None => work.await,
    }
}

/// GET LBA STATUS.
pub fn lba_status(unit: &Arc<LogicalUnit>, lba: u64, allocation: u32) -> Result<Step, Sense> {
    let capacity = unit.capacity();
    if lba >= capacity.blocks {
        return Err(Sense::illegal_request(AdditionalSense::LBA_OUT_OF_RANGE));
    }
    let room = (allocation as usize).saturating_sub(8) / 16;
    let unit = unit.clone();
    Ok(task(async move {
        let block = u64::from(capacity.block_length);
        let mut extents: Vec<LbaExtent> = Vec::new();
        let mut next = lba;
        while next < capacity.blocks && extents.len() < room.clamp(1, EXTENTS_MAX) {
            let most = (capacity.blocks - next).min(u64::from(u32::MAX));
            let found = unit.device.extent(ByteOffset(next * block), ByteLen(most * block)).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => return Ok(failure(&error, AdditionalSense::UNRECOVERED_READ_ERROR)),
            };
            let blocks = (found.len.0 / block).clamp(1, most) as u32;
            extents.push(LbaExtent { lba: next, blocks, is_mapped: found.takes_space || !unit.is_thin });
            next += u64::from(blocks);
        }
        Ok(cut(encode_lba_status(&extents), allocation))
    }))
}
