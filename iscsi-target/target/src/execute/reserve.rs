//! Commands that change reservations.
//!
//! A change waits until no write is under way and lets none begin before it counts: after its answer nothing lands of
//! those whom it shut out. PREEMPT AND ABORT also ends whatever the preempted have waiting, be it for data, for memory or for the
//! unit's gate, even where no reservation is left that their writes would conflict with.

use std::sync::Arc;

use iscsi_target_proto::scsi::{
    AdditionalSense, Refusal, ReserveKind, ReserveOutAction, ReserveOutList, Sense, Status,
};
use iscsi_target_proto::target::{Command, TaskResult};

use super::{From, Step, take_all, task};
use crate::unit::LogicalUnit;

/// Longest parameter list, in bytes.
const LIST_MAX: u32 = 4096;

/// PERSISTENT RESERVE OUT.
pub fn out(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    action: ReserveOutAction,
    kind: Option<ReserveKind>,
    length: u32,
) -> Result<Step, Sense> {
    if length > LIST_MAX {
        return Err(Sense::illegal_request(AdditionalSense::PARAMETER_LIST_LENGTH_ERROR));
    }
    let (unit, target, origin) = (unit.clone(), from.target.clone(), from.origin());
    take_all(from, command, u64::from(length), move |data| async move {
        let list = match ReserveOutList::parse(action, &data) {
            Ok(list) => list,
            Err(sense) => return Ok(sense.into()),
        };
        let _gate = unit.gate.write().await;
        if origin.is_aborted(unit.number) {
            return Ok(TaskResult::status(Status::TaskAborted));
        }
        // It waits for the disk on the connection's own thread: nobody else's commands wait with it, but for the gate.
        let change = unit
            .reservations
            .change(|table| table.apply(&origin.nexus, action, kind, &list, |initiator| target.ports_of(initiator)));
        Ok(match change {
            Ok(outcome) => {
                for (whom, what) in outcome.attentions {
                    target.raise_attention_of(&whom, unit.number, what);
                }
                for whom in &outcome.aborted {
                    target.abort_tasks_of(whom, unit.number);
                    tracing::info!(initiator = %whom.initiator, lun = unit.number, "shut out by PREEMPT AND ABORT");
                }
                TaskResult::good(u64::from(length))
            }
            Err(refusal) => refused(refusal),
        })
    })
}

/// RESERVE (6) and RELEASE (6).
pub fn six(from: &From<'_>, unit: &Arc<LogicalUnit>, is_reserve: bool) -> Result<Step, Sense> {
    let (unit, origin) = (unit.clone(), from.origin());
    Ok(task(async move {
        let _gate = unit.gate.write().await;
        if origin.is_aborted(unit.number) {
            return Ok(TaskResult::status(Status::TaskAborted));
        }
        let result = unit.reservations.change(|table| match is_reserve {
            true => table.reserve_6(&origin.nexus),
            false => table.release_6(&origin.nexus),
        });
        Ok(result.map_or_else(refused, |()| TaskResult::good(0)))
    }))
}

fn refused(refusal: Refusal) -> TaskResult {
    match refusal {
        Refusal::Conflict => TaskResult::status(Status::ReservationConflict),
        Refusal::Sense(sense) => sense.into(),
    }
}
