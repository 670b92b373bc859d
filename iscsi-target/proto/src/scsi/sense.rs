//! Sense data: why a command ended with CHECK CONDITION (SPC-4 §4.5).

use std::fmt;

/// Sense key, the coarse cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    BlankCheck = 0x8,
    VendorSpecific = 0x9,
    CopyAborted = 0xa,
    AbortedCommand = 0xb,
    Reserved = 0xc,
    VolumeOverflow = 0xd,
    Miscompare = 0xe,
    Completed = 0xf,
}

impl SenseKey {
    /// From the low four bits of `byte`.
    pub fn from_byte(byte: u8) -> Self {
        match byte & 0x0f {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0x8 => Self::BlankCheck,
            0x9 => Self::VendorSpecific,
            0xa => Self::CopyAborted,
            0xb => Self::AbortedCommand,
            0xc => Self::Reserved,
            0xd => Self::VolumeOverflow,
            0xe => Self::Miscompare,
            _ => Self::Completed,
        }
    }
}

/// Additional sense code and its qualifier, the fine cause.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AdditionalSense {
    pub code: u8,
    pub qualifier: u8,
}

impl AdditionalSense {
    pub const NONE: Self = Self::of(0x00, 0x00);
    pub const NOT_READY: Self = Self::of(0x04, 0x00);
    pub const WRITE_ERROR: Self = Self::of(0x0c, 0x00);
    pub const UNRECOVERED_READ_ERROR: Self = Self::of(0x11, 0x00);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self::of(0x1a, 0x00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self::of(0x1d, 0x00);
    pub const INVALID_COMMAND_OPERATION_CODE: Self = Self::of(0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self::of(0x21, 0x00);
    pub const INVALID_FIELD_IN_CDB: Self = Self::of(0x24, 0x00);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self::of(0x25, 0x00);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self::of(0x26, 0x00);
    pub const PARAMETER_VALUE_INVALID: Self = Self::of(0x26, 0x02);
    pub const INVALID_RELEASE: Self = Self::of(0x26, 0x04);
    pub const TOO_MANY_TARGET_DESCRIPTORS: Self = Self::of(0x26, 0x06);
    pub const UNSUPPORTED_TARGET_DESCRIPTOR: Self = Self::of(0x26, 0x07);
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: Self = Self::of(0x26, 0x08);
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR: Self = Self::of(0x26, 0x09);
    pub const WRITE_PROTECTED: Self = Self::of(0x27, 0x00);
    pub const SPACE_ALLOCATION_FAILED: Self = Self::of(0x27, 0x07);
    pub const POWER_ON_OR_RESET: Self = Self::of(0x29, 0x00);
    pub const BUS_DEVICE_RESET: Self = Self::of(0x29, 0x03);
    pub const MODE_PARAMETERS_CHANGED: Self = Self::of(0x2a, 0x01);
    pub const RESERVATIONS_PREEMPTED: Self = Self::of(0x2a, 0x03);
    pub const RESERVATIONS_RELEASED: Self = Self::of(0x2a, 0x04);
    pub const REGISTRATIONS_PREEMPTED: Self = Self::of(0x2a, 0x05);
    pub const CAPACITY_DATA_HAS_CHANGED: Self = Self::of(0x2a, 0x09);
    pub const INITIATING_COMMAND_REQUIRED: Self = Self::of(0x04, 0x02);
    pub const MEDIUM_REMOVAL_PREVENTED: Self = Self::of(0x53, 0x02);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self::of(0x55, 0x04);
    pub const UNREACHABLE_COPY_TARGET: Self = Self::of(0x08, 0x04);
    pub const INTERNAL_TARGET_FAILURE: Self = Self::of(0x44, 0x00);
    pub const PROTOCOL_SERVICE_CRC_ERROR: Self = Self::of(0x47, 0x05);

    const fn of(code: u8, qualifier: u8) -> Self {
        Self { code, qualifier }
    }
}

impl fmt::Display for AdditionalSense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::NONE => "no additional sense",
            Self::NOT_READY => "logical unit not ready",
            Self::WRITE_ERROR => "write error",
            Self::UNRECOVERED_READ_ERROR => "unrecovered read error",
            Self::PARAMETER_LIST_LENGTH_ERROR => "parameter list length error",
            Self::MISCOMPARE_DURING_VERIFY => "miscompare during verify operation",
            Self::INVALID_COMMAND_OPERATION_CODE => "invalid command operation code",
            Self::LBA_OUT_OF_RANGE => "logical block address out of range",
            Self::INVALID_FIELD_IN_CDB => "invalid field in CDB",
            Self::LOGICAL_UNIT_NOT_SUPPORTED => "logical unit not supported",
            Self::INVALID_FIELD_IN_PARAMETER_LIST => "invalid field in parameter list",
            Self::WRITE_PROTECTED => "write protected",
            Self::SPACE_ALLOCATION_FAILED => "space allocation failed, write protect",
            Self::POWER_ON_OR_RESET => "power on, reset or bus device reset occurred",
            Self::BUS_DEVICE_RESET => "bus device reset function occurred",
            Self::MODE_PARAMETERS_CHANGED => "mode parameters changed",
            Self::RESERVATIONS_PREEMPTED => "reservations preempted",
            Self::RESERVATIONS_RELEASED => "reservations released",
            Self::REGISTRATIONS_PREEMPTED => "registrations preempted",
            Self::INVALID_RELEASE => "invalid release of persistent reservation",
            Self::INITIATING_COMMAND_REQUIRED => "logical unit not ready, initializing command required",
            Self::CAPACITY_DATA_HAS_CHANGED => "capacity data has changed",
            Self::PROTOCOL_SERVICE_CRC_ERROR => "protocol service CRC error",
            Self::INTERNAL_TARGET_FAILURE => "internal target failure",
            _ => return write!(f, "additional sense {:02x}/{:02x}", self.code, self.qualifier),
        };
        f.write_str(text)
    }
}

impl fmt::Debug for AdditionalSense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdditionalSense({:02x}/{:02x} {self})", self.code, self.qualifier)
    }
}

/// Why a command ended with CHECK CONDITION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    pub key: SenseKey,
    pub additional: AdditionalSense,
    /// Depends on the cause: a block address, or for COMPARE AND WRITE the offset of the first difference.
    pub information: Option<u64>,
    /// Byte of the command block that was refused.
    pub field: Option<u8>,
}

impl Sense {
    /// Length of fixed-format sense data, in bytes.
    pub const FIXED_LEN: usize = 18;

    pub fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self { key, additional, information: None, field: None }
    }

    /// The caller's mistake.
    pub fn illegal_request(additional: AdditionalSense) -> Self {
        Self::new(SenseKey::IllegalRequest, additional)
    }

    /// The caller's mistake, in byte `field` of the command block.
    pub fn invalid_field(field: u8) -> Self {
        Self { field: Some(field), ..Self::illegal_request(AdditionalSense::INVALID_FIELD_IN_CDB) }
    }

    /// In the fixed format, current error.
    pub fn encode(&self) -> [u8; Self::FIXED_LEN] {
        let mut out = [0; Self::FIXED_LEN];
        out[0] = RESPONSE_FIXED_CURRENT;
        out[2] = self.key as u8;
        // The field has 32 bits; a larger value is not valid in this format (SPC-4 §4.5.3).
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            out[0] |= INFORMATION_VALID;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = (Self::FIXED_LEN - 8) as u8;
        out[12] = self.additional.code;
        out[13] = self.additional.qualifier;
        if let Some(field) = self.field {
            out[15] = FIELD_VALID | FIELD_IN_CDB;
            out[17] = field;
        }
        out
    }

    /// In the descriptor format, current error.
    pub fn encode_descriptor(&self) -> [u8; 8] {
        [RESPONSE_DESCRIPTOR_CURRENT, self.key as u8, self.additional.code, self.additional.qualifier, 0, 0, 0, 0]
    }

    /// From either format; `None` if it is neither or too short to hold a key.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let byte = |at: usize| data.get(at).copied().unwrap_or(0);
        match data.first()? & 0x7f {
            RESPONSE_FIXED_CURRENT | 0x71 if data.len() >= 3 => {
                let information = data.get(3..7).filter(|_| data[0] & INFORMATION_VALID != 0);
                let information = information.and_then(|raw| raw.try_into().ok()).map(u32::from_be_bytes);
                let field = (byte(15) & FIELD_VALID != 0).then(|| byte(17));
                let additional = AdditionalSense::of(byte(12), byte(13));
                Some(Self {
                    key: SenseKey::from_byte(data[2]),
                    additional,
                    information: information.map(u64::from),
                    field,
                })
            }
            RESPONSE_DESCRIPTOR_CURRENT | 0x73 if data.len() >= 4 => {
                Some(Self::new(SenseKey::from_byte(data[1]), AdditionalSense::of(data[2], data[3])))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.key, self.additional)?;
        if let Some(field) = self.field {
            write!(f, " (byte {field})")?;
        }
        Ok(())
    }
}

const RESPONSE_FIXED_CURRENT: u8 = 0x70;
const RESPONSE_DESCRIPTOR_CURRENT: u8 = 0x72;
const INFORMATION_VALID: u8 = 0x80;
const FIELD_VALID: u8 = 0x80;
const FIELD_IN_CDB: u8 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_survives_both_formats_and_short_data_is_refused() {
        let sense = Sense { information: Some(77), ..Sense::invalid_field(2) };
        assert_eq!(Sense::parse(&sense.encode()), Some(sense));
        let plain = Sense::new(SenseKey::NotReady, AdditionalSense::NOT_READY);
        assert_eq!(Sense::parse(&plain.encode_descriptor()), Some(plain));
        for length in 0..3 {
            assert_eq!(Sense::parse(&sense.encode()[..length]), None);
        }
    }
}
