//! `/dev/fuse`: one file per reader thread, all of one connection.
//!
//! A reply must be written to the file its request was read from; a notification may use any.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// An open `/dev/fuse`.
#[derive(Debug)]
pub struct Device(File);

mod ioctl {
    nix::ioctl_read!(fuse_dev_clone, 229, 0, u32);
}

impl Device {
    /// Opens it, close-on-exec; it has no connection until it is mounted or attached.
    pub fn open() -> io::Result<Device> {
        OpenOptions::new().read(true).write(true).open("/dev/fuse").map(Device)
    }

    /// Another file of the same connection, with a queue of its own.
    pub fn attach(&self) -> io::Result<Device> {
        let other = Device::open()?;
        let mut source = u32::try_from(self.0.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: FUSE_DEV_IOC_CLONE reads one u32, a descriptor of this process, through the
        // pointer, which is valid for the call; `other` is open for the call.
        unsafe { ioctl::fuse_dev_clone(other.0.as_raw_fd(), &mut source) }?;
        Ok(other)
    }

    /// The next request. The kernel wants room for its largest one.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// One reply or notification, whole.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.0).write_vectored(parts).map(|_| ())
    }

    pub fn raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
