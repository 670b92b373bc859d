//! Why a unit could not be connected to.

use std::fmt;
use std::io;
use std::time::Duration;

use block_core::ReservationKey;
use iscsi_target_proto::initiator::CloseReason;
use iscsi_target_proto::pdu::LoginStatus;

use crate::name::NameError;
use crate::secrets::SecretsError;

/// Why connecting failed.
#[derive(Debug)]
pub enum ConnectError {
    /// There is no usable initiator name.
    Name(NameError),
    /// No random bytes for the session identifier.
    Random(io::Error),
    /// `connect` was called outside of a tokio runtime and got none.
    NoRuntime,
    /// There is a user and no usable secret.
    Secrets(SecretsError),
    /// The host's name is not known, nobody listens, or the way there is broken.
    Unreachable { portal: String, error: io::Error },
    /// Nothing was heard within the limit.
    TimedOut { portal: String, limit: Duration },
    /// The session ended before it was of use.
    Session { target: String, reason: CloseReason },
    /// The target has no such logical unit.
    NoSuchLun { target: String, lun: u16 },
    /// The unit is not a disk.
    NotADisk { device_type: u8 },
    /// The size or the block length makes no sense, or the block length is not a power of two from 512 to 65536.
    BadCapacity { what: String },
    /// A question about the unit was refused.
    Refused { question: &'static str, answer: String },
    /// The unit is reserved for others (RESERVATION CONFLICT).
    Fenced,
    /// This process had registered a key, and after a reconnection the unit does not have it any more.
    KeyMissing { key: ReservationKey },
    /// After a reconnection there is another unit in the place of this one.
    Replaced { what: &'static str },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "{error}"),
            Self::Random(error) => write!(f, "cannot read random bytes for a session identifier: {error}"),
            Self::NoRuntime => write!(f, "connecting needs a tokio runtime"),
            Self::Secrets(error) => write!(f, "{error}"),
            Self::Unreachable { portal, error } => write!(f, "cannot connect to {portal}: {error}"),
            Self::TimedOut { portal, limit } => {
                write!(f, "{portal} did not answer within {} seconds", limit.as_secs_f64())
            }
            Self::Session { target, reason } => {
                write!(f, "{target}: {reason}")?;
                match reason {
                    CloseReason::LoginRefused { status, .. } if *status == LoginStatus::AUTHENTICATION_FAILURE => {
                        write!(f, "; it wants a CHAP user and secret, other ones, or none")
                    }
                    _ => Ok(()),
                }
            }
            Self::NoSuchLun { target, lun } => write!(f, "{target} has no logical unit {lun}"),
            Self::NotADisk { device_type } => {
                write!(f, "the logical unit is not a disk (peripheral device type {device_type:#04x})")
            }
            Self::BadCapacity { what } => write!(f, "the logical unit cannot be used: {what}"),
            Self::Refused { question, answer } => write!(f, "the logical unit refused {question}: {answer}"),
            Self::Fenced => write!(f, "the logical unit is reserved and this initiator is not among its registrants"),
            Self::KeyMissing { key } => write!(
                f,
                "RESERVATION CONFLICT: the logical unit no longer has this node's registration key {key}; the node was \
                 fenced while it was away, and writes no more"
            ),
            Self::Replaced { what } => write!(f, "another logical unit answers in its place: its {what} differs"),
        }
    }
}

impl std::error::Error for ConnectError {}
