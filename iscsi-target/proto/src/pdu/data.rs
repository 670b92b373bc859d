//! Data in both directions and the request for data (RFC 7143 §11.7, §11.8).

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{LunField, U24, headers};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataOutHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    /// The request this answers; RESERVED_TAG for unsolicited data.
    pub target_transfer_tag: U32,
    pub reserved_sn: [u8; 4],
    pub expected_status_sn: U32,
    pub reserved_max: [u8; 4],
    /// Counts within one request, from 0.
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub reserved_end: [u8; 4],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DataInHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: u8,
    /// Only with [`DataInHeader::STATUS`].
    pub status: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    /// Only with [`DataInHeader::STATUS`].
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    /// Counts within the command, from 0.
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub residual: U32,
}

impl DataInHeader {
    /// Flag: the command's status is in this PDU; no SCSI response follows.
    pub const STATUS: u8 = 0x01;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReadyToTransferHeader {
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
    /// Counts within the command, from 0.
    pub request_sn: U32,
    pub buffer_offset: U32,
    pub desired_length: U32,
}

headers!(DataOutHeader, DataInHeader, ReadyToTransferHeader);
