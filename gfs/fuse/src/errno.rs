//! What a request that fails is to a process. The only place where the two meet.

use block_core::BlockError;
use dlm_api::LockError;
use gfs_core::Error;
use nix::errno::Errno;

/// Why a request is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The filesystem says so.
    Filesystem(Error),
    /// A node that the kernel was not given, or has forgotten.
    UnknownNode,
    /// A handle that is not open.
    UnknownHandle,
    /// Flags that this operation does not have.
    UnknownFlags,
    /// Another node was faster: the kernel looks the name up again, checks what is there now, and
    /// asks anew.
    LookAgain,
    /// No such name, and nothing that may be remembered about it.
    NoName,
    /// The kernel does it itself, or does without, and does not ask again.
    KernelDoesIt,
    /// A command that is not one of a filesystem's.
    UnknownCommand,
    /// The answer is longer than the caller has room for.
    NoRoom,
    /// The file may only be appended to.
    AppendOnly,
    /// Not for this filesystem.
    NotSupported,
    /// The kernel does not ask for this in this way.
    Misplaced,
}

impl Refusal {
    /// The error number.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Filesystem(error) => of_filesystem(error),
            Self::UnknownNode | Self::LookAgain => Errno::ESTALE,
            Self::UnknownHandle => Errno::EBADF,
            Self::UnknownFlags => Errno::EINVAL,
            Self::NoName => Errno::ENOENT,
            Self::UnknownCommand => Errno::ENOTTY,
            Self::NoRoom => Errno::ERANGE,
            Self::AppendOnly => Errno::EPERM,
            Self::KernelDoesIt => Errno::ENOSYS,
            Self::NotSupported => Errno::EOPNOTSUPP,
            Self::Misplaced => Errno::EIO,
        }
    }
}

impl From<Error> for Refusal {
    /// An error that is nobody's daily business is logged with its cause, which its number hides.
    fn from(error: Error) -> Refusal {
        if of_filesystem(&error) == Errno::EIO {
            tracing::error!(%error, "an operation failed");
        }
        Refusal::Filesystem(error)
    }
}

fn of_filesystem(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotDirectory => Errno::ENOTDIR,
        Error::IsDirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::Invalid => Errno::EINVAL,
        Error::Stale => Errno::ESTALE,
        Error::TooManyLinks => Errno::EMLINK,
        Error::FileTooLarge => Errno::EFBIG,
        Error::ReadOnly => Errno::EROFS,
        Error::NotPermitted => Errno::EPERM,
        Error::AccessDenied => Errno::EACCES,
        Error::NoXattr => Errno::ENODATA,
        Error::XattrTooLarge => Errno::ERANGE,
        Error::AclTooLong => Errno::E2BIG,
        Error::BeyondEnd => Errno::ENXIO,
        Error::NotSupported { .. } => Errno::EOPNOTSUPP,
        Error::NoSpace => Errno::ENOSPC,
        Error::Corrupt { .. } | Error::Withdrawn => Errno::EIO,
        Error::Device(error) => of_device(error),
        Error::Lock(error) => of_lock(error),
        Error::Mount { .. } => Errno::EINVAL,
    }
}

fn of_device(error: &BlockError) -> Errno {
    match error {
        BlockError::NoSpace => Errno::ENOSPC,
        BlockError::ReadOnly => Errno::EROFS,
        BlockError::Misaligned { .. }
        | BlockError::OutOfRange { .. }
        | BlockError::Fenced
        | BlockError::Unsupported { .. }
        | BlockError::Unavailable { .. }
        | BlockError::Io { .. } => Errno::EIO,
    }
}

fn of_lock(error: &LockError) -> Errno {
    match error {
        LockError::WouldBlock => Errno::EAGAIN,
        LockError::Deadlock => Errno::EDEADLK,
        LockError::Cancelled => Errno::EINTR,
        LockError::Busy { .. } | LockError::UnknownLock { .. } | LockError::Unavailable { .. } => Errno::EIO,
    }
}
