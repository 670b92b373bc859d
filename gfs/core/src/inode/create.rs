//! Making inodes, and giving them further names.

use gfs_format::dinode::{PAYLOAD_DIRECTORY, flags};
use gfs_format::{InodeNumberPair, MetaType};

use super::attr::{check_name, lifetime};
use super::block::{DinodeBlock, kind};
use crate::alloc::GroupEdit;
use crate::api::{Caller, Entry, InodeRef, Lifetime, NewInode};
use crate::dir;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Contents, GlockKey, RequestClass};

/// `DT_DIR`.
const ENTRY_DIRECTORY: u8 = 4;

impl Fs {
    /// Makes an inode named `name` in `dir`.
    pub async fn create(&self, caller: Caller, dir: InodeRef, name: &[u8], new: NewInode) -> Result<Entry> {
        self.check_writable()?;
        check_name(name)?;
        if let NewInode::Symlink { target } = &new
            && target.len() as u64 > self.block_size().stuffed_bytes()
        {
            return Err(Error::NameTooLong);
        }
        let dir_glock = self.inode_glock(dir.number.0);
        let dir_guard = dir_glock.exclusive(RequestClass::Passes).await?;
        let mut parent = self.inode(&dir_glock, dir).await?;
        self.check_new_name(&dir_glock, &parent, name).await?;
        let is_directory = matches!(new, NewInode::Directory { .. });
        if is_directory && parent.head().link_count.get() == u32::MAX {
            return Err(Error::TooManyLinks);
        }
        self.io(self.make_room(&dir_glock, &mut parent, name).await)?;
        let inherited = self.io(self.inherit(&dir_glock, &parent, &new, caller.umask).await)?;
        let goal = parent.head().goal_meta.get();
        let mut group = self.io(self.choose_group(goal.max(dir.number.0), 1 + inherited.blocks()).await)?;
        let (address, formal) = group.allocate_dinode(&self.log, goal).ok_or(Error::NoSpace)?;
        let allotment = inherited.allot(self, &mut group, address)?;
        // Nobody can hold the new inode's lock but whoever freed the block last, and that one
        // gives it up without waiting for anything.
        let glock = self.inode_glock(address);
        let guard = glock.exclusive(RequestClass::Ordinary).await?;
        glock.forget_former_life();
        let mut transaction = self.io(self.log.begin(group.log_blocks() + inherited.blocks() + 8).await)?;
        let inode = InodeNumberPair { formal: formal.into(), address: address.into() };
        let mut dinode = self.new_dinode(caller, &parent, inode, &new)?;
        self.io(self.add_entry(&dir_glock, &mut parent, &mut transaction, name, inode, dinode.entry_kind()).await)?;
        if is_directory {
            let head = parent.head_mut();
            head.link_count = (head.link_count.get() + 1).into();
        }
        inherited.write(&mut transaction, &glock, &mut dinode, allotment);
        transaction.put(&glock, address, dinode.to_bytes());
        transaction.put(&dir_glock, parent.address(), parent.to_bytes());
        group.finish(&mut transaction);
        transaction.end();
        glock.set_contents(match &new {
            NewInode::File { .. } => Contents::File,
            NewInode::Directory { .. } => Contents::Directory,
            NewInode::Symlink { .. } | NewInode::Special { .. } => Contents::Other,
        });
        self.caches.announce_name(dir.number.0, name);
        let name_lifetime = lifetime(&dir_glock, dir_glock.lifetime());
        drop(guard);
        drop(dir_guard);
        let attributes = dinode.attributes(self.block_size());
        Ok(Entry { attributes, name_lifetime, attributes_lifetime: Lifetime::None })
    }

    /// Checks that `name` may be added to `parent`.
    pub(crate) async fn check_new_name(
        &self,
        glock: &std::sync::Arc<crate::glock::Glock>,
        parent: &DinodeBlock,
        name: &[u8],
    ) -> Result<()> {
        check_parent(parent)?;
        if parent.head().entries.get() == u32::MAX {
            return Err(Error::NoSpace);
        }
        match self.find_entry(glock, parent, name).await? {
            Some(_) => Err(Error::Exists),
            None => Ok(()),
        }
    }

    pub(super) fn new_dinode(
        &self,
        caller: Caller,
        parent: &DinodeBlock,
        inode: InodeNumberPair,
        new: &NewInode,
    ) -> Result<DinodeBlock> {
        let now = self.wall_time();
        let parent_mode = parent.head().mode.get();
        let inherits_group = parent_mode & 0o2000 != 0;
        let mut dinode = DinodeBlock::new(self.block_size());
        let stuffed = self.block_size().stuffed_bytes();
        let head = dinode.head_mut();
        head.number = inode;
        head.uid = caller.uid.into();
        head.gid = if inherits_group { parent.head().gid } else { caller.gid.into() };
        head.link_count = 1.into();
        head.blocks = 1.into();
        head.generation = inode.formal;
        head.goal_meta = inode.address;
        head.goal_data = inode.address;
        for (seconds, nanos) in [
            (&mut head.atime, &mut head.atime_nanos),
            (&mut head.mtime, &mut head.mtime_nanos),
            (&mut head.ctime, &mut head.ctime_nanos),
        ] {
            *seconds = now.seconds.cast_unsigned().into();
            *nanos = now.nanos.into();
        }
        match new {
            NewInode::File { mode } => {
                head.mode = (kind::FILE | (mode & 0o7777)).into();
                if parent.head().flags.get() & flags::INHERIT_JDATA != 0 {
                    head.flags = flags::JDATA.into();
                }
            }
            NewInode::Special { mode, major, minor } => {
                head.mode = (*mode).into();
                head.device_major = (*major).into();
                head.device_minor = (*minor).into();
            }
            NewInode::Symlink { target } => {
                head.mode = (kind::SYMLINK | 0o777).into();
                head.size = (target.len() as u64).into();
                dinode.payload_mut()[..target.len()].copy_from_slice(target);
            }
            NewInode::Directory { mode } => {
                let group_bit = parent_mode & 0o2000;
                head.mode = (kind::DIRECTORY | (mode & 0o7777) | group_bit).into();
                head.link_count = 2.into();
                head.size = stuffed.into();
                head.entries = 2.into();
                head.payload_format = PAYLOAD_DIRECTORY.into();
                head.flags = (parent.head().flags.get() & flags::INHERIT_JDATA | flags::JDATA).into();
                let above = parent.head().number;
                dir::init(dinode.payload_mut(), &[(b".", inode), (b"..", above)], ENTRY_DIRECTORY)
                    .map_err(|_| Error::Invalid)?;
            }
        }
        Ok(dinode)
    }

    /// Gives `inode` the further name `name` in `dir`.
    pub async fn link(&self, inode: InodeRef, dir: InodeRef, name: &[u8]) -> Result<Entry> {
        self.check_writable()?;
        check_name(name)?;
        let dir_glock = self.inode_glock(dir.number.0);
        let glock = self.inode_glock(inode.number.0);
        if dir.number == inode.number {
            return Err(Error::NotPermitted);
        }
        let _dir_guard = dir_glock.exclusive(RequestClass::Passes).await?;
        let mut parent = self.inode(&dir_glock, dir).await?;
        self.check_new_name(&dir_glock, &parent, name).await?;
        let _guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(&glock, inode).await?;
        if dinode.is_directory() {
            return Err(Error::NotPermitted);
        }
        if dinode.head().flags.get() & (flags::IMMUTABLE | flags::APPEND_ONLY) != 0 {
            return Err(Error::NotPermitted);
        }
        let is_first_name = match dinode.head().link_count.get() {
            0 if self.unnamed().contains(&inode) => true,
            0 => return Err(Error::NotFound),
            u32::MAX => return Err(Error::TooManyLinks),
            _ => false,
        };
        self.io(self.make_room(&dir_glock, &mut parent, name).await)?;
        let mut groups = Vec::new();
        if is_first_name {
            groups = self.io(self.lock_groups_of(std::iter::once(dinode.address())).await)?;
        }
        let log_blocks = 8 + groups.iter().map(GroupEdit::log_blocks).sum::<u64>();
        let mut transaction = self.io(self.log.begin(log_blocks).await)?;
        let number = dinode.head().number;
        let entry_kind = dinode.entry_kind();
        self.io(self.add_entry(&dir_glock, &mut parent, &mut transaction, name, number, entry_kind).await)?;
        let head = dinode.head_mut();
        head.link_count = (head.link_count.get() + 1).into();
        dinode.touch(self.wall_time(), false);
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.put(&dir_glock, parent.address(), parent.to_bytes());
        for mut group in groups {
            group.mark_linked(dinode.address());
            group.finish(&mut transaction);
        }
        transaction.end();
        if is_first_name {
            self.unnamed().remove(&inode);
        }
        self.caches.announce_name(dir.number.0, name);
        let name_lifetime = lifetime(&dir_glock, dir_glock.lifetime());
        let attributes = dinode.attributes(self.block_size());
        Ok(Entry { attributes, name_lifetime, attributes_lifetime: Lifetime::None })
    }

    /// Counts an open of the inode: it is not freed while somebody has it open, on any node. An
    /// open for writing first makes sure that no page is cached which a mapping could dirty.
    pub async fn open(&self, inode: InodeRef, is_writable: bool) -> Result<()> {
        if is_writable {
            self.check_writable()?;
        }
        let glock = self.inode_glock(inode.number.0);
        let iopen = self.glocks.get(GlockKey::iopen(inode.number.0)).shared(RequestClass::Ordinary).await?;
        let found = {
            let guard = glock.shared(RequestClass::Passes).await?;
            self.inode(guard.glock(), inode).await.and_then(|dinode| {
                let is_immutable = dinode.head().flags.get() & flags::IMMUTABLE != 0;
                if is_writable && is_immutable { Err(Error::NotPermitted) } else { Ok(()) }
            })
        };
        if let Err(error) = found {
            let iopen_glock = iopen.glock().clone();
            drop(iopen);
            if error == Error::Stale {
                iopen_glock.settle().await?;
                // Whoever tried to free what has the block now found it open, by us.
                self.free_unlinked_at(inode.number, None).await?;
            }
            return Err(error);
        }
        glock.add_open(iopen);
        if is_writable && let Err(error) = glock.add_writer().await {
            self.close(inode).await;
            return Err(error);
        }
        Ok(())
    }

    /// Ends an open.
    pub async fn release(&self, inode: InodeRef, is_writable: bool) {
        let glock = self.inode_glock(inode.number.0);
        if is_writable {
            glock.remove_writer();
        }
        self.close(inode).await;
    }

    async fn close(&self, inode: InodeRef) {
        let glock = self.inode_glock(inode.number.0);
        let Some(iopen) = glock.remove_open() else { return };
        let iopen_glock = iopen.glock().clone();
        drop(iopen);
        if self.is_withdrawn() || self.is_read_only {
            return;
        }
        // The inode is looked at only when its iopen lock is really gone: whoever removes the last
        // name after that look can then free it.
        if iopen_glock.settle().await.is_err() {
            return;
        }
        if let Err(error) = self.free_if_unlinked(inode).await {
            tracing::warn!(inode = inode.number.0, %error, "an unlinked inode was not freed");
        }
    }

    /// Type check of a block that is about to be an inode's again; for callers that only have its
    /// address.
    pub(crate) async fn read_dinode_block(&self, glock: &std::sync::Arc<crate::glock::Glock>) -> Result<DinodeBlock> {
        let number = glock.key().number;
        let block = self.read_block(glock, number, MetaType::Dinode).await?;
        DinodeBlock::decode(&block, number, self.block_size())
    }
}

/// Checks that an inode can be made in `parent`.
pub(super) fn check_parent(parent: &DinodeBlock) -> Result<()> {
    if !parent.is_directory() {
        return Err(Error::NotDirectory);
    }
    if parent.head().link_count.get() == 0 {
        return Err(Error::NotFound);
    }
    match parent.head().flags.get() & flags::IMMUTABLE {
        0 => Ok(()),
        _ => Err(Error::NotPermitted),
    }
}
