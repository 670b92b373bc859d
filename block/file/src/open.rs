//! Opening a file or a block device, and saying clearly why it cannot be opened.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use block_core::{ByteLen, Geometry};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use crate::direct::ALIGNMENT;
use crate::system;

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Size that a file gets which is not there yet or is empty. One with content keeps its size.
    pub create_size: Option<ByteLen>,
    /// Sector of a regular file in bytes; a block device has its own.
    pub sector: u32,
    /// Bypass the page cache (O_DIRECT).
    pub direct: bool,
    /// Refuse if somebody else has it open this way: O_EXCL on a block device (which also refuses
    /// mounted ones), an advisory lock (flock) on a file, a shared one if `read_only`.
    pub exclusive: bool,
    /// Try small requests on the caller's thread first, where the page cache can answer without
    /// waiting. Ignored with `direct`.
    pub inline: bool,
    /// Direct requests go through io_uring, if the kernel has it.
    pub ring: bool,
    /// Threads for requests that block, at most.
    pub threads_max: usize,
}

impl Default for OpenOptions {
    /// Read-write, exclusive, buffered, sectors of 512 bytes, nothing created.
    fn default() -> Self {
        Self {
            read_only: false,
            create_size: None,
            sector: 512,
            direct: false,
            exclusive: true,
            inline: true,
            ring: true,
            threads_max: 8,
        }
    }
}

/// Why a device could not be opened.
#[derive(Debug)]
pub struct OpenError {
    pub path: PathBuf,
    pub cause: OpenErrorCause,
}

/// What was wrong.
#[derive(Debug)]
pub enum OpenErrorCause {
    NotFound,
    IsDirectory,
    /// Neither a regular file nor a block device.
    NotADisk,
    /// No permission, for reading only or at all.
    Denied {
        read_only: bool,
    },
    /// It can only be read: its filesystem or the device is read-only.
    ReadOnly,
    /// Another process has it open exclusively, or it is mounted.
    InUse,
    /// It has not even one sector.
    Empty {
        sector: u32,
    },
    BadSector {
        sector: u32,
    },
    /// No O_DIRECT here, or only in units larger than the sector (0: not at all).
    NoDirect {
        unit: u32,
        sector: u32,
    },
    NoSpace {
        size: ByteLen,
    },
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use OpenErrorCause::*;
        write!(f, "{}: ", self.path.display())?;
        match &self.cause {
            NotFound => write!(f, "there is no such file or device"),
            IsDirectory => write!(f, "it is a directory"),
            NotADisk => write!(f, "it is neither a regular file nor a block device"),
            Denied { read_only: true } => write!(f, "no permission to read it"),
            Denied { read_only: false } => write!(f, "no permission to write it"),
            ReadOnly => write!(f, "it can only be read"),
            InUse => write!(f, "it is in use by another process or mounted"),
            Empty { sector } => write!(f, "it is empty (it has not one sector of {sector} bytes)"),
            BadSector { sector } => write!(f, "a sector of {sector} bytes: it is a power of two from 512 to 65536"),
            NoDirect { unit: 0, .. } => write!(f, "its filesystem does not support direct I/O"),
            NoDirect { unit, sector } => {
                write!(f, "direct I/O works in units of {unit} bytes here, its sector has {sector}")
            }
            NoSpace { size } => write!(f, "there is no room to create it with {size}"),
            Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open file with what keeps others out.
pub enum Handle {
    Plain(File),
    Locked(Flock<File>),
}

impl Handle {
    pub fn file(&self) -> &File {
        match self {
            Handle::Plain(file) => file,
            Handle::Locked(file) => file,
        }
    }
}

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Device,
}

/// Opens and measures.
pub fn open(path: &Path, options: &OpenOptions) -> Result<(Handle, Kind, Geometry), OpenError> {
    open_or_cause(path, options).map_err(|cause| OpenError { path: path.to_owned(), cause })
}

fn open_or_cause(path: &Path, options: &OpenOptions) -> Result<(Handle, Kind, Geometry), OpenErrorCause> {
    if !options.sector.is_power_of_two() || !(512..=65536).contains(&options.sector) {
        return Err(OpenErrorCause::BadSector { sector: options.sector });
    }
    let fail = |error| cause_of(error, options);
    // Looked at before it is opened: opening a FIFO or a tape has effects.
    let kind = match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Err(OpenErrorCause::IsDirectory),
        Ok(found) if found.file_type().is_block_device() => Kind::Device,
        Ok(found) if found.is_file() => Kind::File,
        Ok(_) => return Err(OpenErrorCause::NotADisk),
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_create(options) => Kind::File,
        Err(error) => return Err(fail(error)),
    };
    let mut flags = libc::O_CLOEXEC | if options.direct { libc::O_DIRECT } else { 0 };
    if kind == Kind::Device && options.exclusive {
        flags |= libc::O_EXCL;
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .create(kind == Kind::File && may_create(options))
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .map_err(fail)?;
    let handle = if kind == Kind::File && options.exclusive { lock(file, options)? } else { Handle::Plain(file) };
    let geometry = measure(handle.file(), kind, options)?;
    if options.direct {
        check_direct(handle.file(), geometry.sector).map_err(|error| error.unwrap_or_else(fail))?;
    }
    Ok((handle, kind, geometry))
}

fn may_create(options: &OpenOptions) -> bool {
    options.create_size.is_some() && !options.read_only
}

fn lock(file: File, options: &OpenOptions) -> Result<Handle, OpenErrorCause> {
    let wanted = if options.read_only { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
    match Flock::lock(file, wanted) {
        Ok(locked) => Ok(Handle::Locked(locked)),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(OpenErrorCause::InUse),
        Err((_, error)) => Err(OpenErrorCause::Io(error.into())),
    }
}

/// Whether it lies in a filesystem that has no disk below it.
pub fn is_in_memory(handle: &Handle) -> bool {
    fstatfs(handle.file()).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

/// Size and sector now; a file that is to be created gets its size first.
pub fn measure(file: &File, kind: Kind, options: &OpenOptions) -> Result<Geometry, OpenErrorCause> {
    let fail = |error| cause_of(error, options);
    let (mut size, sector) = match kind {
        Kind::Device => system::block_device_geometry(file).map_err(fail)?,
        Kind::File => (file.metadata().map_err(fail)?.len(), options.sector),
    };
    if let (0, Kind::File, false, Some(wanted)) = (size, kind, options.read_only, options.create_size) {
        file.set_len(wanted.0).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EFBIG | libc::EDQUOT) => OpenErrorCause::NoSpace { size: wanted },
            Some(_) | None => OpenErrorCause::Io(error),
        })?;
        size = wanted.0;
    }
    // Like the kernel's loop device: an incomplete last sector is not part of the disk.
    let sectors = size / u64::from(sector);
    if sectors == 0 {
        return Err(OpenErrorCause::Empty { sector });
    }
    Ok(Geometry { sector, sectors })
}

/// `Err(Ok(cause))` is what we say, `Err(Err(error))` what the system said.
fn check_direct(file: &File, sector: u32) -> Result<(), Result<OpenErrorCause, io::Error>> {
    match system::direct_alignment(file).map_err(Err)? {
        None => Ok(()),
        Some((memory, unit)) if unit == 0 || unit > sector || memory as usize > ALIGNMENT => {
            Err(Ok(OpenErrorCause::NoDirect { unit: unit.max(memory), sector }))
        }
        Some(_) => Ok(()),
    }
}

fn cause_of(error: io::Error, options: &OpenOptions) -> OpenErrorCause {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV) => OpenErrorCause::NotFound,
        Some(libc::EISDIR) => OpenErrorCause::IsDirectory,
        Some(libc::EACCES | libc::EPERM) => OpenErrorCause::Denied { read_only: options.read_only },
        Some(libc::EROFS) => OpenErrorCause::ReadOnly,
        Some(libc::EBUSY | libc::ETXTBSY) => OpenErrorCause::InUse,
        Some(libc::EINVAL) if options.direct => OpenErrorCause::NoDirect { unit: 0, sector: options.sector },
        Some(libc::ENOSPC) => OpenErrorCause::NoSpace { size: options.create_size.unwrap_or_default() },
        Some(_) | None => OpenErrorCause::Io(error),
    }
}
