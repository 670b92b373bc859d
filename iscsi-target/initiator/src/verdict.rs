//! What the target's answer to a command means: it worked, it is to be sent again, or it failed and how.
//!
//! [`judge`] is only for commands that may be sent again without harm; those that may not (COMPARE AND WRITE,
//! PERSISTENT RESERVE OUT) go through [`judge_once`].

use std::time::Duration;

use block_core::{BlockError, ByteLen, ByteOffset};
use bytes::Bytes;
use iscsi_target_proto::scsi::{AdditionalSense, Completion, Sense, SenseKey, Status};

/// What to do with a command that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It worked; with the data it returned.
    Done(Bytes),
    /// Send it again after this long.
    Again {
        after: Duration,
        what: String,
        attention: Attention,
    },
    Failed(BlockError),
}

/// What a unit attention was about, as far as it concerns us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    CapacityChanged,
    /// Another initiator has ended reservations or registrations; perhaps ours.
    Preempted,
    /// Anything else, or none.
    Other,
}

impl Attention {
    /// What sense data tell, whatever command they came with.
    pub fn of(sense: &Sense) -> Self {
        match sense.additional {
            AdditionalSense::CAPACITY_DATA_HAS_CHANGED => Self::CapacityChanged,
            AdditionalSense::RESERVATIONS_PREEMPTED | AdditionalSense::REGISTRATIONS_PREEMPTED => Self::Preempted,
            _ => Self::Other,
        }
    }
}

/// What the answer to a command that must not be done twice means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnceVerdict {
    Done(Bytes),
    /// COMPARE AND WRITE found other bytes; the offset of the first, if the unit tells.
    Differs(Option<u64>),
    Conflict,
    /// It was not carried out: the unit was busy. It may be sent again.
    NotNow {
        what: String,
    },
    /// It was not carried out: a unit attention came first. Whoever sends it again looks first.
    Attention {
        what: String,
    },
    /// Something of it may have been carried out.
    Unknown {
        what: String,
    },
    Failed(BlockError),
}

/// Judges the answer to a command that must not be done twice.
pub fn judge_once(completion: &Completion, at: ByteOffset, len: ByteLen) -> OnceVerdict {
    let sense = completion.sense.filter(|_| completion.status == Status::CheckCondition);
    match (completion.status, sense.map(|sense| sense.key)) {
        (Status::ReservationConflict, _) => OnceVerdict::Conflict,
        (Status::Busy | Status::TaskSetFull, _) => OnceVerdict::NotNow { what: "the unit is busy".to_owned() },
        (Status::TaskAborted, _) => OnceVerdict::Unknown { what: "another initiator aborted it".to_owned() },
        (_, Some(SenseKey::Miscompare)) => OnceVerdict::Differs(sense.and_then(|sense| sense.information)),
        (_, Some(SenseKey::UnitAttention)) => OnceVerdict::Attention { what: text_of(sense) },
        (_, Some(SenseKey::AbortedCommand)) => OnceVerdict::Unknown { what: text_of(sense) },
        (_, Some(SenseKey::NotReady)) => OnceVerdict::NotNow { what: text_of(sense) },
        _ => match judge(completion, at, len) {
            Verdict::Done(data) => OnceVerdict::Done(data),
            Verdict::Again { what, .. } => OnceVerdict::Unknown { what },
            Verdict::Failed(error) => OnceVerdict::Failed(error),
        },
    }
}

fn text_of(sense: Option<Sense>) -> String {
    sense.map_or_else(String::new, |sense| sense.to_string())
}

/// Judges an answer. `at` and `len` are the range that the command is about.
pub fn judge(completion: &Completion, at: ByteOffset, len: ByteLen) -> Verdict {
    let again = |after, what: &str| Verdict::Again { after, what: what.to_owned(), attention: Attention::Other };
    match completion.status {
        Status::Good | Status::ConditionMet => Verdict::Done(completion.data.clone()),
        Status::CheckCondition => match &completion.sense {
            Some(sense) => judge_sense(sense, completion, at, len),
            None => Verdict::Failed(io_error(at, "CHECK CONDITION without sense data")),
        },
        Status::Busy => again(BUSY_PAUSE, "the unit is busy"),
        Status::TaskSetFull => again(BUSY_PAUSE, "the unit's queue is full"),
        // Another initiator had it aborted. If that was a fence, the next answer is RESERVATION CONFLICT.
        Status::TaskAborted => again(Duration::ZERO, "another initiator aborted it"),
        Status::ReservationConflict => Verdict::Failed(BlockError::Fenced),
        Status::Other(status) => Verdict::Failed(io_error(at, &format!("SCSI status {status:#04x}"))),
    }
}

fn judge_sense(sense: &Sense, completion: &Completion, at: ByteOffset, len: ByteLen) -> Verdict {
    let again = |after| Verdict::Again { after, what: sense.to_string(), attention: Attention::of(sense) };
    match sense.key {
        SenseKey::NoSense | SenseKey::RecoveredError | SenseKey::Completed => Verdict::Done(completion.data.clone()),
        SenseKey::UnitAttention | SenseKey::AbortedCommand => again(Duration::ZERO),
        SenseKey::NotReady => again(NOT_READY_PAUSE),
        SenseKey::DataProtect if sense.additional == AdditionalSense::SPACE_ALLOCATION_FAILED => {
            Verdict::Failed(BlockError::NoSpace)
        }
        SenseKey::DataProtect if sense.additional == AdditionalSense::WRITE_PROTECTED => {
            Verdict::Failed(BlockError::ReadOnly)
        }
        SenseKey::IllegalRequest if sense.additional == AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED => {
            Verdict::Failed(BlockError::Unavailable { what: sense.to_string() })
        }
        SenseKey::IllegalRequest if sense.additional == AdditionalSense::INVALID_COMMAND_OPERATION_CODE => {
            Verdict::Failed(BlockError::Unsupported { operation: "this command" })
        }
        SenseKey::IllegalRequest if sense.additional == AdditionalSense::LBA_OUT_OF_RANGE => {
            Verdict::Failed(io_error(at, &format!("{len} lie beyond the unit's end")))
        }
        SenseKey::MediumError
        | SenseKey::HardwareError
        | SenseKey::IllegalRequest
        | SenseKey::DataProtect
        | SenseKey::BlankCheck
        | SenseKey::VendorSpecific
        | SenseKey::CopyAborted
        | SenseKey::Reserved
        | SenseKey::VolumeOverflow
        | SenseKey::Miscompare => Verdict::Failed(io_error(at, &sense.to_string())),
    }
}

/// A unit that is busy or full is asked again after this long.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// A unit that is not ready is asked again after this long.
const NOT_READY_PAUSE: Duration = Duration::from_millis(100);

fn io_error(at: ByteOffset, what: &str) -> BlockError {
    BlockError::Io { at, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, sense: Option<Sense>) -> Verdict {
        let completion = Completion { status, sense, data: Bytes::new(), residual: Default::default() };
        judge(&completion, ByteOffset(0), ByteLen(512))
    }

    #[test]
    fn a_conflict_is_a_fence_and_a_unit_attention_is_none() {
        assert_eq!(check(Status::ReservationConflict, None), Verdict::Failed(BlockError::Fenced));
        let attention = Sense::new(SenseKey::UnitAttention, AdditionalSense::POWER_ON_OR_RESET);
        assert!(matches!(check(Status::CheckCondition, Some(attention)), Verdict::Again { .. }));
        let grown = Sense::new(SenseKey::UnitAttention, AdditionalSense::CAPACITY_DATA_HAS_CHANGED);
        let verdict = check(Status::CheckCondition, Some(grown));
        assert!(matches!(verdict, Verdict::Again { attention: Attention::CapacityChanged, .. }));
    }

    #[test]
    fn each_kind_of_refusal_has_its_own_error() {
        let refused = |key, additional| check(Status::CheckCondition, Some(Sense::new(key, additional)));
        let no_space = refused(SenseKey::DataProtect, AdditionalSense::SPACE_ALLOCATION_FAILED);
        assert_eq!(no_space, Verdict::Failed(BlockError::NoSpace));
        let protected = refused(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED);
        assert_eq!(protected, Verdict::Failed(BlockError::ReadOnly));
        let medium = refused(SenseKey::MediumError, AdditionalSense::UNRECOVERED_READ_ERROR);
        assert!(matches!(medium, Verdict::Failed(BlockError::Io { .. })));
        assert!(matches!(check(Status::CheckCondition, None), Verdict::Failed(BlockError::Io { .. })));
    }

    #[test]
    fn what_must_not_be_done_twice_is_in_doubt_after_an_abort_and_not_after_a_refusal() {
        let once = |status, sense| {
            let completion = Completion { status, sense, data: Bytes::new(), residual: Default::default() };
            judge_once(&completion, ByteOffset(0), ByteLen(512))
        };
        let sense = |key| Some(Sense::new(key, AdditionalSense::NONE));
        assert!(matches!(once(Status::TaskAborted, None), OnceVerdict::Unknown { .. }));
        let aborted = once(Status::CheckCondition, sense(SenseKey::AbortedCommand));
        assert!(matches!(aborted, OnceVerdict::Unknown { .. }));
        assert!(matches!(once(Status::Busy, None), OnceVerdict::NotNow { .. }));
        let attention = once(Status::CheckCondition, sense(SenseKey::UnitAttention));
        assert!(matches!(attention, OnceVerdict::Attention { .. }));
        assert_eq!(once(Status::CheckCondition, sense(SenseKey::Miscompare)), OnceVerdict::Differs(None));
        assert_eq!(once(Status::ReservationConflict, None), OnceVerdict::Conflict);
    }
}
