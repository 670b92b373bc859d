//! NOP in both directions, logout, reject, asynchronous message (RFC 7143 §11.9, §11.14, §11.15, §11.17 to §11.19).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{LunField, U24, headers};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct NopOutHeader {
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
pub struct NopInHeader {
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

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogoutRequestHeader {
    pub opcode: u8,
    /// FINAL and the reason.
    pub reason: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub reserved_lun: [u8; 8],
    pub initiator_task_tag: U32,
    pub connection_id: U16,
    pub reserved_id: [u8; 2],
    pub command_sn: U32,
    pub expected_status_sn: U32,
    pub reserved_end: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LogoutResponseHeader {
    pub opcode: u8,
    pub flags: u8,
    /// 0: closed; 1: connection not found; 2: recovery not supported; 3: clean-up failed.
    pub response: u8,
    pub reserved: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub reserved_lun: [u8; 8],
    pub initiator_task_tag: U32,
    pub reserved_tag: [u8; 4],
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    pub reserved_sn: [u8; 4],
    /// Seconds.
    pub time_to_wait: U16,
    /// Seconds.
    pub time_to_retain: U16,
    pub reserved_end: [u8; 4],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RejectHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reason: u8,
    pub reserved: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub reserved_lun: [u8; 8],
    pub initiator_task_tag: U32,
    pub reserved_tag: [u8; 4],
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    pub data_sn: U32,
    pub reserved_end: [u8; 8],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AsyncMessageHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub reserved_tag: [u8; 4],
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    /// 0: SCSI event; 1: logout requested; 2: connection dropped; 3: session dropped; 4: negotiation requested.
    pub event: u8,
    pub vendor_code: u8,
    pub parameter1: U16,
    pub parameter2: U16,
    pub parameter3: U16,
    pub reserved_end: [u8; 4],
}

headers!(NopOutHeader, NopInHeader, LogoutRequestHeader, LogoutResponseHeader, RejectHeader, AsyncMessageHeader);

/// Why a logout is asked for (RFC 7143 §11.14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LogoutReason {
    CloseSession = 0,
    CloseConnection = 1,
    RemoveForRecovery = 2,
}

impl LogoutReason {
    /// From byte 1 of the header.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte & 0x7f {
            0 => Some(Self::CloseSession),
            1 => Some(Self::CloseConnection),
            2 => Some(Self::RemoveForRecovery),
            _ => None,
        }
    }
}

/// Why a PDU was rejected (RFC 7143 §11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    DataDigestError = 0x02,
    SnackReject = 0x03,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    TooManyImmediateCommands = 0x06,
    TaskInProgress = 0x07,
    InvalidDataAck = 0x08,
    InvalidPduField = 0x09,
    LongOperationReject = 0x0a,
    WaitingForLogout = 0x0c,
}
