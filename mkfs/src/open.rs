//! Opens a device by its name: a file, a block device, or a unit of an iSCSI target.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use block_core::{BlockDevice, DevName, DevNameError};
use block_file::{FileDevice, OpenErrorCause, OpenOptions};
use iscsi_target_initiator::{ConnectError, Initiator, IscsiDevice};

use crate::error::MkfsError;

/// Why there is no device to write to.
#[derive(Debug)]
pub enum OpenError {
    Name(DevNameError),
    File(block_file::OpenError),
    Iscsi {
        url: String,
        error: ConnectError,
    },
    ReadOnly {
        url: String,
    },
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
            Self::Iscsi { url, error } => write!(f, "{url}: {error}"),
            Self::ReadOnly { url } => write!(f, "{url}: it can only be read"),
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

/// An open device, and the session to end when the work is done.
pub struct Opened {
    pub device: Arc<dyn BlockDevice>,
    session: Option<Arc<IscsiDevice>>,
}

impl Opened {
    /// Lets go of the device; logs out of a target.
    pub async fn close(self) {
        drop(self.device);
        if let Some(session) = self.session {
            session.close().await;
        }
    }
}

/// Opens `name` for writing; exclusively, so that a device in use on this machine is refused.
pub async fn open(name: &DevName) -> Result<Opened, OpenError> {
    match name {
        DevName::Path(path) => {
            let device = FileDevice::open(path, OpenOptions::default()).map_err(OpenError::File)?;
            Ok(Opened { device, session: None })
        }
        DevName::Iscsi(url) => {
            let options = iscsi_target_initiator::Options::default();
            let session = Initiator::connect(url, options)
                .await
                .map_err(|error| OpenError::Iscsi { url: url.to_string(), error })?;
            if session.is_read_only() {
                session.close().await;
                return Err(OpenError::ReadOnly { url: url.to_string() });
            }
            Ok(Opened { device: session.clone(), session: Some(session) })
        }
        DevName::Volume { .. } => Err(OpenError::Unreachable { what: "a logical volume" }),
    }
}
