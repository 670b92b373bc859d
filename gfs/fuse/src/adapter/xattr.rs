//! Extended attributes, access control lists, inode flags, and seeking for holes.

use std::sync::Arc;

use gfs_core::{AclKind, InodeRef, SeekFor, SetAcl, XattrName, XattrWrite};
use zerocopy::{FromBytes, IntoBytes};

use super::{Parts, Result};
use crate::answer::Answer;
use crate::convert;
use crate::errno::Refusal;
use crate::wire::{self, ioctl};

impl Parts {
    pub(super) async fn get_xattr(self: Arc<Self>, node: u64, name: Vec<u8>, len_max: u32) -> Result<Answer> {
        let value = self.fs.get_xattr(self.inode(node)?, &XattrName::parse(&name)?).await?;
        sized(value, len_max)
    }

    pub(super) async fn list_xattrs(self: Arc<Self>, node: u64, len_max: u32) -> Result<Answer> {
        let mut list = Vec::new();
        for name in self.fs.list_xattrs(self.inode(node)?).await? {
            list.extend(name.spelt());
            list.push(0);
        }
        sized(list, len_max)
    }

    pub(super) async fn set_xattr(
        self: Arc<Self>,
        node: u64,
        name: Vec<u8>,
        value: Vec<u8>,
        flags: u32,
        kills_sgid: bool,
    ) -> Result<Answer> {
        let (inode, name) = (self.inode(node)?, XattrName::parse(&name)?);
        if let Some(kind) = AclKind::of_xattr(&name) {
            let change = SetAcl { list: &value, clears_set_group_id: kills_sgid };
            self.fs.set_acl(inode, kind, change).await?;
            return Ok(Answer::Empty);
        }
        const CREATE: u32 = libc::XATTR_CREATE.cast_unsigned();
        const REPLACE: u32 = libc::XATTR_REPLACE.cast_unsigned();
        let mode = match flags {
            0 => XattrWrite::Any,
            CREATE => XattrWrite::Create,
            REPLACE => XattrWrite::Replace,
            _ => return Err(Refusal::UnknownFlags),
        };
        self.fs.set_xattr(inode, &name, &value, mode).await?;
        Ok(Answer::Empty)
    }

    pub(super) async fn remove_xattr(self: Arc<Self>, node: u64, name: Vec<u8>) -> Result<Answer> {
        let (inode, name) = (self.inode(node)?, XattrName::parse(&name)?);
        match AclKind::of_xattr(&name) {
            Some(kind) => self.fs.remove_acl(inode, kind).await?,
            None => self.fs.remove_xattr(inode, &name).await?,
        }
        Ok(Answer::Empty)
    }

    /// The flags of `chattr`. The kernel opens the inode for the call, and has checked who may.
    pub(super) async fn ioctl(
        self: Arc<Self>,
        node: u64,
        command: u32,
        input: Vec<u8>,
        len_max: u32,
    ) -> Result<Answer> {
        let inode = self.inode(node)?;
        let output = match command {
            ioctl::GET_FLAGS => {
                let flags = convert::fs_flags(self.fs.inode_flags(inode).await?);
                // The kernel asks for 4 bytes, whatever the command's number says.
                flags.as_bytes().to_vec()
            }
            ioctl::SET_FLAGS => {
                let (bits, _) = u32::read_from_prefix(&input).map_err(|_| Refusal::UnknownFlags)?;
                let flags = convert::inode_flags(bits).ok_or(Refusal::UnknownFlags)?;
                self.fs.set_inode_flags(inode, flags).await?;
                Vec::new()
            }
            ioctl::GET_XFLAGS => {
                let xflags = convert::xflags(self.fs.inode_flags(inode).await?);
                wire::FsXattr { xflags, ..Default::default() }.as_bytes().to_vec()
            }
            ioctl::SET_XFLAGS => {
                let (asked, _) = wire::FsXattr::read_from_prefix(&input).map_err(|_| Refusal::UnknownFlags)?;
                let old = self.fs.inode_flags(inode).await?;
                let flags = convert::with_xflags(old, &asked).ok_or(Refusal::NotSupported)?;
                self.fs.set_inode_flags(inode, flags).await?;
                Vec::new()
            }
            _ => return Err(Refusal::UnknownCommand),
        };
        if output.len() > len_max as usize {
            return Err(Refusal::NoRoom);
        }
        Ok(Answer::Ioctl(output))
    }

    pub(super) async fn seek(self: Arc<Self>, handle: u64, offset: u64, whence: u32) -> Result<Answer> {
        const DATA: u32 = libc::SEEK_DATA.cast_unsigned();
        const HOLE: u32 = libc::SEEK_HOLE.cast_unsigned();
        let wanted = match whence {
            DATA => SeekFor::Data,
            HOLE => SeekFor::Hole,
            _ => return Err(Refusal::UnknownFlags),
        };
        let inode = self.handle(handle)?.inode();
        Ok(Answer::Offset(self.fs.seek(inode, offset, wanted).await?))
    }

    /// The kernel does not know that a file may only be appended to.
    pub(super) async fn check_append_only(&self, inode: InodeRef, flags: u32) -> Result<()> {
        let has = |flag: i32| flags & flag.cast_unsigned() != 0;
        let can_write = flags & libc::O_ACCMODE.cast_unsigned() != libc::O_RDONLY.cast_unsigned();
        let may_overwrite = can_write && !has(libc::O_APPEND) || has(libc::O_TRUNC);
        if may_overwrite && self.fs.inode_flags(inode).await?.is_append_only {
            return Err(Refusal::AppendOnly);
        }
        Ok(())
    }
}

/// Bytes, or their number if the caller has asked for that.
fn sized(bytes: Vec<u8>, len_max: u32) -> Result<Answer> {
    let len = u32::try_from(bytes.len()).map_err(|_| Refusal::NoRoom)?;
    match len_max {
        0 => Ok(Answer::XattrSize(len)),
        _ if len > len_max => Err(Refusal::NoRoom),
        _ => Ok(Answer::Bytes(bytes.into())),
    }
}
