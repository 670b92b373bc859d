//! What an error of the filesystem is to a process. The only place where the two meet.

use block_core::BlockError;
use dlm_api::LockError;
use gfs_core::Error;
use nix::errno::Errno;

/// The errno of an error.
pub fn errno(error: &Error) -> Errno {
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
