//! Commands about the unit rather than its blocks.

use std::sync::Arc;

use iscsi_target_proto::scsi::{AdditionalSense, Sense, mode_select as parse_mode_select};
use iscsi_target_proto::target::{Command, TaskResult};

use super::{From, Step, take_all, task};
use crate::unit::LogicalUnit;

/// MODE SELECT: the write cache can be switched, until the next start.
pub fn mode_select(
    from: &From<'_>,
    unit: &Arc<LogicalUnit>,
    command: &Command,
    long: bool,
    save: bool,
    length: u32,
) -> Result<Step, Sense> {
    if save {
        return Err(Sense::invalid_field(1));
    }
    let (unit, target, nexus) = (unit.clone(), from.target.clone(), from.nexus.clone());
    take_all(from, command, u64::from(length), move |data| async move {
        // No write is under way that counts on the cache.
        let _gate = unit.gate.write().await;
        let change = match parse_mode_select(&unit.mode_profile(), long, &data) {
            Ok(change) => change,
            Err(sense) => return Ok(sense.into()),
        };
        if let Some(is_on) = change.write_cache.filter(|is_on| *is_on != unit.has_write_cache()) {
            unit.set_write_cache(is_on);
            if !is_on {
                unit.device.flush().await?;
            }
            target.raise_attention(unit.number, AdditionalSense::MODE_PARAMETERS_CHANGED, Some(&nexus));
        }
        Ok(TaskResult::good(u64::from(length)))
    })
}

/// START STOP UNIT. The unit is shared, so nobody can stop it for the others: a stop makes everything durable.
pub fn start_stop(unit: &Arc<LogicalUnit>, start: bool, load_eject: bool, power_condition: u8) -> Result<Step, Sense> {
    if load_eject || power_condition != 0 {
        return Err(Sense::invalid_field(4));
    }
    if start || unit.is_read_only {
        return Ok(Step::Done(TaskResult::good(0)));
    }
    let answer = unit.device.flush();
    Ok(task(async move { answer.await.map(|()| TaskResult::good(0)) }))
}
