//! Opens a device by its name: a file, a block device, or a unit of an iSCSI target.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use block_core::{BlockDevice, DevName, DevNameError};
use block_file::{FileDevice, OpenErrorCause, OpenOptions};

use crate::error::MkfsError;

/// Why there is no device to write to.
#[derive(Debug)]
pub enum OpenError {
    Name(DevNameError),
    File(block_file::OpenError),
    /// A kind of device that this build cannot reach.
    Unreachable {
        what: &'static str,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "{error}"),
            // What scripts look for, in the words of the established tool.
            Self::File(block_file::OpenError { path, cause: OpenErrorCause::NotFound }) => {
                write!(f, "{}: No such file or directory", path.display())
            }
            Self::File(block_file::OpenError { path, cause: OpenErrorCause::IsDirectory }) => {
                write!(f, "{}: Is a directory", path.display())
            }
            Self::File(block_file::OpenError { path, cause: OpenErrorCause::NotADisk }) => {
                write!(f, "'{}' is not a block device or regular file", path.display())
            }
            Self::File(block_file::OpenError { cause: OpenErrorCause::Empty { .. }, .. }) => {
                write!(f, "{}", MkfsError::DoesNotFit)
            }
            Self::File(error) => write!(f, "{error}"),
            Self::Unreachable { what } => write!(f, "{what} cannot be reached from here yet"),
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// Whether the device is there and merely has no room.
    pub fn is_too_small(&self) -> bool {
        matches!(self, Self::File(block_file::OpenError { cause: OpenErrorCause::Empty { .. }, .. }))
    }
}

/// Parses a name as a user writes it.
pub fn parse(name: &str) -> Result<DevName, OpenError> {
    DevName::parse(name, Path::exists).map_err(OpenError::Name)
}

/// Whether `name` is a regular file.
pub fn is_file(name: &DevName) -> bool {
    matches!(name, DevName::Path(path) if path.is_file())
}

/// Opens `name` for writing; exclusively, so that a device in use on this machine is refused.
pub async fn open(name: &DevName) -> Result<Arc<dyn BlockDevice>, OpenError> {
    match name {
        DevName::Path(path) => {
            let device = FileDevice::open(path, OpenOptions::default()).map_err(OpenError::File)?;
            Ok(device)
        }
        DevName::Iscsi(_) => Err(OpenError::Unreachable { what: "an iSCSI target" }),
        DevName::Volume { .. } => Err(OpenError::Unreachable { what: "a logical volume" }),
    }
}
