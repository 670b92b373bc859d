//! What we tell the kernel unasked. Any of these may block until requests that are under way are
//! answered: never call them from a thread that has to answer one, nor with a lock held that an
//! answer needs.

use std::io::{self, IoSlice};
use std::sync::Arc;

use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::device::Device;
use crate::wire::{self, OutHeader, notify};

/// Sends notifications of one connection; clones share it.
#[derive(Clone, Debug)]
pub struct Notifier {
    device: Arc<Device>,
    has_epoch: bool,
}

/// How a notification ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// The kernel did what it could; it does not say whether every page went.
    Done,
    /// The kernel has no such node or name.
    Unknown,
    /// The connection is gone, and its caches with it.
    Gone,
    /// This kernel does not have the notification.
    Unsupported,
    /// Another answer.
    Failed(Errno),
}

impl Notifier {
    pub(crate) fn new(device: Arc<Device>, minor: u32) -> Self {
        Self { device, has_epoch: minor >= wire::MINOR_EPOCH }
    }

    /// Whether `advance_epoch` works here.
    pub fn has_epoch(&self) -> bool {
        self.has_epoch
    }

    /// Drops the attributes of `node`. Takes no page lock.
    pub fn drop_attributes(&self, node: u64) -> Notified {
        self.drop_inode(node, -1, 0)
    }

    /// Drops the attributes of `node` and its pages in `len` bytes from `offset` on (0: all of the
    /// rest); dirty ones come back as WRITEs first. Waits for pages that are being read.
    pub fn drop_pages(&self, node: u64, offset: u64, len: u64) -> Notified {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        self.drop_inode(node, offset, i64::try_from(len).unwrap_or(0))
    }

    fn drop_inode(&self, ino: u64, off: i64, len: i64) -> Notified {
        self.send(notify::INVAL_INODE, wire::InvalInodeOut { ino, off, len }.as_bytes(), &[])
    }

    /// Drops `name` of the directory `parent`, found or missing. Waits while an operation on names
    /// of that directory is under way.
    pub fn drop_name(&self, parent: u64, name: &[u8]) -> Notified {
        self.entry(parent, name, 0)
    }

    /// As `drop_name`, but the kernel asks again rather than forget: what is mounted below stays.
    pub fn expire_name(&self, parent: u64, name: &[u8]) -> Notified {
        self.entry(parent, name, notify::EXPIRE_ONLY)
    }

    fn entry(&self, parent: u64, name: &[u8], flags: u32) -> Notified {
        let Ok(namelen) = u32::try_from(name.len()) else { return Notified::Failed(Errno::ENAMETOOLONG) };
        let head = wire::InvalEntryOut { parent, namelen, flags };
        self.send(notify::INVAL_ENTRY, head.as_bytes(), name)
    }

    /// Says that `name` of `parent`, which was `child`, has been removed.
    pub fn delete_name(&self, parent: u64, child: u64, name: &[u8]) -> Notified {
        let Ok(namelen) = u32::try_from(name.len()) else { return Notified::Failed(Errno::ENAMETOOLONG) };
        let head = wire::DeleteOut { parent, child, namelen, padding: 0 };
        self.send(notify::DELETE, head.as_bytes(), name)
    }

    /// Makes every name of the mount stale. Takes no lock; microseconds.
    pub fn advance_epoch(&self) -> Notified {
        if !self.has_epoch {
            return Notified::Unsupported;
        }
        self.send(notify::INC_EPOCH, &[], &[])
    }

    fn send(&self, code: i32, head: &[u8], name: &[u8]) -> Notified {
        let nul: &[u8] = if name.is_empty() { &[] } else { &[0] };
        let len = (size_of::<OutHeader>() + head.len() + name.len() + nul.len()) as u32;
        let header = OutHeader { len, error: code, unique: 0 };
        let parts = [header.as_bytes(), head, name, nul].map(IoSlice::new);
        // The kernel counts the segments it is given: leave empty ones out.
        let used: Vec<IoSlice<'_>> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        outcome(self.device.write(&used))
    }
}

fn outcome(written: io::Result<()>) -> Notified {
    match written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32))) {
        Ok(()) => Notified::Done,
        Err(Errno::ENOENT) => Notified::Unknown,
        Err(Errno::ENODEV | Errno::ENOTCONN | Errno::ECONNABORTED | Errno::EPERM) => Notified::Gone,
        Err(Errno::EINVAL | Errno::ENOSYS) => Notified::Unsupported,
        Err(other) => Notified::Failed(other),
    }
}
