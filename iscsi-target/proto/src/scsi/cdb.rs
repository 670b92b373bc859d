//! Command descriptor blocks: the initiator builds them, the target parses them into an [`Operation`].

use super::sense::{AdditionalSense, Sense};

/// A command descriptor block, padded with zeroes to 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdb(pub [u8; 16]);

/// What a command block asks for. Block addresses and counts are in logical blocks, lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    /// `page` is set for vital product data.
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    ModeSense {
        long: bool,
        no_block_descriptors: bool,
        control: PageControl,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    Read {
        lba: u64,
        blocks: u32,
        force: bool,
    },
    Write {
        lba: u64,
        blocks: u32,
        force: bool,
    },
    /// `blocks` 0 is everything from `lba` on.
    SynchronizeCache {
        lba: u64,
        blocks: u32,
        immediate: bool,
    },
}

/// Which values of a mode page are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageControl {
    Current,
    Changeable,
    Default,
    Saved,
}

/// Why a command block is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdbError {
    /// The operation code, or its service action, is not one of ours.
    UnknownOperation,
    /// The field at this byte.
    InvalidField(u8),
}

impl From<CdbError> for Sense {
    fn from(error: CdbError) -> Sense {
        match error {
            CdbError::UnknownOperation => Sense::illegal_request(AdditionalSense::INVALID_COMMAND_OPERATION_CODE),
            CdbError::InvalidField(byte) => Sense::invalid_field(byte),
        }
    }
}

impl Cdb {
    /// What it asks for.
    pub fn parse(&self) -> Result<Operation, CdbError> {
        let b = &self.0;
        Ok(match b[0] {
            TEST_UNIT_READY => Operation::TestUnitReady,
            REQUEST_SENSE => Operation::RequestSense { descriptor: b[1] & 1 != 0, allocation: u32::from(b[4]) },
            INQUIRY => {
                let page = (b[1] & EVPD != 0).then_some(b[2]);
                if page.is_none() && b[2] != 0 {
                    return Err(CdbError::InvalidField(2));
                }
                Operation::Inquiry { page, allocation: u32::from(self.u16(3)) }
            }
            REPORT_LUNS => Operation::ReportLuns { select: b[2], allocation: self.u32(6) },
            READ_CAPACITY_10 => match self.u32(2) {
                0 => Operation::ReadCapacity10,
                _ => return Err(CdbError::InvalidField(2)),
            },
            SERVICE_ACTION_IN_16 => match b[1] & 0x1f {
                READ_CAPACITY_16 if self.u64(2) == 0 => Operation::ReadCapacity16 { allocation: self.u32(10) },
                READ_CAPACITY_16 => return Err(CdbError::InvalidField(2)),
                _ => return Err(CdbError::UnknownOperation),
            },
            MODE_SENSE_6 => self.mode_sense(false, u32::from(b[4])),
            MODE_SENSE_10 => self.mode_sense(true, u32::from(self.u16(7))),
            READ_6 => Operation::Read { lba: self.lba_6(), blocks: self.blocks_6(), force: false },
            WRITE_6 => Operation::Write { lba: self.lba_6(), blocks: self.blocks_6(), force: false },
            READ_10 => self.read(u64::from(self.u32(2)), u32::from(self.u16(7)))?,
            READ_12 => self.read(u64::from(self.u32(2)), self.u32(6))?,
            READ_16 => self.read(self.u64(2), self.u32(10))?,
            WRITE_10 => self.write(u64::from(self.u32(2)), u32::from(self.u16(7)))?,
            WRITE_12 => self.write(u64::from(self.u32(2)), self.u32(6))?,
            WRITE_16 => self.write(self.u64(2), self.u32(10))?,
            SYNCHRONIZE_CACHE_10 => Operation::SynchronizeCache {
                lba: u64::from(self.u32(2)),
                blocks: u32::from(self.u16(7)),
                immediate: b[1] & IMMED != 0,
            },
            SYNCHRONIZE_CACHE_16 => {
                Operation::SynchronizeCache { lba: self.u64(2), blocks: self.u32(10), immediate: b[1] & IMMED != 0 }
            }
            _ => return Err(CdbError::UnknownOperation),
        })
    }

    pub(super) fn test_unit_ready() -> Self {
        Self::default()
    }

    pub(super) fn inquiry(page: Option<u8>, allocation: u16) -> Self {
        let mut cdb = Self::of(INQUIRY);
        if let Some(page) = page {
            cdb.0[1] = EVPD;
            cdb.0[2] = page;
        }
        cdb.put(3, &allocation.to_be_bytes())
    }

    pub(super) fn report_luns(allocation: u32) -> Self {
        Self::of(REPORT_LUNS).put(6, &allocation.to_be_bytes())
    }

    pub(super) fn read_capacity_16(allocation: u32) -> Self {
        Self::of(SERVICE_ACTION_IN_16).put(1, &[READ_CAPACITY_16]).put(10, &allocation.to_be_bytes())
    }

    pub(super) fn read_16(lba: u64, blocks: u32) -> Self {
        Self::of(READ_16).put(2, &lba.to_be_bytes()).put(10, &blocks.to_be_bytes())
    }

    pub(super) fn write_16(lba: u64, blocks: u32, force: bool) -> Self {
        let flags = if force { FUA } else { 0 };
        Self::of(WRITE_16).put(1, &[flags]).put(2, &lba.to_be_bytes()).put(10, &blocks.to_be_bytes())
    }

    pub(super) fn synchronize_cache_16(lba: u64, blocks: u32) -> Self {
        Self::of(SYNCHRONIZE_CACHE_16).put(2, &lba.to_be_bytes()).put(10, &blocks.to_be_bytes())
    }

    fn of(operation: u8) -> Self {
        Self::default().put(0, &[operation])
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn read(&self, lba: u64, blocks: u32) -> Result<Operation, CdbError> {
        Ok(Operation::Read { lba, blocks, force: self.force()? })
    }

    fn write(&self, lba: u64, blocks: u32) -> Result<Operation, CdbError> {
        Ok(Operation::Write { lba, blocks, force: self.force()? })
    }

    /// The FUA bit. Protection information does not exist on our units, so RDPROTECT and WRPROTECT must be 0
    /// (SBC-3 §5.8). DPO is a hint about caching that we do not need.
    fn force(&self) -> Result<bool, CdbError> {
        if self.0[1] & PROTECT_MASK != 0 {
            return Err(CdbError::InvalidField(1));
        }
        Ok(self.0[1] & FUA != 0)
    }

    fn mode_sense(&self, long: bool, allocation: u32) -> Operation {
        let control = match self.0[2] >> 6 {
            0 => PageControl::Current,
            1 => PageControl::Changeable,
            2 => PageControl::Default,
            _ => PageControl::Saved,
        };
        Operation::ModeSense {
            long,
            no_block_descriptors: self.0[1] & DBD != 0,
            control,
            page: self.0[2] & 0x3f,
            subpage: self.0[3],
            allocation,
        }
    }

    fn lba_6(&self) -> u64 {
        u64::from(u32::from_be_bytes([0, self.0[1] & 0x1f, self.0[2], self.0[3]]))
    }

    /// A length of 0 means 256 in the six-byte commands.
    fn blocks_6(&self) -> u32 {
        if self.0[4] == 0 { 256 } else { u32::from(self.0[4]) }
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const READ_6: u8 = 0x08;
const WRITE_6: u8 = 0x0a;
const INQUIRY: u8 = 0x12;
const MODE_SENSE_6: u8 = 0x1a;
const READ_CAPACITY_10: u8 = 0x25;
const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;
const SYNCHRONIZE_CACHE_10: u8 = 0x35;
const MODE_SENSE_10: u8 = 0x5a;
const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const SYNCHRONIZE_CACHE_16: u8 = 0x91;
const SERVICE_ACTION_IN_16: u8 = 0x9e;
const REPORT_LUNS: u8 = 0xa0;
const READ_12: u8 = 0xa8;
const WRITE_12: u8 = 0xaa;
/// Service action of [`SERVICE_ACTION_IN_16`].
const READ_CAPACITY_16: u8 = 0x10;

const EVPD: u8 = 0x01;
const IMMED: u8 = 0x02;
const DBD: u8 = 0x08;
const FUA: u8 = 0x08;
const PROTECT_MASK: u8 = 0xe0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_initiator_builds_the_target_understands() {
        assert_eq!(
            Cdb::write_16(1 << 33, 7, true).parse(),
            Ok(Operation::Write { lba: 1 << 33, blocks: 7, force: true })
        );
        assert_eq!(Cdb::read_16(5, 9).parse(), Ok(Operation::Read { lba: 5, blocks: 9, force: false }));
        assert_eq!(Cdb::inquiry(Some(0x83), 300).parse(), Ok(Operation::Inquiry { page: Some(0x83), allocation: 300 }));
        assert_eq!(Cdb::read_capacity_16(32).parse(), Ok(Operation::ReadCapacity16 { allocation: 32 }));
        assert_eq!(Cdb::report_luns(64).parse(), Ok(Operation::ReportLuns { select: 0, allocation: 64 }));
    }

    #[test]
    fn a_six_byte_length_of_zero_means_256() {
        let read = Cdb::of(READ_6).put(1, &[0xff, 0xff, 0xff]);
        assert_eq!(read.parse(), Ok(Operation::Read { lba: 0x1f_ffff, blocks: 256, force: false }));
    }

    #[test]
    fn protection_and_unknown_operations_are_refused() {
        assert_eq!(Cdb::read_16(0, 1).put(1, &[0x20]).parse(), Err(CdbError::InvalidField(1)));
        assert_eq!(Cdb::of(0xff).parse(), Err(CdbError::UnknownOperation));
        assert_eq!(Cdb::of(SERVICE_ACTION_IN_16).put(1, &[0x12]).parse(), Err(CdbError::UnknownOperation));
    }
}
