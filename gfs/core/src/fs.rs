//! The mounted filesystem: what its operations share. Each operation lives with its subject
//! (`inode/`, `dir/`, `file/`); mounting and unmounting in `mount/`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use base::{BoxFuture, Host, Instant, WallTime};
use block_core::{BlockDevice, BlockError, ByteLen, ByteOffset};
use bytes::Bytes;
use dlm_api::LockManager;
use gfs_format::{BlockSize, MetaHeader, MetaType, Superblock};
use tracing::error;

use crate::alloc::{Group, GroupIndex};
use crate::api::InodeRef;
use crate::error::{Error, Result};
use crate::glock::{Contents, Glock, GlockKey, GlockKind, GlockOwner, GlockTable, Guard};
use crate::inode::DinodeBlock;
use crate::journal::Log;
use crate::ports::KernelCaches;

/// What a mount stands on.
#[derive(Clone)]
pub struct Ports {
    pub device: Arc<dyn BlockDevice>,
    pub locks: Arc<dyn LockManager>,
    pub host: Arc<dyn Host>,
    pub caches: Arc<dyn KernelCaches>,
}

/// Inodes of the filesystem itself that a running mount needs.
#[derive(Clone, Copy, Debug)]
pub struct SystemInodes {
    pub root: InodeRef,
    pub statfs: InodeRef,
}

/// A mounted filesystem. Its operations are futures that must be driven to their end: dropping
/// one half-way may leave half a change in the transaction.
pub struct Fs {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) caches: Arc<dyn KernelCaches>,
    pub(crate) superblock: Superblock,
    pub(crate) glocks: Arc<GlockTable>,
    pub(crate) log: Log,
    pub(crate) groups: GroupIndex,
    pub(crate) system: SystemInodes,
    pub(crate) is_read_only: bool,
    /// Held by whatever the mount does by itself, so that an unmount can wait for it.
    pub(crate) chores: tokio::sync::Mutex<()>,
    /// Access control lists are shown, inherited and changed.
    pub(crate) has_acls: bool,
    /// Files that were made without a name here, and have none yet.
    pub(crate) unnamed: Mutex<BTreeSet<InodeRef>>,
    pub(crate) is_withdrawn: AtomicBool,
    /// The first error that withdrew the mount.
    pub(crate) withdrawn_by: OnceLock<Error>,
    pub(crate) is_unmounted: AtomicBool,
    /// Held for the life of the mount: its journal, and that it is mounted.
    pub(crate) mount_guards: Mutex<Vec<Guard>>,
    /// Journal number.
    pub(crate) slot: u32,
}

impl Fs {
    pub(crate) fn block_size(&self) -> BlockSize {
        self.superblock.block_size()
    }

    pub(crate) fn wall_time(&self) -> WallTime {
        self.host.wall_time()
    }

    pub(crate) fn now(&self) -> Instant {
        self.host.now()
    }

    /// The root directory.
    pub fn root(&self) -> InodeRef {
        self.system.root
    }

    /// Number of the journal that this mount writes.
    pub fn journal_slot(&self) -> u32 {
        self.slot
    }

    /// Whether the mount has stopped after an error.
    pub fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Ordering::SeqCst) || self.log.is_broken()
    }

    /// Why it has stopped, once it has.
    pub fn why_withdrawn(&self) -> Option<String> {
        match self.withdrawn_by.get() {
            Some(error) => Some(error.to_string()),
            None => self.is_withdrawn().then(|| "a change was broken off half-way".to_owned()),
        }
    }

    /// Told of the error that an operation ended with: one that means that the disk, its content or
    /// the locks cannot be trusted stops the mount before it spreads.
    pub fn judge(&self, error: &Error) {
        let _ = self.found(error.clone());
    }

    /// One line per glock, for status.
    pub fn describe_glocks(&self) -> Vec<String> {
        self.glocks.all().iter().map(|glock| glock.describe()).collect()
    }

    pub(crate) fn unnamed(&self) -> MutexGuard<'_, BTreeSet<InodeRef>> {
        self.unnamed.lock().expect("invariant: no panic under this lock")
    }

    pub(crate) fn inode_glock(&self, number: u64) -> Arc<Glock> {
        self.glocks.get(GlockKey::inode(number))
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_withdrawn() {
            Err(Error::Withdrawn)
        } else if self.is_read_only {
            Err(Error::ReadOnly)
        } else {
            Ok(())
        }
    }

    /// Refuses blocks that cannot hold anything.
    pub(crate) fn check_range(&self, block: u64, count: u64) -> Result<()> {
        let blocks = self.device.geometry().size().0 / self.block_size().bytes();
        let first = gfs_format::superblock::SUPERBLOCK_OFFSET / self.block_size().bytes() + 1;
        match block.checked_add(count) {
            Some(end) if block >= first && end <= blocks => Ok(()),
            _ => Err(self.found(Error::Corrupt {
                block,
                expected: format!("a block between {first} and {blocks}"),
                found: format!("a pointer to {count} blocks at {block}"),
            })),
        }
    }

    /// Passes an error on; one that means that the disk or its content cannot be trusted stops
    /// the mount first, before it spreads.
    #[must_use]
    pub(crate) fn found(&self, error: Error) -> Error {
        match &error {
            Error::Corrupt { .. } | Error::Device(_) | Error::Lock(dlm_api::LockError::Unavailable { .. }) => {
                self.withdraw(&error);
            }
            _ => {}
        }
        error
    }

    /// Same for a result.
    pub(crate) fn io<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.found(error))
    }

    pub(crate) fn device_result<T>(&self, result: std::result::Result<T, BlockError>) -> Result<T> {
        self.io(result.map_err(Error::Device))
    }

    /// Stops writing, at once and for good.
    pub(crate) fn withdraw(&self, why: &Error) {
        self.log.stop();
        // Only the first is the cause; what follows are its consequences.
        let _ = self.withdrawn_by.set(why.clone());
        if !self.is_withdrawn.swap(true, Ordering::SeqCst) {
            error!(%why, "the mount withdraws: nothing is written any more; unmount it and mount it again");
        }
    }

    /// A metadata block of the given type. The caller holds the glock.
    pub(crate) async fn read_block(&self, glock: &Arc<Glock>, block: u64, kind: MetaType) -> Result<Bytes> {
        let cached = glock.blocks.lock().expect("invariant: no panic under this lock").get(&block).cloned();
        if let Some(bytes) = cached {
            return Ok(bytes);
        }
        if self.is_withdrawn() {
            return Err(Error::Withdrawn);
        }
        self.check_range(block, 1)?;
        let size = self.block_size().bytes();
        let read = self.device.read(ByteOffset(block * size), ByteLen(size)).await;
        let bytes = self.device_result(read)?;
        MetaHeader::check(&bytes, kind).map_err(|error| Error::Corrupt {
            block,
            expected: format!("a block of type {kind:?}"),
            found: error.to_string(),
        })?;
        // A copy: what was read may be a part of a much larger receive buffer.
        let bytes = Bytes::copy_from_slice(&bytes);
        glock.blocks.lock().expect("invariant: no panic under this lock").insert(block, bytes.clone());
        Ok(bytes)
    }

    /// Header and bitmaps of a resource group. The caller holds its glock.
    pub(crate) async fn read_group_blocks(&self, glock: &Arc<Glock>, group: &Group) -> Result<Vec<Bytes>> {
        let numbers: Vec<u64> = (group.address..group.address + group.length).collect();
        let cached: Option<Vec<Bytes>> = {
            let blocks = glock.blocks.lock().expect("invariant: no panic under this lock");
            numbers.iter().map(|number| blocks.get(number).cloned()).collect()
        };
        if let Some(blocks) = cached {
            return Ok(blocks);
        }
        let size = self.block_size();
        let read =
            self.device.read(ByteOffset(group.address * size.bytes()), ByteLen(group.length * size.bytes())).await;
        let bytes = self.device_result(read)?;
        let mut out = Vec::with_capacity(numbers.len());
        let mut blocks = glock.blocks.lock().expect("invariant: no panic under this lock");
        for (index, number) in numbers.iter().enumerate() {
            let slice = Bytes::copy_from_slice(&bytes[index * size.as_usize()..(index + 1) * size.as_usize()]);
            let kind = if index == 0 { MetaType::ResourceGroup } else { MetaType::ResourceGroupBitmap };
            MetaHeader::check(&slice, kind).map_err(|error| {
                self.found(Error::Corrupt {
                    block: *number,
                    expected: format!("a block of type {kind:?}"),
                    found: error.to_string(),
                })
            })?;
            // What is here already may be newer than the disk.
            out.push(blocks.entry(*number).or_insert(slice).clone());
        }
        Ok(out)
    }

    /// The inode that a caller remembers, checked against what is there now. The caller holds the
    /// glock.
    pub(crate) async fn inode(&self, glock: &Arc<Glock>, inode: InodeRef) -> Result<DinodeBlock> {
        if self.is_withdrawn() {
            return Err(Error::Withdrawn);
        }
        let number = inode.number.0;
        let block = match self.read_block(glock, number, MetaType::Dinode).await {
            // Freed and used for something else.
            Err(Error::Corrupt { block, .. }) if block == number => return Err(Error::Stale),
            other => other?,
        };
        if MetaHeader::check(&block, MetaType::Dinode).is_err() {
            return Err(Error::Stale);
        }
        let dinode = self.io(DinodeBlock::decode(&block, number, self.block_size()))?;
        let head = dinode.head();
        if head.number.formal.get() != inode.generation || head.link_count.get() == 0 && glock.opens() == 0 {
            return Err(Error::Stale);
        }
        glock.set_contents(if dinode.is_directory() {
            Contents::Directory
        } else if dinode.is_file() {
            Contents::File
        } else {
            Contents::Other
        });
        Ok(dinode)
    }
}

impl GlockOwner for Fs {
    fn sync_glock<'a>(&'a self, glock: &'a Arc<Glock>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.is_withdrawn() {
                return Err(Error::Withdrawn);
            }
            match glock.key().kind {
                GlockKind::Inode | GlockKind::ResourceGroup => match self.log.sync_glock(glock).await {
                    // The unmount has put everything in place already.
                    Err(Error::Withdrawn) if self.log.is_closed() => Ok(()),
                    other => self.io(other),
                },
                GlockKind::Nondisk | GlockKind::IOpen | GlockKind::Journal => Ok(()),
            }
        })
    }

    fn is_withdrawn(&self) -> bool {
        Fs::is_withdrawn(self)
    }
}
