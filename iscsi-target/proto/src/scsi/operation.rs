//! What a command block asks for: [`Cdb::parse`] is the only reader of command blocks.

use super::cdb::{Cdb, CdbError, EVPD, FUA};
use super::opcodes::*;
use super::reservation::ReserveKind;

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
    GetLbaStatus {
        lba: u64,
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
    ModeSelect {
        long: bool,
        save: bool,
        length: u32,
    },
    LogSense {
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
    /// All of it or nothing, whatever happens meanwhile. `boundary` must be 0 for us.
    WriteAtomic {
        lba: u64,
        blocks: u32,
        force: bool,
    },
    WriteVerify {
        lba: u64,
        blocks: u32,
        check: ByteCheck,
    },
    Verify {
        lba: u64,
        blocks: u32,
        check: ByteCheck,
    },
    /// `no_data`: zeroes (NDOB).
    WriteSame {
        lba: u64,
        blocks: u32,
        unmap: bool,
        no_data: bool,
    },
    Unmap {
        length: u32,
    },
    OrWrite {
        lba: u64,
        blocks: u32,
        force: bool,
    },
    CompareAndWrite {
        lba: u64,
        blocks: u32,
        force: bool,
    },
    /// `blocks` 0 is everything from `lba` on.
    Prefetch {
        lba: u64,
        blocks: u32,
    },
    /// `blocks` 0 is everything from `lba` on.
    SynchronizeCache {
        lba: u64,
        blocks: u32,
        immediate: bool,
    },
    StartStop {
        start: bool,
        load_eject: bool,
        /// 0: `start` counts.
        power_condition: u8,
    },
    PreventAllow {
        prevent: bool,
    },
    Reserve6,
    Release6,
    ReserveIn {
        action: ReserveInAction,
        allocation: u32,
    },
    ReserveOut {
        action: ReserveOutAction,
        /// `None` where the action has none.
        kind: Option<ReserveKind>,
        length: u32,
    },
    ExtendedCopy {
        length: u32,
    },
    /// Results of the copy with this list identifier.
    CopyStatus {
        list: u8,
        allocation: u32,
    },
    CopyParameters {
        allocation: u32,
    },
    ReportOpcodes {
        query: OpcodeQuery,
        timeouts: bool,
        allocation: u32,
    },
    ReportTmfs {
        extended: bool,
        allocation: u32,
    },
}

/// What VERIFY compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteCheck {
    /// Nothing: the blocks must be readable.
    Nothing,
    /// Each block with its own from the initiator.
    Each,
    /// Every block with the one that the initiator sends.
    One,
}

/// Service actions of PERSISTENT RESERVE IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveInAction {
    ReadKeys,
    ReadReservation,
    ReportCapabilities,
    ReadFullStatus,
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveOutAction {
    Register,
    Reserve,
    Release,
    Clear,
    Preempt,
    PreemptAndAbort,
    RegisterAndIgnore,
    RegisterAndMove,
}

/// Which values of a mode page are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageControl {
    Current,
    Changeable,
    Default,
    Saved,
}

/// Position and length of the field forms.
enum Form {
    Ten,
    Twelve,
    Sixteen,
}

impl Cdb {
    /// What it asks for.
    pub fn parse(&self) -> Result<Operation, CdbError> {
        use Form::*;
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
            SERVICE_ACTION_IN_16 => match self.service_action() {
                READ_CAPACITY_16 if self.u64(2) == 0 => Operation::ReadCapacity16 { allocation: self.u32(10) },
                READ_CAPACITY_16 => return Err(CdbError::InvalidField(2)),
                GET_LBA_STATUS => Operation::GetLbaStatus { lba: self.u64(2), allocation: self.u32(10) },
                _ => return Err(CdbError::UnknownOperation),
            },
            MODE_SENSE_6 => self.mode_sense(false, u32::from(b[4])),
            MODE_SENSE_10 => self.mode_sense(true, u32::from(self.u16(7))),
            MODE_SELECT_6 => self.mode_select(false, u32::from(b[4])),
            MODE_SELECT_10 => self.mode_select(true, u32::from(self.u16(7))),
            LOG_SENSE => self.log_sense()?,
            READ_6 => Operation::Read { lba: self.lba_6(), blocks: self.blocks_6(), force: false },
            WRITE_6 => Operation::Write { lba: self.lba_6(), blocks: self.blocks_6(), force: false },
            READ_10 => self.read(Ten)?,
            READ_12 => self.read(Twelve)?,
            READ_16 => self.read(Sixteen)?,
            WRITE_10 => self.write(Ten)?,
            WRITE_12 => self.write(Twelve)?,
            WRITE_16 => self.write(Sixteen)?,
            WRITE_VERIFY_10 => self.write_verify(Ten)?,
            WRITE_VERIFY_12 => self.write_verify(Twelve)?,
            WRITE_VERIFY_16 => self.write_verify(Sixteen)?,
            VERIFY_10 => self.verify(Ten)?,
            VERIFY_12 => self.verify(Twelve)?,
            VERIFY_16 => self.verify(Sixteen)?,
            WRITE_SAME_10 => self.write_same(Ten)?,
            WRITE_SAME_16 => self.write_same(Sixteen)?,
            PREFETCH_10 => self.prefetch(Ten),
            PREFETCH_16 => self.prefetch(Sixteen),
            SYNCHRONIZE_CACHE_10 => self.synchronize_cache(Ten),
            SYNCHRONIZE_CACHE_16 => self.synchronize_cache(Sixteen),
            OR_WRITE_16 => Operation::OrWrite { lba: self.u64(2), blocks: self.u32(10), force: self.force()? },
            COMPARE_AND_WRITE => {
                Operation::CompareAndWrite { lba: self.u64(2), blocks: u32::from(b[13]), force: self.force()? }
            }
            WRITE_ATOMIC_16 => match self.u16(10) {
                0 => Operation::WriteAtomic { lba: self.u64(2), blocks: u32::from(self.u16(12)), force: self.force()? },
                _ => return Err(CdbError::InvalidField(10)),
            },
            UNMAP if b[1] & 1 != 0 => return Err(CdbError::InvalidField(1)),
            UNMAP => Operation::Unmap { length: u32::from(self.u16(7)) },
            START_STOP_UNIT => Operation::StartStop {
                start: b[4] & 0x01 != 0,
                load_eject: b[4] & 0x02 != 0,
                power_condition: b[4] >> 4,
            },
            PREVENT_ALLOW if b[4] & 0x02 != 0 => return Err(CdbError::InvalidField(4)),
            PREVENT_ALLOW => Operation::PreventAllow { prevent: b[4] & 0x01 != 0 },
            RESERVE_6 => Operation::Reserve6,
            RELEASE_6 => Operation::Release6,
            PERSISTENT_RESERVE_IN => self.reserve_in()?,
            PERSISTENT_RESERVE_OUT => self.reserve_out()?,
            EXTENDED_COPY => match self.service_action() {
                0 => Operation::ExtendedCopy { length: self.u32(10) },
                _ => return Err(CdbError::InvalidField(1)),
            },
            RECEIVE_COPY_RESULTS => match self.service_action() {
                0 => Operation::CopyStatus { list: b[2], allocation: self.u32(10) },
                3 => Operation::CopyParameters { allocation: self.u32(10) },
                _ => return Err(CdbError::InvalidField(1)),
            },
            MAINTENANCE_IN => match self.service_action() {
                REPORT_OPCODES => self.report_opcodes()?,
                REPORT_TMFS => Operation::ReportTmfs { extended: b[2] & 0x80 != 0, allocation: self.u32(6) },
                _ => return Err(CdbError::UnknownOperation),
            },
            _ => return Err(CdbError::UnknownOperation),
        })
    }

    fn service_action(&self) -> u8 {
        self.0[1] & 0x1f
    }

    /// Block address and count.
    fn range(&self, form: &Form) -> (u64, u32) {
        match form {
            Form::Ten => (u64::from(self.u32(2)), u32::from(self.u16(7))),
            Form::Twelve => (u64::from(self.u32(2)), self.u32(6)),
            Form::Sixteen => (self.u64(2), self.u32(10)),
        }
    }

    fn read(&self, form: Form) -> Result<Operation, CdbError> {
        let (lba, blocks) = self.range(&form);
        Ok(Operation::Read { lba, blocks, force: self.force()? })
    }

    fn write(&self, form: Form) -> Result<Operation, CdbError> {
        let (lba, blocks) = self.range(&form);
        Ok(Operation::Write { lba, blocks, force: self.force()? })
    }

    fn verify(&self, form: Form) -> Result<Operation, CdbError> {
        let (lba, blocks) = self.range(&form);
        Ok(Operation::Verify { lba, blocks, check: self.byte_check()? })
    }

    fn write_verify(&self, form: Form) -> Result<Operation, CdbError> {
        let (lba, blocks) = self.range(&form);
        match self.byte_check()? {
            // That form writes nothing that could be compared with one block.
            ByteCheck::One => Err(CdbError::InvalidField(1)),
            check => Ok(Operation::WriteVerify { lba, blocks, check }),
        }
    }

    fn write_same(&self, form: Form) -> Result<Operation, CdbError> {
        const ANCHOR: u8 = 0x10;
        const UNMAP_BIT: u8 = 0x08;
        const NO_DATA_OUT: u8 = 0x01;
        let flags = self.0[1];
        let is_long = matches!(form, Form::Sixteen);
        if flags & (PROTECT_MASK | ANCHOR) != 0 || flags & NO_DATA_OUT != 0 && !is_long {
            return Err(CdbError::InvalidField(1));
        }
        let (lba, blocks) = self.range(&form);
        Ok(Operation::WriteSame { lba, blocks, unmap: flags & UNMAP_BIT != 0, no_data: flags & NO_DATA_OUT != 0 })
    }

    fn prefetch(&self, form: Form) -> Operation {
        let (lba, blocks) = self.range(&form);
        Operation::Prefetch { lba, blocks }
    }

    fn synchronize_cache(&self, form: Form) -> Operation {
        let (lba, blocks) = self.range(&form);
        Operation::SynchronizeCache { lba, blocks, immediate: self.0[1] & IMMED != 0 }
    }

    /// The FUA bit. Protection information does not exist on our units, so RDPROTECT and WRPROTECT must be 0
    /// (SBC-3 §5.8). DPO is a hint about caching that we do not need.
    fn force(&self) -> Result<bool, CdbError> {
        if self.0[1] & PROTECT_MASK != 0 {
            return Err(CdbError::InvalidField(1));
        }
        Ok(self.0[1] & FUA != 0)
    }

    fn byte_check(&self) -> Result<ByteCheck, CdbError> {
        if self.0[1] & PROTECT_MASK != 0 {
            return Err(CdbError::InvalidField(1));
        }
        match self.0[1] >> 1 & 3 {
            0 => Ok(ByteCheck::Nothing),
            1 => Ok(ByteCheck::Each),
            3 => Ok(ByteCheck::One),
            _ => Err(CdbError::InvalidField(1)),
        }
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

    fn mode_select(&self, long: bool, length: u32) -> Operation {
        Operation::ModeSelect { long, save: self.0[1] & 1 != 0, length }
    }

    fn log_sense(&self) -> Result<Operation, CdbError> {
        const SAVE: u8 = 0x01;
        if self.0[1] & SAVE != 0 {
            return Err(CdbError::InvalidField(1));
        }
        Ok(Operation::LogSense { page: self.0[2] & 0x3f, subpage: self.0[3], allocation: u32::from(self.u16(7)) })
    }

    fn reserve_in(&self) -> Result<Operation, CdbError> {
        let action = match self.service_action() {
            0 => ReserveInAction::ReadKeys,
            1 => ReserveInAction::ReadReservation,
            2 => ReserveInAction::ReportCapabilities,
            3 => ReserveInAction::ReadFullStatus,
            _ => return Err(CdbError::InvalidField(1)),
        };
        Ok(Operation::ReserveIn { action, allocation: u32::from(self.u16(7)) })
    }

    fn reserve_out(&self) -> Result<Operation, CdbError> {
        use ReserveOutAction::*;
        let action = match self.service_action() {
            0 => Register,
            1 => Reserve,
            2 => Release,
            3 => Clear,
            4 => Preempt,
            5 => PreemptAndAbort,
            6 => RegisterAndIgnore,
            7 => RegisterAndMove,
            _ => return Err(CdbError::InvalidField(1)),
        };
        let kind = match action {
            // Scope and type are ignored.
            Register | RegisterAndIgnore | RegisterAndMove | Clear => None,
            // A preemption of registrations only says nothing about a type: one that is not valid is then ignored.
            Preempt | PreemptAndAbort => ReserveKind::from_byte(self.0[2]),
            Reserve | Release => Some(ReserveKind::from_byte(self.0[2]).ok_or(CdbError::InvalidField(2))?),
        };
        Ok(Operation::ReserveOut { action, kind, length: self.u32(5) })
    }

    fn report_opcodes(&self) -> Result<Operation, CdbError> {
        let (opcode, action) = (self.0[3], self.u16(4));
        let query = match self.0[2] & 0x07 {
            0 => OpcodeQuery::All,
            1 => OpcodeQuery::Opcode(opcode),
            2 => OpcodeQuery::ServiceAction(opcode, action),
            3 => OpcodeQuery::Any(opcode, action),
            _ => return Err(CdbError::InvalidField(2)),
        };
        Ok(Operation::ReportOpcodes { query, timeouts: self.0[2] & 0x80 != 0, allocation: self.u32(6) })
    }

    fn lba_6(&self) -> u64 {
        u64::from(u32::from_be_bytes([0, self.0[1] & 0x1f, self.0[2], self.0[3]]))
    }

    /// A length of 0 means 256 in the six-byte commands.
    fn blocks_6(&self) -> u32 {
        if self.0[4] == 0 { 256 } else { u32::from(self.0[4]) }
    }
}

const IMMED: u8 = 0x02;
const DBD: u8 = 0x08;
const PROTECT_MASK: u8 = 0xe0;
