//! What all headers have in common: opcodes, tags, lengths, the logical unit field, residual counts.

use bytes::Bytes;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of every basic header segment, in bytes.
pub const HEADER_LEN: usize = 48;
/// Bit of byte 0: deliver at once, outside of the command order.
pub const IMMEDIATE: u8 = 0x40;
/// Bits of byte 0 that hold the opcode.
pub const OPCODE_MASK: u8 = 0x3f;
/// Bit of byte 1: last PDU of a sequence (transit in login PDUs).
pub const FINAL: u8 = 0x80;
/// The tag that names no task.
pub const RESERVED_TAG: u32 = 0xffff_ffff;

/// Kind of a PDU (RFC 7143 §11.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagementRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    SnackRequest = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagementResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    ReadyToTransfer = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    /// From the first byte of a header; `None` for an opcode that RFC 7143 does not define.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte & OPCODE_MASK {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskManagementRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::DataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::SnackRequest,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskManagementResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::DataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::ReadyToTransfer,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            _ => return None,
        })
    }
}

/// A 24-bit big-endian length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct U24([u8; 3]);

impl U24 {
    /// Largest length that fits, in bytes.
    pub const MAX: u32 = (1 << 24) - 1;

    pub fn get(self) -> u32 {
        u32::from_be_bytes([0, self.0[0], self.0[1], self.0[2]])
    }

    /// `None` if `value` needs more than 24 bits.
    pub fn new(value: u32) -> Option<Self> {
        let [high, a, b, c] = value.to_be_bytes();
        (high == 0).then_some(Self([a, b, c]))
    }
}

/// The eight bytes that name a logical unit (SAM-5 §4.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct LunField(U64);

impl LunField {
    /// The single-level form of logical unit `number`: peripheral addressing below 256, flat addressing up to
    /// 16383.
    pub fn single_level(number: u16) -> Self {
        let flat = if number < 256 { 0 } else { 0x4000 };
        Self(U64::new(u64::from(number & 0x3fff | flat) << 48))
    }

    /// The number of a single-level logical unit; `None` for the forms nobody uses with iSCSI.
    pub fn number(self) -> Option<u16> {
        let raw = self.0.get();
        if raw & 0xffff_ffff_ffff != 0 {
            return None;
        }
        let first = (raw >> 48) as u16;
        match first >> 14 {
            0 if first & 0x3f00 == 0 => Some(first & 0xff),
            1 => Some(first & 0x3fff),
            _ => None,
        }
    }

    /// The field as a number, as REPORT LUNS lists it.
    pub fn raw(self) -> u64 {
        self.0.get()
    }
}

/// Any header, with only the fields that all of them share.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BasicHeader {
    pub opcode: u8,
    pub flags: u8,
    pub specific: [u8; 2],
    /// In words of four bytes.
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub rest: [u8; 28],
}

/// A header struct: 48 bytes, any bit pattern is a value.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy {}

/// Declares that structs are headers and checks their length while compiling.
macro_rules! headers {
    ($($name:ty),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $crate::pdu::HEADER_LEN);
        impl $crate::pdu::Header for $name {}
    )+};
}
pub(crate) use headers;

headers!(BasicHeader);

/// One PDU as received: header, additional headers, data without its padding. Digests have been checked.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub header: [u8; HEADER_LEN],
    pub additional: Bytes,
    pub data: Bytes,
    /// Bytes of the stream before this PDU, for messages.
    pub at_byte: u64,
}

impl Pdu {
    /// The header as `T`.
    pub fn header<T: Header>(&self) -> T {
        T::read_from_bytes(&self.header).expect("invariant: every header is 48 bytes, checked while compiling")
    }

    /// `None` for an opcode that RFC 7143 does not define.
    pub fn opcode(&self) -> Option<Opcode> {
        Opcode::from_byte(self.header[0])
    }

    /// Whether it is to be delivered at once, outside of the command order.
    pub fn is_immediate(&self) -> bool {
        self.header[0] & IMMEDIATE != 0
    }
}

/// Difference between the length the initiator expected and the length the command had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residual {
    /// None.
    #[default]
    Exact,
    /// This many bytes less were moved than the initiator expected.
    Underflow(u32),
    /// This many bytes more would have been moved had the initiator expected them.
    Overflow(u32),
}

impl Residual {
    /// From what the initiator expected and what the command is about, in bytes.
    pub fn between(expected: u32, actual: u64) -> Self {
        let expected = u64::from(expected);
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        match actual {
            n if n < expected => Self::Underflow(clamp(expected - n)),
            n if n > expected => Self::Overflow(clamp(n - expected)),
            _ => Self::Exact,
        }
    }

    /// The flag bits of byte 1, as in SCSI Response and Data-In.
    pub(crate) fn flags(self) -> u8 {
        match self {
            Self::Exact => 0,
            Self::Underflow(_) => 0x02,
            Self::Overflow(_) => 0x04,
        }
    }

    /// The count field.
    pub(crate) fn count(self) -> u32 {
        match self {
            Self::Exact => 0,
            Self::Underflow(n) | Self::Overflow(n) => n,
        }
    }

    /// From the flag bits of byte 1 and the count field.
    pub(crate) fn from_wire(flags: u8, count: u32) -> Self {
        match flags & 0x06 {
            0x02 => Self::Underflow(count),
            0x04 => Self::Overflow(count),
            _ => Self::Exact,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_units_keep_their_number_in_both_forms() {
        for number in [0, 1, 255, 256, 16383] {
            assert_eq!(LunField::single_level(number).number(), Some(number));
        }
        assert_eq!(LunField(U64::new(1)).number(), None);
        assert_eq!(LunField(U64::new(0xc101 << 48)).number(), None);
    }

    #[test]
    fn lengths_have_24_bits() {
        assert_eq!(U24::new(0x00ab_cdef).map(U24::get), Some(0x00ab_cdef));
        assert_eq!(U24::new(U24::MAX + 1), None);
    }
}
