//! Removing names, and freeing inodes that have none left and that nobody has open.

use std::sync::Arc;

use gfs_format::BlockState;
use gfs_format::dinode::flags;

use super::attr::check_name;
use super::block::DinodeBlock;
use crate::alloc::GroupEdit;
use crate::api::{InodeNumber, InodeRef};
use crate::dir::Place;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, GlockKey, RequestClass, State, nondisk};

impl Fs {
    /// Removes a name of a file.
    pub async fn unlink(&self, dir: InodeRef, name: &[u8]) -> Result<()> {
        self.remove_name(dir, name, false).await
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, dir: InodeRef, name: &[u8]) -> Result<()> {
        // Two directories are held at once: not while another node moves directories about.
        let rename = self.glocks.get(GlockKey::nondisk(nondisk::RENAME));
        let _no_moves = rename.shared(RequestClass::Ordinary).await?;
        self.remove_name(dir, name, true).await
    }

    async fn remove_name(&self, dir: InodeRef, name: &[u8], is_rmdir: bool) -> Result<()> {
        self.check_writable()?;
        check_name(name)?;
        let dir_glock = self.inode_glock(dir.number.0);
        let child = {
            let _dir_guard = dir_glock.exclusive(RequestClass::Passes).await?;
            let mut parent = self.inode(&dir_glock, dir).await?;
            if !parent.is_directory() {
                return Err(Error::NotDirectory);
            }
            let place = self.find_entry(&dir_glock, &parent, name).await?.ok_or(Error::NotFound)?;
            if parent.head().flags.get() & (flags::IMMUTABLE | flags::APPEND_ONLY) != 0 {
                return Err(Error::NotPermitted);
            }
            // A directory is taken after its parent only by those who hold off moves.
            if !is_rmdir && place.record.kind == ENTRY_DIRECTORY {
                return Err(Error::IsDirectory);
            }
            let child = reference(&place);
            if child.number == dir.number {
                return Err(self.found(names_itself(dir)));
            }
            let glock = self.inode_glock(child.number.0);
            let _guard = glock.exclusive(RequestClass::Passes).await?;
            let mut dinode = self.inode(&glock, child).await?;
            check_removal(&dinode, is_rmdir)?;
            let group = self.drop_link(&mut dinode).await?;
            let log_blocks = group.as_ref().map_or(0, |group| group.log_blocks()) + 8;
            let mut transaction = self.io(self.log.begin(log_blocks).await)?;
            self.io(self.remove_entry(&dir_glock, &mut parent, &mut transaction, &place).await)?;
            if is_rmdir {
                let head = parent.head_mut();
                head.link_count = head.link_count.get().saturating_sub(1).into();
            }
            transaction.put(&glock, dinode.address(), dinode.to_bytes());
            transaction.put(&dir_glock, parent.address(), parent.to_bytes());
            if let Some(group) = group {
                group.finish(&mut transaction);
            }
            transaction.end();
            child
        };
        self.free_if_unlinked(child).await
    }

    /// Takes one link from an inode (all of a directory's); with the last, its block is marked in
    /// the bitmap, so that it is found again if this node dies before it is freed.
    pub(crate) async fn drop_link(&self, dinode: &mut DinodeBlock) -> Result<Option<GroupEdit>> {
        let is_directory = dinode.is_directory();
        let head = dinode.head_mut();
        let left = if is_directory { 0 } else { head.link_count.get().saturating_sub(1) };
        head.link_count = left.into();
        dinode.touch(self.wall_time(), false);
        if left > 0 {
            return Ok(None);
        }
        let address = dinode.address();
        let mut groups = self.io(self.lock_groups_of(std::iter::once(address)).await)?;
        let mut group = groups.pop().expect("invariant: one block lies in one group");
        group.mark_unlinked(address);
        Ok(Some(group))
    }

    /// Frees an inode if it has no name and nobody has it open, here or elsewhere. Whoever closes
    /// it last frees it.
    pub(crate) async fn free_if_unlinked(&self, inode: InodeRef) -> Result<()> {
        self.free_unlinked_at(inode.number, Some(inode.generation)).await
    }

    /// The same for whichever inode has the block now, or for the one of this generation only.
    pub(crate) async fn free_unlinked_at(&self, number: InodeNumber, generation: Option<u64>) -> Result<()> {
        let glock = self.inode_glock(number.0);
        let iopen_glock = self.glocks.get(GlockKey::iopen(number.0));
        let guard = glock.exclusive(RequestClass::Ordinary).await?;
        let Ok(mut dinode) = self.read_dinode_block(&glock).await else { return Ok(()) };
        let is_ours = generation.is_none_or(|generation| dinode.head().number.formal.get() == generation);
        if !is_ours || dinode.head().link_count.get() > 0 || glock.opens() > 0 {
            return Ok(());
        }
        let iopen = match iopen_glock.try_exclusive().await {
            Ok(iopen) => iopen,
            Err(Error::Lock(dlm_api::LockError::WouldBlock)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_freed = self.io(self.free_inode(&glock, &mut dinode).await)?;
        let generation = dinode.head().number.formal.get();
        self.unnamed().remove(&InodeRef { number, generation });
        drop(iopen);
        drop(guard);
        if is_freed {
            // The lock is of no more use here, and the next owner of the block must not wait.
            iopen_glock.demote_soon(State::Unlocked);
        }
        Ok(())
    }

    /// False if it was freed before.
    async fn free_inode(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock) -> Result<bool> {
        let address = dinode.address();
        {
            let groups = self.lock_groups_of(std::iter::once(address)).await?;
            if groups[0].state(address) != BlockState::Unlinked {
                return Ok(false);
            }
        }
        if dinode.is_directory() {
            self.free_leaves(glock, dinode).await?;
        }
        self.free_range(glock, dinode, 0..u64::MAX).await?;
        self.free_xattrs(glock, dinode).await?;
        let mut groups = self.lock_groups_of(std::iter::once(address)).await?;
        let log_blocks = groups.iter().map(|group| group.log_blocks()).sum::<u64>() + 8;
        let mut transaction = self.log.begin(log_blocks).await?;
        for group in &mut groups {
            group.free_dinode(address);
        }
        self.forget_data(glock, &(0..u64::MAX), &mut transaction);
        transaction.bury(glock, address);
        for group in groups {
            group.finish(&mut transaction);
        }
        transaction.end();
        Ok(true)
    }
}

/// `DT_DIR`.
pub(crate) const ENTRY_DIRECTORY: u8 = 4;

/// An entry that leads back to its own directory.
pub(crate) fn names_itself(dir: InodeRef) -> Error {
    Error::Corrupt {
        block: dir.number.0,
        expected: "entries that name other inodes".into(),
        found: "one that names the directory itself".into(),
    }
}

/// The inode that an entry names.
pub(crate) fn reference(place: &Place) -> InodeRef {
    InodeRef { number: InodeNumber(place.record.inode.address.get()), generation: place.record.inode.formal.get() }
}

fn check_removal(dinode: &DinodeBlock, is_rmdir: bool) -> Result<()> {
    if dinode.head().flags.get() & (flags::IMMUTABLE | flags::APPEND_ONLY) != 0 {
        return Err(Error::NotPermitted);
    }
    match (is_rmdir, dinode.is_directory()) {
        (true, false) => Err(Error::NotDirectory),
        (false, true) => Err(Error::IsDirectory),
        (true, true) if !Fs::is_empty_directory(dinode) => Err(Error::NotEmpty),
        _ => Ok(()),
    }
}
