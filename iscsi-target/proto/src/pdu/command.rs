//! SCSI command and response, task management (RFC 7143 §11.3 to §11.6).

use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{LunField, U24, headers};

/// Flag bits of a SCSI command.
pub struct CommandFlags;

impl CommandFlags {
    /// Data goes from the target to the initiator.
    pub const READ: u8 = 0x40;
    /// Data goes from the initiator to the target.
    pub const WRITE: u8 = 0x20;
    /// Task attribute SIMPLE; the only one that is sent.
    pub const SIMPLE: u8 = 0x01;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ScsiCommandHeader {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub expected_data_transfer_length: U32,
    pub command_sn: U32,
    pub expected_status_sn: U32,
    pub cdb: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ScsiResponseHeader {
    pub opcode: u8,
    pub flags: u8,
    /// 0: the command was carried out by the target; 1: target failure.
    pub response: u8,
    pub status: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub reserved: [u8; 8],
    pub initiator_task_tag: U32,
    pub snack_tag: U32,
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    /// Number of Data-In and R2T PDUs that were sent for the command.
    pub expected_data_sn: U32,
    pub bidirectional_residual: U32,
    pub residual: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TaskManagementRequestHeader {
    pub opcode: u8,
    /// FINAL and the function.
    pub function: u8,
    pub reserved: [u8; 2],
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub lun: LunField,
    pub initiator_task_tag: U32,
    pub referenced_task_tag: U32,
    pub command_sn: U32,
    pub expected_status_sn: U32,
    pub referenced_command_sn: U32,
    pub expected_data_sn: U32,
    pub reserved_end: [u8; 8],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TaskManagementResponseHeader {
    pub opcode: u8,
    pub flags: u8,
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
    pub reserved_end: [u8; 12],
}

headers!(ScsiCommandHeader, ScsiResponseHeader, TaskManagementRequestHeader, TaskManagementResponseHeader);

/// What a task management request asks for (RFC 7143 §11.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskFunction {
    AbortTask = 1,
    AbortTaskSet = 2,
    ClearAca = 3,
    ClearTaskSet = 4,
    LogicalUnitReset = 5,
    TargetWarmReset = 6,
    TargetColdReset = 7,
    TaskReassign = 8,
}

impl TaskFunction {
    /// From byte 1 of the header.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte & 0x7f {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            _ => return None,
        })
    }
}

/// Answer to a task management request (RFC 7143 §11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskManagementResponse {
    Complete = 0,
    NoSuchTask = 1,
    NoSuchLun = 2,
    TaskStillAllegiant = 3,
    ReassignmentUnsupported = 4,
    FunctionUnsupported = 5,
    AuthorizationFailed = 6,
    Rejected = 255,
}

impl TaskManagementResponse {
    /// From the response field; what is not defined counts as rejected.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Complete,
            1 => Self::NoSuchTask,
            2 => Self::NoSuchLun,
            3 => Self::TaskStillAllegiant,
            4 => Self::ReassignmentUnsupported,
            5 => Self::FunctionUnsupported,
            6 => Self::AuthorizationFailed,
            _ => Self::Rejected,
        }
    }
}
