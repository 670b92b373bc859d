//! Getting, listing, setting and removing extended attributes.

use std::sync::Arc;

use gfs_format::dinode::flags;
use gfs_format::{MetaHeader, MetaType, eattr};

use super::disk::corrupt;
use super::name::{XattrName, XattrSpace};
use super::store::Store;
use crate::api::{AclKind, InodeRef};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::inode::DinodeBlock;

/// What a set expects (`XATTR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrWrite {
    Any,
    /// Only if there is none of that name.
    Create,
    /// Only if there is one.
    Replace,
}

/// First filesystem format with the trusted namespace.
const FORMAT_TRUSTED: u32 = 1802;

impl Fs {
    /// Value of an extended attribute.
    pub async fn get_xattr(&self, inode: InodeRef, name: &XattrName) -> Result<Vec<u8>> {
        self.check_space(name.space)?;
        let glock = self.inode_glock(inode.number.0);
        // Parked while the glock is drained: the kernel keeps access control lists.
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        if name.space == XattrSpace::System {
            if AclKind::of_xattr(name).is_none() {
                return Err(not_a_list());
            }
            self.check_acls()?;
            self.caches.announce_attributes(inode.number.0);
        }
        let value = self.io(self.find_xattr(&glock, &dinode, name).await)?;
        value.ok_or(Error::NoXattr)
    }

    /// Names of an inode's extended attributes.
    pub async fn list_xattrs(&self, inode: InodeRef) -> Result<Vec<XattrName>> {
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        let mut names = Vec::new();
        for number in self.io(self.record_blocks(&glock, &dinode).await)? {
            let block = self.io(self.read_block(&glock, number, MetaType::ExtendedAttribute).await)?;
            for record in eattr::records(&block[size_of::<MetaHeader>()..]) {
                let record = self.io(record.map_err(|error| corrupt(number, &error)))?;
                if let Some(space) = XattrSpace::of_kind(record.header.kind) {
                    names.push(XattrName { space, name: record.name.to_vec() });
                }
            }
        }
        Ok(names)
    }

    /// The value of an attribute, if there is one. The caller holds the glock.
    pub(super) async fn find_xattr(
        &self,
        glock: &Arc<Glock>,
        dinode: &DinodeBlock,
        name: &XattrName,
    ) -> Result<Option<Vec<u8>>> {
        for number in self.record_blocks(glock, dinode).await? {
            let block = self.read_block(glock, number, MetaType::ExtendedAttribute).await?;
            for record in eattr::records(&block[size_of::<MetaHeader>()..]) {
                let record = record.map_err(|error| corrupt(number, &error))?;
                if record.header.kind != name.space.kind() || record.name != name.name {
                    continue;
                }
                let pointers: Vec<u64> = record.pointers().collect();
                if pointers.is_empty() {
                    return Ok(Some(record.value.to_vec()));
                }
                let value_len = record.header.value_len.get() as usize;
                return self.read_value(glock, &pointers, value_len).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Sets an extended attribute. Access control lists are set by `set_acl`.
    pub async fn set_xattr(&self, inode: InodeRef, name: &XattrName, value: &[u8], mode: XattrWrite) -> Result<()> {
        self.check_change(name)?;
        let glock = self.inode_glock(inode.number.0);
        let stale = if self.log.faults().stale_xattrs { self.stale_store(&glock, inode).await } else { None };
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_flags(&dinode)?;
        let mut store = match stale {
            Some(stale) => stale,
            None => self.io(self.load_xattrs(&glock, &dinode).await)?,
        };
        match (mode, store.has(name)) {
            (XattrWrite::Create, true) => return Err(Error::Exists),
            (XattrWrite::Replace, false) => return Err(Error::NoXattr),
            (XattrWrite::Any, _) | (XattrWrite::Create, false) | (XattrWrite::Replace, true) => {}
        }
        store.set(name, value)?;
        let now = self.wall_time();
        self.io(self.write_xattrs(&glock, &mut dinode, store, |dinode| dinode.touch(now, false)).await)
    }

    async fn stale_store(&self, glock: &Arc<Glock>, inode: InodeRef) -> Option<Store> {
        let guard = glock.shared(RequestClass::Ordinary).await.ok()?;
        let dinode = self.inode(guard.glock(), inode).await.ok()?;
        self.load_xattrs(glock, &dinode).await.ok()
    }

    /// Removes an extended attribute. Access control lists are removed by `remove_acl`.
    pub async fn remove_xattr(&self, inode: InodeRef, name: &XattrName) -> Result<()> {
        self.check_change(name)?;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_flags(&dinode)?;
        if self.remove_held(&glock, &mut dinode, name).await? { Ok(()) } else { Err(Error::NoXattr) }
    }

    /// Removes an attribute; false if there is none. The caller holds the glock exclusively.
    pub(super) async fn remove_held(
        &self,
        glock: &Arc<Glock>,
        dinode: &mut DinodeBlock,
        name: &XattrName,
    ) -> Result<bool> {
        let mut store = self.io(self.load_xattrs(glock, dinode).await)?;
        if !store.remove(name) {
            return Ok(false);
        }
        let now = self.wall_time();
        self.io(self.write_xattrs(glock, dinode, store, |dinode| dinode.touch(now, false)).await)?;
        Ok(true)
    }

    /// A file whose content changes loses its capabilities. The caller holds the glock exclusively.
    pub(crate) async fn drop_capability(&self, glock: &Arc<Glock>, dinode: &mut DinodeBlock) -> Result<()> {
        if dinode.head().eattr.get() != 0 {
            let name = XattrName::capability();
            if self.io(self.find_xattr(glock, dinode, &name).await)?.is_some() {
                self.remove_held(glock, dinode, &name).await?;
            }
        }
        Ok(())
    }

    fn check_change(&self, name: &XattrName) -> Result<()> {
        self.check_space(name.space)?;
        self.check_writable()?;
        if name.space == XattrSpace::System {
            return Err(not_a_list());
        }
        Ok(())
    }

    fn check_space(&self, space: XattrSpace) -> Result<()> {
        if space == XattrSpace::Trusted && self.superblock.fs_format.get() < FORMAT_TRUSTED {
            return Err(Error::NotSupported { what: "a trusted attribute before filesystem format 1802" });
        }
        Ok(())
    }
}

fn not_a_list() -> Error {
    Error::NotSupported { what: "an attribute of the system that is not an access control list" }
}

pub(super) fn check_flags(dinode: &DinodeBlock) -> Result<()> {
    match dinode.head().flags.get() & (flags::IMMUTABLE | flags::APPEND_ONLY) {
        0 => Ok(()),
        _ => Err(Error::NotPermitted),
    }
}
