//! The way to one unit: how requests become commands of the size that the unit takes, and how their answers come back.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use block_core::completion::Completion as Answer;
use block_core::{BlockError, ByteLen, ByteOffset, Durability};
use bytes::Bytes;
use iscsi_target_proto::scsi::ScsiCommand;

use crate::command;
use crate::probe::Unit;
use crate::queue::{Role, Shared};

/// A unit and the table of its requests.
pub struct Way {
    pub lun: u16,
    pub unit: Unit,
    pub shared: Arc<Shared>,
    /// Whether the unit knows WRITE SAME, as far as we have seen.
    pub can_write_same: AtomicBool,
}

/// An answer that comes later.
pub type Pending = Answer<Result<Bytes, BlockError>>;

impl Way {
    /// Most bytes of one read or write, in whole sectors.
    pub fn transfer_max(&self) -> ByteLen {
        self.whole_sectors(self.unit.transfer_max)
    }

    pub fn read_command(&self, at: ByteOffset, len: ByteLen) -> (ScsiCommand, Role) {
        let sector = u64::from(self.unit.sector);
        let command = ScsiCommand::read_16(self.lun, at.0 / sector, (len.0 / sector) as u32, self.unit.sector)
            .expect("invariant: a piece is shorter than 4 GiB");
        (command, Role::Read { at, len })
    }

    pub fn write_command(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> (ScsiCommand, Role) {
        let len = length(&data);
        let lba = at.0 / u64::from(self.unit.sector);
        let force = durability == Durability::Forced && self.unit.has_write_cache;
        let command = ScsiCommand::write_16(self.lun, lba, data, self.unit.sector, force)
            .expect("invariant: a piece is whole sectors and shorter than 4 GiB");
        (command, Role::Write { at, len, durability })
    }

    /// Writes of any length, in pieces.
    pub fn write(&self, at: ByteOffset, data: Vec<Bytes>, durability: Durability) -> Vec<Pending> {
        let pieces = split(data, self.transfer_max()).into_iter().scan(at, |at, piece| {
            let begin = *at;
            *at = begin + length(&piece);
            Some(self.write_command(begin, piece, durability))
        });
        self.shared.submit(pieces.collect())
    }

    /// Zeroes of any length, without sending them.
    pub fn write_same(&self, at: ByteOffset, len: ByteLen) -> Vec<Pending> {
        let sector = u64::from(self.unit.sector);
        let pieces = pieces(at, len, self.whole_sectors(self.unit.write_same_max)).map(|(at, len)| {
            let (lba, blocks) = (at.0 / sector, (len.0 / sector) as u32);
            (command::write_zeroes(self.lun, lba, blocks, self.unit.sector, false), Role::Zero { at, len })
        });
        self.shared.submit(pieces.collect())
    }

    /// Zeroes of any length, as data.
    pub fn write_zero_data(&self, at: ByteOffset, len: ByteLen) -> Vec<Pending> {
        static ZEROES: [u8; 65536] = [0; 65536];
        let part = |done: u64| Bytes::from_static(&ZEROES[..(len.0 - done).min(ZEROES.len() as u64) as usize]);
        self.write(at, (0..len.0).step_by(ZEROES.len()).map(part).collect(), Durability::Cached)
    }

    /// Says that bytes are not needed; `most` is the unit's limit.
    pub fn unmap(&self, at: ByteOffset, len: ByteLen, most: ByteLen) -> Vec<Pending> {
        let sector = u64::from(self.unit.sector);
        let pieces = pieces(at, len, self.whole_sectors(most)).map(|(at, len)| {
            (command::unmap(self.lun, at.0 / sector, (len.0 / sector) as u32), Role::Discard { at, len })
        });
        self.shared.submit(pieces.collect())
    }

    fn whole_sectors(&self, most: ByteLen) -> ByteLen {
        let sector = u64::from(self.unit.sector);
        ByteLen((most.0 / sector).max(1) * sector)
    }
}

/// Waits for one answer.
pub async fn settled(answer: Pending) -> Result<Bytes, BlockError> {
    answer.await.unwrap_or_else(|| Err(gone()))
}

/// Waits for all of them, as an answer must not come while a part is still under way; gives the first error.
pub async fn all_settled(answers: Vec<Pending>) -> Result<(), BlockError> {
    let mut result = Ok(());
    for answer in answers {
        result = result.and(settled(answer).await.map(drop));
    }
    result
}

/// The error when nobody is left to answer.
pub fn gone() -> BlockError {
    BlockError::Unavailable { what: "the connection's task has ended".to_owned() }
}

/// Cuts a range into pieces of at most `most` bytes.
pub fn pieces(at: ByteOffset, len: ByteLen, most: ByteLen) -> impl Iterator<Item = (ByteOffset, ByteLen)> {
    let end = at.0 + len.0;
    (at.0..end).step_by(most.0 as usize).map(move |at| (ByteOffset(at), ByteLen(most.0.min(end - at))))
}

/// Bytes of all buffers together.
pub fn length(data: &[Bytes]) -> ByteLen {
    ByteLen(data.iter().map(|part| part.len() as u64).sum())
}

/// Cuts buffers into pieces of exactly `most` bytes each; the last may be shorter.
fn split(data: Vec<Bytes>, most: ByteLen) -> Vec<Vec<Bytes>> {
    let mut pieces = vec![Vec::new()];
    let mut room = most.0 as usize;
    for mut part in data {
        while !part.is_empty() {
            if room == 0 {
                pieces.push(Vec::new());
                room = most.0 as usize;
            }
            let now = part.split_to(room.min(part.len()));
            room -= now.len();
            if let Some(piece) = pieces.last_mut() {
                piece.push(now);
            }
        }
    }
    pieces
}
