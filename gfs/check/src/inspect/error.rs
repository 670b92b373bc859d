//! Why a look at a filesystem ended early.

use std::fmt;

use gfs_format::validate::Invalid;
use gfs_format::{directory, eattr};

use crate::source::CheckError;

/// What stood in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectError {
    /// The device, or no filesystem on it.
    Check(CheckError),
    Invalid(Invalid),
    /// A record of a directory or of an attribute block.
    DirectoryRecord {
        block: u64,
        error: directory::RecordError,
    },
    AttributeRecord {
        block: u64,
        error: eattr::RecordError,
    },
    /// A number that is no block of the device.
    OutOfDevice {
        block: u64,
        device_blocks: u64,
    },
    /// A walk met more blocks than there are: pointers that lead in circles.
    Endless {
        inode: u64,
        device_blocks: u64,
    },
    NotADirectory {
        inode: u64,
        mode: u32,
    },
    /// No entry of that name.
    NoEntry {
        directory: u64,
        name: Vec<u8>,
    },
    /// A system file that the master directory does not have.
    NoSystemFile {
        name: &'static str,
    },
    /// The resource index has an odd length or no entry.
    Index {
        inode: u64,
        bytes: u64,
    },
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(error) => write!(f, "{error}"),
            Self::Invalid(error) => write!(f, "{error}"),
            Self::DirectoryRecord { block, error } => write!(f, "block {block}: {error}"),
            Self::AttributeRecord { block, error } => write!(f, "block {block}: {error}"),
            Self::OutOfDevice { block, device_blocks } => {
                write!(f, "block {block}: expected a block of the device, 0 to {}", device_blocks.saturating_sub(1))
            }
            Self::Endless { inode, device_blocks } => write!(
                f,
                "block {inode}: expected an inode with at most the device's {device_blocks} blocks, found pointers to more"
            ),
            Self::NotADirectory { inode, mode } => {
                write!(f, "block {inode}: expected a directory, found mode 0{mode:o}")
            }
            Self::NoEntry { directory, name } => {
                write!(f, "no entry \"{}\" in the directory at block {directory}", name.escape_ascii())
            }
            Self::NoSystemFile { name } => write!(f, "the master directory has no {name}"),
            Self::Index { inode, bytes } => {
                write!(f, "block {inode}: expected a resource index of entries of 96 bytes, found {bytes} bytes")
            }
        }
    }
}

impl std::error::Error for InspectError {}

impl From<CheckError> for InspectError {
    fn from(error: CheckError) -> InspectError {
        InspectError::Check(error)
    }
}

impl From<Invalid> for InspectError {
    fn from(error: Invalid) -> InspectError {
        InspectError::Invalid(error)
    }
}
