//! Why a peer's bytes were refused. Every variant names one cause and carries the numbers needed to find it.
//!
//! A [`ProtocolError`] always ends the connection: at ErrorRecoveryLevel 0 there is nothing to resynchronise to.

use std::fmt;

use crate::serial::SerialNumber;

/// What the peer did that the protocol, or a limit we declared, forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A data segment longer than we declared to take.
    OversizedData { opcode: u8, length: u32, limit: u32 },
    /// Additional header segments longer than any that are defined.
    OversizedAdditionalHeader { opcode: u8, length: u32, limit: u32 },
    /// The header's CRC32C is wrong.
    HeaderDigest { computed: u32, received: u32 },
    /// The data segment's CRC32C is wrong.
    DataDigest { opcode: u8, computed: u32, received: u32 },
    /// A PDU that has no place in this phase or on this side.
    UnexpectedPdu { opcode: u8, phase: &'static str },
    /// A field of a header holds a value that is not allowed there.
    BadField { pdu: &'static str, field: &'static str, value: u64 },
    /// A PDU refers to a task that does not exist.
    UnknownTask { pdu: &'static str, tag: u32 },
    /// A task tag is used again while its task lives.
    TagInUse { tag: u32 },
    /// Data for a task lies outside of what was asked for.
    DataOutOfRange { tag: u32, offset: u32, length: u32, allowed_from: u32, allowed_to: u32 },
    /// A sequence number is not the next one.
    OutOfSequence { what: &'static str, expected: SerialNumber, received: SerialNumber },
    /// Login or text parameters are not `key=value` pairs, or hold a key or value that is too long.
    BadText { at_byte: usize, what: &'static str },
    /// Login or text parameters go on for longer than the limit.
    OversizedText { length: usize, limit: usize },
    /// A key was answered with a value that was not offered, or that is out of its range.
    BadValue { key: String, value: String },
    /// More of something than the session allows at once.
    TooMany { what: &'static str, limit: usize },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OversizedData { opcode, length, limit } => {
                write!(f, "a PDU of opcode {opcode:#04x} announces {length} bytes of data, the limit is {limit}")
            }
            Self::OversizedAdditionalHeader { opcode, length, limit } => {
                write!(
                    f,
                    "a PDU of opcode {opcode:#04x} announces {length} bytes of additional headers, the limit is {limit}"
                )
            }
            Self::HeaderDigest { computed, received } => {
                write!(f, "header digest is {received:#010x}, computed {computed:#010x}")
            }
            Self::DataDigest { opcode, computed, received } => {
                write!(f, "data digest of a PDU of opcode {opcode:#04x} is {received:#010x}, computed {computed:#010x}")
            }
            Self::UnexpectedPdu { opcode, phase } => {
                write!(f, "a PDU of opcode {opcode:#04x} has no place in the {phase}")
            }
            Self::BadField { pdu, field, value } => write!(f, "{pdu}: field {field} must not be {value:#x}"),
            Self::UnknownTask { pdu, tag } => write!(f, "{pdu} names task {tag:#010x}, which does not exist"),
            Self::TagInUse { tag } => write!(f, "task tag {tag:#010x} is used again while its task lives"),
            Self::DataOutOfRange { tag, offset, length, allowed_from, allowed_to } => write!(
                f,
                "task {tag:#010x}: {length} bytes of data at offset {offset}, expected within {allowed_from}..{allowed_to}"
            ),
            Self::OutOfSequence { what, expected, received } => write!(f, "{what} is {received}, expected {expected}"),
            Self::BadText { at_byte, what } => write!(f, "parameters are malformed at byte {at_byte}: {what}"),
            Self::OversizedText { length, limit } => write!(f, "parameters of {length} bytes, the limit is {limit}"),
            Self::BadValue { key, value } => write!(f, "{key}={value} is not a value this key can have here"),
            Self::TooMany { what, limit } => write!(f, "more than {limit} {what} at once"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// A [`ProtocolError`] and how far into the connection's stream it was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    /// Bytes of the stream before the PDU that was refused.
    pub at_byte: u64,
    pub cause: ProtocolError,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PDU at byte {} of the stream: {}", self.at_byte, self.cause)
    }
}

impl std::error::Error for WireError {}
