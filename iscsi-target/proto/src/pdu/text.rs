//! Text request and response (RFC 7143 §11.10, §11.11).

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{LunField, U24, headers};

/// Bit of byte 1 in text and login PDUs: the parameters go on in the next PDU.
pub const CONTINUE: u8 = 0x40;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TextRequestHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub command_sn: U32,
    pub expected_status_sn: U32,
    pub reserved_end: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TextResponseHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    pub reserved_end: [u8; 12],
}

headers!(TextRequestHeader, TextResponseHeader);
