//! Errors of the filesystem, by whose fault they are. The mapping to errno lives in gfs/fuse.

use std::fmt;

use block_core::BlockError;
use dlm_api::LockError;

/// Result of a filesystem operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The caller's: no such name.
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NameTooLong,
    /// An argument that no filesystem accepts (a rename into itself, a bad offset).
    Invalid,
    /// The inode was deleted, and its block may be another's now.
    Stale,
    /// The inode has as many links as it can have.
    TooManyLinks,
    /// Beyond the largest file.
    FileTooLarge,
    /// The mount or the volume is read-only.
    ReadOnly,
    /// Immutable or append-only by its flags.
    NotPermitted,
    /// Not for this kind of inode, or not for this caller.
    AccessDenied,
    /// No extended attribute of that name.
    NoXattr,
    /// A name or value of an extended attribute that is longer than any may be.
    XattrTooLarge,
    /// An access control list with more entries than the block size allows.
    AclTooLong,
    /// Nothing of what is looked for lies at or behind the offset.
    BeyondEnd,
    /// This build does not have it yet.
    NotSupported {
        what: &'static str,
    },
    /// No free block, or none left for the metadata that the change needs.
    NoSpace,
    /// What is on the disk cannot be: block, what was expected, what was found.
    Corrupt {
        block: u64,
        expected: String,
        found: String,
    },
    /// The mount has withdrawn; unmount and mount again.
    Withdrawn,
    /// The device failed; the mount withdraws.
    Device(BlockError),
    /// The lock manager cannot answer.
    Lock(LockError),
    /// The volume cannot be mounted as asked: what is wrong and what to do.
    Mount {
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => write!(f, "no such name"),
            Self::Exists => write!(f, "the name exists"),
            Self::NotDirectory => write!(f, "not a directory"),
            Self::IsDirectory => write!(f, "is a directory"),
            Self::NotEmpty => write!(f, "the directory is not empty"),
            Self::NameTooLong => write!(f, "the name is too long"),
            Self::Invalid => write!(f, "invalid argument"),
            Self::Stale => write!(f, "the inode was deleted"),
            Self::TooManyLinks => write!(f, "too many links"),
            Self::FileTooLarge => write!(f, "the file would be too large"),
            Self::ReadOnly => write!(f, "the filesystem is read-only"),
            Self::NotPermitted => write!(f, "the inode's flags forbid it"),
            Self::AccessDenied => write!(f, "not allowed for this inode"),
            Self::NoXattr => write!(f, "no such extended attribute"),
            Self::XattrTooLarge => write!(f, "the extended attribute is too large"),
            Self::AclTooLong => write!(f, "the access control list has too many entries"),
            Self::BeyondEnd => write!(f, "nothing at or behind the offset"),
            Self::NotSupported { what } => write!(f, "{what} is not supported"),
            Self::NoSpace => write!(f, "no space left on the filesystem"),
            Self::Corrupt { block, expected, found } => {
                write!(f, "block {block} is corrupt: expected {expected}, found {found}; unmount and run fsck")
            }
            Self::Withdrawn => write!(f, "the mount has withdrawn after an error; unmount and mount it again"),
            Self::Device(error) => write!(f, "{error}"),
            Self::Lock(error) => write!(f, "{error}"),
            Self::Mount { why } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<BlockError> for Error {
    fn from(error: BlockError) -> Error {
        Error::Device(error)
    }
}

impl From<LockError> for Error {
    fn from(error: LockError) -> Error {
        Error::Lock(error)
    }
}
