//! Access control lists on inodes: setting them, and what creation and chmod do with them.

use std::sync::Arc;

use super::acl::Acl;
use super::disk::Allotment;
use super::name::{ACL_ACCESS, ACL_DEFAULT, XattrName, XattrSpace};
use super::ops::check_flags;
use super::store::Store;
use crate::alloc::GroupEdit;
use crate::api::{AclKind, InodeRef, NewInode, SetAcl};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;
use crate::journal::Transaction;

/// Entries of a list: so many at 4096 bytes a block, fewer in smaller blocks.
const ENTRIES_MAX_AT_4096: u64 = 300;

impl AclKind {
    /// The attribute that holds the list.
    fn xattr(self) -> XattrName {
        let name = match self {
            AclKind::Access => ACL_ACCESS,
            AclKind::Default => ACL_DEFAULT,
        };
        XattrName { space: XattrSpace::System, name: name.to_vec() }
    }

    /// The kind of list that an attribute holds.
    pub fn of_xattr(name: &XattrName) -> Option<AclKind> {
        [AclKind::Access, AclKind::Default].into_iter().find(|kind| kind.xattr() == *name)
    }
}

/// The lists and the mode of a new inode.
pub(crate) struct Inherited {
    /// Permission bits that the lists leave, in place of those that were asked for.
    mode: Option<u32>,
    store: Store,
}

impl Fs {
    /// Sets an access control list; the mode follows an access list. An empty one is removed, and
    /// so is one that the mode alone expresses.
    pub async fn set_acl(&self, inode: InodeRef, kind: AclKind, change: SetAcl<'_>) -> Result<()> {
        self.check_acls()?;
        self.check_writable()?;
        let list = Acl::parse(change.list)?;
        let entries_max = (ENTRIES_MAX_AT_4096 << self.block_size().shift()) >> 12;
        if list.as_ref().is_some_and(|list| list.len() as u64 > entries_max) {
            return Err(Error::AclTooLong);
        }
        let Some(list) = list else { return self.remove_acl(inode, kind).await };
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_flags(&dinode)?;
        if dinode.is_symlink() {
            return Err(Error::NotSupported { what: "an access control list on a symbolic link" });
        }
        let mut mode = dinode.head().mode.get();
        let mut is_needed = true;
        match kind {
            AclKind::Default if !dinode.is_directory() => return Err(Error::AccessDenied),
            AclKind::Default => {}
            AclKind::Access => {
                let shown = list.mode();
                is_needed = !shown.is_all;
                mode = mode & !0o777 | shown.mode;
                if change.clears_set_group_id {
                    mode &= !0o2000;
                }
            }
        }
        let mut store = self.io(self.load_xattrs(&glock, &dinode).await)?;
        match is_needed {
            true => store.set(&kind.xattr(), &list.to_bytes())?,
            false => drop(store.remove(&kind.xattr())),
        }
        let now = self.wall_time();
        let change = |dinode: &mut DinodeBlock| {
            dinode.head_mut().mode = mode.into();
            dinode.touch(now, false);
        };
        self.io(self.write_xattrs(&glock, &mut dinode, store, change).await)
    }

    /// Removes an access control list, if there is one. The mode stays.
    pub async fn remove_acl(&self, inode: InodeRef, kind: AclKind) -> Result<()> {
        self.check_acls()?;
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_flags(&dinode)?;
        self.remove_held(&glock, &mut dinode, &kind.xattr()).await.map(drop)
    }

    pub(super) fn check_acls(&self) -> Result<()> {
        match self.has_acls {
            true => Ok(()),
            false => Err(Error::NotSupported { what: "an access control list on a mount without -o acl" }),
        }
    }

    /// What a chmod to `mode` makes of the access list: a store to be written with the mode, in
    /// blocks that the inode has. `None` without a list.
    pub(crate) async fn plan_chmod(
        &self,
        glock: &Arc<Glock>,
        dinode: &DinodeBlock,
        mode: u32,
    ) -> Result<Option<Store>> {
        if !self.has_acls || dinode.head().eattr.get() == 0 {
            return Ok(None);
        }
        let name = AclKind::Access.xattr();
        let Some(value) = self.find_xattr(glock, dinode, &name).await? else { return Ok(None) };
        let Some(mut list) = self.stored(dinode, &value)? else { return Ok(None) };
        list.set_mode(mode);
        let mut store = self.load_xattrs(glock, dinode).await?;
        // As long as the old one, so it takes the place of that.
        store.set(&name, &list.to_bytes())?;
        Ok(Some(store))
    }

    /// What a new inode in `parent` inherits. Its permissions are limited by the directory's
    /// default list, or where there is none by the caller's umask.
    pub(crate) async fn inherit(
        &self,
        glock: &Arc<Glock>,
        parent: &DinodeBlock,
        new: &NewInode,
        umask: u32,
    ) -> Result<Inherited> {
        let mut store = Store::new(self.block_size());
        let (asked, is_directory) = match new {
            NewInode::Symlink { .. } => return Ok(Inherited { mode: None, store }),
            NewInode::Directory { mode } => (*mode, true),
            NewInode::File { mode } | NewInode::Special { mode, .. } => (*mode, false),
        };
        let mut default = None;
        if self.has_acls && parent.head().eattr.get() != 0 {
            default = self.find_xattr(glock, parent, &AclKind::Default.xattr()).await?;
        }
        let list = match &default {
            Some(value) => self.stored(parent, value)?,
            None => None,
        };
        let Some(list) = list else { return Ok(Inherited { mode: Some(asked & 0o777 & !umask), store }) };
        let bytes = list.to_bytes();
        let (own, left) = list.inherit(asked);
        if is_directory {
            store.set(&AclKind::Default.xattr(), &bytes)?;
        }
        if !left.is_all {
            store.set(&AclKind::Access.xattr(), &own.to_bytes())?;
        }
        Ok(Inherited { mode: Some(left.mode), store })
    }

    /// A list that was read from an inode.
    fn stored(&self, dinode: &DinodeBlock, value: &[u8]) -> Result<Option<Acl>> {
        Acl::parse(value).map_err(|_| Error::Corrupt {
            block: dinode.address(),
            expected: "a valid access control list".into(),
            found: format!("another {} bytes", value.len()),
        })
    }
}

impl Inherited {
    /// Blocks beside the dinode.
    pub fn blocks(&self) -> u64 {
        self.store.new_count as u64
    }

    /// Takes the blocks from the new inode's group.
    pub fn allot(&self, fs: &Fs, group: &mut GroupEdit, inode: u64) -> Result<Allotment> {
        Allotment::from_group(fs, &self.store, group, inode)
    }

    /// Puts the lists into the transaction that makes the inode, and the permissions into it.
    pub fn write(
        self,
        transaction: &mut Transaction<'_>,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        allotment: Allotment,
    ) {
        if let Some(permissions) = self.mode {
            let head = dinode.head_mut();
            head.mode = (head.mode.get() & !0o777 | permissions).into();
        }
        self.store.write(transaction, glock, dinode, allotment);
    }
}
