//! Looking names up, and reading and setting attributes.

use gfs_format::dinode::flags;

use super::block::kind;
use crate::api::{Attributes, AttributesReply, Entry, InodeNumber, InodeRef, Lifetime, Lookup, SetAttributes, SetTime};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Glock, RequestClass};
use crate::xattr::{Allotment, Store};

/// How often a lookup is repeated when the inode it found is gone before it could be read.
const LOOKUP_RETRIES: u32 = 16;

pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > gfs_format::geometry::NAME_MAX {
        return Err(Error::NameTooLong);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Invalid);
    }
    Ok(())
}

/// Refuses what the flags of an inode forbid. Set-user-id goes with a write that was allowed.
fn check_flags(bits: u32, changes: &SetAttributes) -> Result<()> {
    let is_explicit = |time: Option<SetTime>| matches!(time, Some(SetTime::To(_)));
    let changes_inode = changes.mode.is_some() || changes.uid.is_some() || changes.gid.is_some();
    let sets_times = is_explicit(changes.atime) || is_explicit(changes.mtime);
    let touches = changes.atime.is_some() || changes.mtime.is_some();
    let is_forbidden = (changes_inode || changes.size.is_some() || sets_times)
        && bits & (flags::IMMUTABLE | flags::APPEND_ONLY) != 0
        || touches && bits & flags::IMMUTABLE != 0;
    if is_forbidden { Err(Error::NotPermitted) } else { Ok(()) }
}

/// The lifetime of an answer that a glock justified when `token` was taken.
pub(crate) fn lifetime(glock: &Glock, token: Option<u64>) -> Lifetime {
    match token {
        Some(token) if glock.is_current(token) => Lifetime::WhileHeld,
        _ => Lifetime::None,
    }
}

impl Fs {
    /// Looks `name` up in `dir`.
    pub async fn lookup(&self, dir: InodeRef, name: &[u8]) -> Result<Lookup> {
        check_name(name)?;
        let dir_glock = self.inode_glock(dir.number.0);
        for _ in 0..LOOKUP_RETRIES {
            let (token, found) = {
                let guard = dir_glock.shared(RequestClass::Passes).await?;
                let dinode = self.inode(guard.glock(), dir).await?;
                if !dinode.is_directory() {
                    return Err(Error::NotDirectory);
                }
                let found = self.find_entry(&dir_glock, &dinode, name).await?;
                // Announced first: a drain that begins from here on knows of the name.
                self.caches.announce_name(dir.number.0, name);
                (dir_glock.lifetime(), found)
            };
            let Some(place) = found else { return Ok(Lookup::Missing(lifetime(&dir_glock, token))) };
            let inode = InodeRef {
                number: InodeNumber(place.record.inode.address.get()),
                generation: place.record.inode.formal.get(),
            };
            self.check_range(inode.number.0, 1)?;
            match self.getattr_class(inode, RequestClass::Passes).await {
                Ok(reply) => {
                    return Ok(Lookup::Found(Entry {
                        attributes: reply.attributes,
                        name_lifetime: lifetime(&dir_glock, token),
                        attributes_lifetime: reply.lifetime,
                    }));
                }
                // Removed since the directory was read: look again.
                Err(Error::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Stale)
    }

    /// Attributes of an inode.
    pub async fn getattr(&self, inode: InodeRef) -> Result<AttributesReply> {
        self.getattr_class(inode, RequestClass::Ordinary).await
    }

    async fn getattr_class(&self, inode: InodeRef, class: RequestClass) -> Result<AttributesReply> {
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(class).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        self.caches.announce_attributes(inode.number.0);
        let token = glock.lifetime();
        let attributes = dinode.attributes(self.block_size());
        Ok(AttributesReply { attributes, lifetime: lifetime(&glock, token) })
    }

    /// Changes attributes, and the size with the file's blocks.
    pub async fn setattr(&self, inode: InodeRef, changes: SetAttributes) -> Result<Attributes> {
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        // The kernel holds off write-back while it truncates.
        let class = if changes.size.is_some() { RequestClass::Passes } else { RequestClass::Ordinary };
        let guard = glock.exclusive(class).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        check_flags(dinode.head().flags.get(), &changes)?;
        if let Some(size) = changes.size {
            if !dinode.is_file() {
                return Err(if dinode.is_directory() { Error::IsDirectory } else { Error::Invalid });
            }
            self.drop_capability(&glock, &mut dinode).await?;
            self.io(self.set_size(&glock, &mut dinode, size).await)?;
        }
        let lists = match changes.mode {
            Some(mode) => self.io(self.plan_chmod(&glock, &dinode, mode).await)?,
            None => None,
        };
        let now = self.wall_time();
        let mut transaction = self.io(self.log.begin(2 + lists.as_ref().map_or(0, Store::log_blocks)).await)?;
        if let Some(lists) = lists {
            lists.write(&mut transaction, &glock, &mut dinode, Allotment::default());
        }
        let is_directory = dinode.is_directory();
        let head = dinode.head_mut();
        if let Some(mode) = changes.mode {
            head.mode = ((head.mode.get() & kind::MASK) | (mode & 0o7777)).into();
        }
        if changes.clear_suid && !is_directory {
            let mode = head.mode.get();
            // Set-group-id without group execution marks mandatory locking, not a program.
            let group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
            head.mode = (mode & !(0o4000 | group)).into();
        }
        if let Some(uid) = changes.uid {
            head.uid = uid.into();
        }
        if let Some(gid) = changes.gid {
            head.gid = gid.into();
        }
        let resolve = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::To(time) => time,
        };
        if let Some(time) = changes.atime.map(resolve) {
            head.atime = time.seconds.cast_unsigned().into();
            head.atime_nanos = time.nanos.into();
        }
        if let Some(time) = changes.mtime.map(resolve) {
            head.mtime = time.seconds.cast_unsigned().into();
            head.mtime_nanos = time.nanos.into();
        }
        dinode.touch(now, false);
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(dinode.attributes(self.block_size()))
    }

    /// Target of a symbolic link.
    pub async fn readlink(&self, inode: InodeRef) -> Result<Vec<u8>> {
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Passes).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        if !dinode.is_symlink() {
            return Err(Error::Invalid);
        }
        let end = dinode.head().size.get();
        if end > self.block_size().bytes() {
            return Err(self.found(Error::Corrupt {
                block: dinode.address(),
                expected: "a symbolic link's target of at most a block".into(),
                found: format!("{end} bytes"),
            }));
        }
        Ok(self.read_data(&glock, &dinode, 0, end).await?.to_vec())
    }

    /// Makes the inode's changes durable.
    pub async fn fsync(&self, inode: InodeRef, _data_only: bool) -> Result<()> {
        if self.is_withdrawn() {
            return Err(Error::Withdrawn);
        }
        let glock = self.inode_glock(inode.number.0);
        self.io(self.log.sync_inode(&glock).await)
    }

    /// Makes everything durable.
    pub async fn sync(&self) -> Result<()> {
        for glock in self.glocks.all() {
            let is_dirty = glock.data.lock().expect("invariant: no panic under this lock").dirty() > 0;
            if is_dirty {
                self.io(crate::file::write_back(&self.device, self.block_size(), &glock).await)?;
            }
        }
        self.io(self.log.flush().await)?;
        let flushed = self.device.flush().await;
        self.device_result(flushed)
    }
}
