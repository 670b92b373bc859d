//! Login request and response (RFC 7143 §11.12, §11.13).

use std::fmt;

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::{U24, headers};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LoginRequestHeader {
    pub opcode: u8,
    /// FINAL (transit), CONTINUE, current stage << 2, next stage.
    pub flags: u8,
    pub version_max: u8,
    pub version_min: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub isid: [u8; 6],
    pub tsih: U16,
    pub initiator_task_tag: U32,
    pub connection_id: U16,
    pub reserved: [u8; 2],
    pub command_sn: U32,
    pub expected_status_sn: U32,
    pub reserved_end: [u8; 16],
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LoginResponseHeader {
    pub opcode: u8,
    /// FINAL (transit), CONTINUE, current stage << 2, next stage.
    pub flags: u8,
    pub version_max: u8,
    pub version_active: u8,
    pub additional_header_words: u8,
    pub data_segment_length: U24,
    pub isid: [u8; 6],
    pub tsih: U16,
    pub initiator_task_tag: U32,
    pub reserved: [u8; 4],
    pub status_sn: U32,
    pub expected_command_sn: U32,
    pub max_command_sn: U32,
    pub status_class: u8,
    pub status_detail: u8,
    pub reserved_end: [u8; 10],
}

headers!(LoginRequestHeader, LoginResponseHeader);

/// Stage of the login phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LoginStage {
    Security = 0,
    Operational = 1,
    FullFeature = 3,
}

impl LoginStage {
    /// The current stage in byte 1 of a login header.
    pub fn current(flags: u8) -> Option<Self> {
        Self::from_bits(flags >> 2)
    }

    /// The next stage in byte 1 of a login header; only meaningful with the transit bit.
    pub fn next(flags: u8) -> Option<Self> {
        Self::from_bits(flags)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }
}

/// Status class and detail of a login response (RFC 7143 §11.13.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LoginStatus {
    pub class: u8,
    pub detail: u8,
}

impl LoginStatus {
    pub const SUCCESS: Self = Self::of(0, 0);
    pub const TARGET_MOVED_TEMPORARILY: Self = Self::of(1, 1);
    pub const TARGET_MOVED_PERMANENTLY: Self = Self::of(1, 2);
    pub const INITIATOR_ERROR: Self = Self::of(2, 0);
    pub const AUTHENTICATION_FAILURE: Self = Self::of(2, 1);
    pub const AUTHORIZATION_FAILURE: Self = Self::of(2, 2);
    pub const NOT_FOUND: Self = Self::of(2, 3);
    pub const TARGET_REMOVED: Self = Self::of(2, 4);
    pub const UNSUPPORTED_VERSION: Self = Self::of(2, 5);
    pub const TOO_MANY_CONNECTIONS: Self = Self::of(2, 6);
    pub const MISSING_PARAMETER: Self = Self::of(2, 7);
    pub const CANNOT_INCLUDE_IN_SESSION: Self = Self::of(2, 8);
    pub const SESSION_TYPE_UNSUPPORTED: Self = Self::of(2, 9);
    pub const SESSION_DOES_NOT_EXIST: Self = Self::of(2, 10);
    pub const INVALID_DURING_LOGIN: Self = Self::of(2, 11);
    pub const TARGET_ERROR: Self = Self::of(3, 0);
    pub const SERVICE_UNAVAILABLE: Self = Self::of(3, 1);
    pub const OUT_OF_RESOURCES: Self = Self::of(3, 2);

    const fn of(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }

    /// Whether trying again later may help (the target's own trouble).
    pub fn is_transient(self) -> bool {
        self.class == 3
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::SUCCESS => "success",
            Self::TARGET_MOVED_TEMPORARILY => "target moved temporarily",
            Self::TARGET_MOVED_PERMANENTLY => "target moved permanently",
            Self::INITIATOR_ERROR => "initiator error",
            Self::AUTHENTICATION_FAILURE => "authentication failure",
            Self::AUTHORIZATION_FAILURE => "initiator is not allowed to use this target",
            Self::NOT_FOUND => "target not found",
            Self::TARGET_REMOVED => "target removed",
            Self::UNSUPPORTED_VERSION => "unsupported version",
            Self::TOO_MANY_CONNECTIONS => "too many connections",
            Self::MISSING_PARAMETER => "missing parameter",
            Self::CANNOT_INCLUDE_IN_SESSION => "connection cannot be included in the session",
            Self::SESSION_TYPE_UNSUPPORTED => "session type not supported",
            Self::SESSION_DOES_NOT_EXIST => "session does not exist",
            Self::INVALID_DURING_LOGIN => "invalid request during login",
            Self::TARGET_ERROR => "target error",
            Self::SERVICE_UNAVAILABLE => "service unavailable",
            Self::OUT_OF_RESOURCES => "target is out of resources",
            _ => "unknown status",
        };
        write!(f, "{text} (status {:02x}{:02x})", self.class, self.detail)
    }
}

impl fmt::Debug for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginStatus({self})")
    }
}
