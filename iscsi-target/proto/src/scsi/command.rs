//! Commands as an initiator builds them, and their results.

use bytes::Bytes;

use super::cdb::Cdb;
use super::sense::Sense;
use super::status::Status;
use crate::pdu::Residual;

/// Which way a command's data goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPhase {
    None,
    /// To the initiator: at most this many bytes.
    In {
        length: u32,
    },
    /// To the target: these buffers one after the other. Together less than 4 GiB.
    Out {
        buffers: Vec<Bytes>,
    },
}

/// A command for one logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScsiCommand {
    pub lun: u16,
    pub cdb: Cdb,
    pub data: DataPhase,
}

/// How a command ended, as the target answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub status: Status,
    /// With CHECK CONDITION, unless the target sent something that is not sense data.
    pub sense: Option<Sense>,
    /// What a command with [`DataPhase::In`] returned; shorter than asked for if the residual is an underflow.
    pub data: Bytes,
    pub residual: Residual,
}

impl Completion {
    /// Whether the command succeeded.
    pub fn is_good(&self) -> bool {
        self.status == Status::Good
    }
}

/// Largest INQUIRY and REPORT LUNS data that is asked for, in bytes.
const SMALL_ALLOCATION: u16 = 4096;

impl ScsiCommand {
    fn without_data(lun: u16, cdb: Cdb) -> Self {
        Self { lun, cdb, data: DataPhase::None }
    }

    fn reading(lun: u16, cdb: Cdb, length: u32) -> Self {
        Self { lun, cdb, data: DataPhase::In { length } }
    }

    pub fn test_unit_ready(lun: u16) -> Self {
        Self::without_data(lun, Cdb::test_unit_ready())
    }

    /// Standard INQUIRY data, or the vital product data page `page`.
    pub fn inquiry(lun: u16, page: Option<u8>) -> Self {
        Self::reading(lun, Cdb::inquiry(page, SMALL_ALLOCATION), u32::from(SMALL_ALLOCATION))
    }

    /// The units of the target; parse the answer with [`super::parse_luns`].
    pub fn report_luns() -> Self {
        Self::reading(0, Cdb::report_luns(u32::from(SMALL_ALLOCATION)), u32::from(SMALL_ALLOCATION))
    }

    /// Parse the answer with [`super::Capacity::parse_long`].
    pub fn read_capacity_16(lun: u16) -> Self {
        let length = super::Capacity::LONG_LEN as u32;
        Self::reading(lun, Cdb::read_capacity_16(length), length)
    }

    /// Reads `blocks` blocks of `block_length` bytes each; `None` if that is 4 GiB or more.
    pub fn read_16(lun: u16, lba: u64, blocks: u32, block_length: u32) -> Option<Self> {
        Some(Self::reading(lun, Cdb::read_16(lba, blocks), blocks.checked_mul(block_length)?))
    }

    /// Writes whole blocks; `None` unless the buffers together are a multiple of `block_length` and below 4 GiB.
    /// With `force` (FUA) it is answered only when the data would survive a loss of power.
    pub fn write_16(lun: u16, lba: u64, buffers: Vec<Bytes>, block_length: u32, force: bool) -> Option<Self> {
        let length = u32::try_from(buffers.iter().map(Bytes::len).sum::<usize>()).ok()?;
        if block_length == 0 || length % block_length != 0 {
            return None;
        }
        Some(Self { lun, cdb: Cdb::write_16(lba, length / block_length, force), data: DataPhase::Out { buffers } })
    }

    /// Makes every write that was answered before it durable (the whole unit).
    pub fn synchronize_cache_16(lun: u16) -> Self {
        Self::without_data(lun, Cdb::synchronize_cache_16(0, 0))
    }
}
