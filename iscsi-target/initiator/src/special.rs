//! What a unit can do besides reading and writing: zeroes, discards, compare-and-write and persistent reservations.
//!
//! COMPARE AND WRITE and PERSISTENT RESERVE OUT are never repeated after they may have been carried out; what the
//! caller gets then is `Unknown`. They are sent again only when the unit said that it has not begun.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_core::{
    BlockError, ByteLen, ByteOffset, Compared, HeldReservation, RegisteredKeys, ReservationChange, ReservationOutcome,
    ReservationStatus,
};
use bytes::Bytes;
use iscsi_target_proto::scsi::ScsiCommand;

use crate::command::{self, ReserveIn};
use crate::queue::{Once, OnceAnswer, Role};
use crate::verdict::{OnceVerdict, judge_once};
use crate::way::{Way, all_settled, gone, settled};

impl Way {
    /// Zeroes by WRITE SAME, or as data where the unit does not know it.
    pub async fn make_zeroes(self: Arc<Self>, at: ByteOffset, len: ByteLen) -> Result<(), BlockError> {
        if self.can_write_same.load(Ordering::Relaxed) {
            match all_settled(self.write_same(at, len)).await {
                Err(BlockError::Unsupported { .. }) => self.can_write_same.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        all_settled(self.write_zero_data(at, len)).await
    }

    /// One step of compare and write.
    pub async fn compare_and_write(
        self: Arc<Self>,
        at: ByteOffset,
        expected: Bytes,
        new: Bytes,
    ) -> Result<Compared, BlockError> {
        let len = ByteLen::of(&expected);
        if len > self.unit.compare_max {
            return Err(BlockError::Unsupported { operation: "compare and write of so many blocks at once" });
        }
        // A write that is kept could be sent again after a reconnection, over what this puts there.
        if self.shared.with(|core| core.has_kept(at, len)) {
            settled(self.shared.submit_flush(ScsiCommand::synchronize_cache_16(self.lun))).await?;
        }
        let sector = u64::from(self.unit.sector);
        let blocks = u8::try_from(len.0 / sector).unwrap_or(u8::MAX);
        let command = command::compare_and_write(self.lun, at.0 / sector, blocks, expected, new);
        for _ in 0..ATTEMPTS_MAX {
            match self.once(command.clone(), Once::CompareAndWrite { at, len }).await? {
                None => return Ok(Compared::Unknown { what: LOST.to_owned() }),
                Some(OnceVerdict::Done(_)) => return Ok(Compared::Written),
                Some(OnceVerdict::Differs(byte)) => {
                    return Ok(Compared::Differs { at: at + ByteLen(byte.unwrap_or(0).min(len.0)) });
                }
                Some(OnceVerdict::Conflict) => return Err(BlockError::Fenced),
                Some(OnceVerdict::Unknown { what }) => return Ok(Compared::Unknown { what }),
                Some(OnceVerdict::Failed(error)) => return Err(error),
                // Not begun, and what it compares with decides whether it may still be done.
                Some(OnceVerdict::NotNow { .. } | OnceVerdict::Attention { .. }) => {
                    tokio::time::sleep(ATTEMPT_PAUSE).await;
                }
            }
        }
        Err(BlockError::Unavailable { what: "the unit stays busy".to_owned() })
    }

    /// One change of the reservations.
    pub async fn change_reservation(
        self: Arc<Self>,
        change: ReservationChange,
    ) -> Result<ReservationOutcome, BlockError> {
        let command = command::reserve_out(self.lun, &change);
        for _ in 0..ATTEMPTS_MAX {
            match self.once(command.clone(), Once::Reservation(change)).await? {
                None => return Ok(ReservationOutcome::Unknown { what: LOST.to_owned() }),
                Some(OnceVerdict::Done(_)) => return Ok(ReservationOutcome::Done),
                Some(OnceVerdict::Conflict) => return Ok(ReservationOutcome::Conflict),
                // It may tell of a fence, and nothing registers again behind the caller's back.
                Some(OnceVerdict::Unknown { what } | OnceVerdict::Attention { what }) => {
                    return Ok(ReservationOutcome::Unknown { what });
                }
                Some(OnceVerdict::Failed(error)) => return Err(error),
                Some(OnceVerdict::Differs(_)) => {
                    return Err(BlockError::Io {
                        at: ByteOffset(0),
                        what: "an answer that has no sense here".to_owned(),
                    });
                }
                Some(OnceVerdict::NotNow { .. }) => tokio::time::sleep(ATTEMPT_PAUSE).await,
            }
        }
        Err(BlockError::Unavailable { what: "the unit stays busy".to_owned() })
    }

    pub async fn reservation_keys(self: Arc<Self>) -> Result<RegisteredKeys, BlockError> {
        self.query(ReserveIn::Keys, command::parse_keys).await
    }

    pub async fn reservation(self: Arc<Self>) -> Result<HeldReservation, BlockError> {
        self.query(ReserveIn::Reservation, command::parse_reservation).await
    }

    pub async fn reservation_status(self: Arc<Self>) -> Result<ReservationStatus, BlockError> {
        self.query(ReserveIn::FullStatus, command::parse_status).await
    }

    async fn query<T>(&self, action: ReserveIn, parse: fn(&[u8]) -> Option<T>) -> Result<T, BlockError> {
        let data = settled(self.shared.submit_one(command::reserve_in(self.lun, action), Role::Query)).await?;
        let what = || format!("its answer about reservations ({action:?}, {} bytes) makes no sense", data.len());
        parse(&data).ok_or_else(|| BlockError::Io { at: ByteOffset(0), what: what() })
    }

    /// `None`: the connection was lost after the command was sent.
    async fn once(&self, command: ScsiCommand, once: Once) -> Result<Option<OnceVerdict>, BlockError> {
        let (at, len) = match once {
            Once::CompareAndWrite { at, len } => (at, len),
            Once::Reservation(_) => (ByteOffset(0), ByteLen(0)),
        };
        match self.shared.submit_once(command, once).await.ok_or_else(gone)? {
            OnceAnswer::Completed(completion) => Ok(Some(judge_once(&completion, at, len))),
            OnceAnswer::Refused(error) => Err(error),
            OnceAnswer::Lost => Ok(None),
        }
    }
}

const LOST: &str = "the connection was lost while it was under way";

/// A unit that has not begun is asked again so often.
const ATTEMPTS_MAX: u32 = 1000;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(5);
