//! Command descriptor blocks: the initiator builds them, the target parses them into an [`Operation`](super::Operation).

use super::opcodes::*;
use super::sense::{AdditionalSense, Sense};

/// A command descriptor block, padded with zeroes to 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdb(pub [u8; 16]);

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

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

/// Bits of byte 1.
pub(super) const EVPD: u8 = 0x01;
pub(super) const FUA: u8 = 0x08;

#[cfg(test)]
mod tests {
    use super::super::Operation;
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
        assert_eq!(Cdb::of(SERVICE_ACTION_IN_16).put(1, &[0x13]).parse(), Err(CdbError::UnknownOperation));
    }
}
