//! The flags that `chattr` shows and changes.

use gfs_format::dinode::flags as disk;

use crate::api::InodeRef;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::RequestClass;

/// Flags of an inode. All but `is_hashed` can be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InodeFlags {
    pub is_immutable: bool,
    pub is_append_only: bool,
    /// Reading does not change the access time.
    pub keeps_atime: bool,
    /// Every write is durable when it returns.
    pub is_synchronous: bool,
    /// A file's data goes through the journal; what is made in a directory is such a file.
    pub is_journaled: bool,
    /// A directory whose subdirectories have little to do with each other.
    pub is_top_directory: bool,
    /// A directory with a hash table.
    pub is_hashed: bool,
}

impl InodeFlags {
    /// From the flags of a dinode.
    fn decode(bits: u32, is_directory: bool) -> InodeFlags {
        let has = |flag| bits & flag != 0;
        InodeFlags {
            is_immutable: has(disk::IMMUTABLE),
            is_append_only: has(disk::APPEND_ONLY),
            keeps_atime: has(disk::NO_ATIME),
            is_synchronous: has(disk::SYNC),
            is_journaled: has(journaled(is_directory)),
            is_top_directory: is_directory && has(disk::TOP_DIRECTORY),
            is_hashed: is_directory && has(disk::EXHASH),
        }
    }

    /// The flags of a dinode that had `bits`.
    fn encode(self, bits: u32, is_directory: bool) -> u32 {
        let mut pairs = vec![
            (self.is_immutable, disk::IMMUTABLE),
            (self.is_append_only, disk::APPEND_ONLY),
            (self.keeps_atime, disk::NO_ATIME),
            (self.is_synchronous, disk::SYNC),
            (self.is_journaled, journaled(is_directory)),
        ];
        if is_directory {
            pairs.push((self.is_top_directory, disk::TOP_DIRECTORY));
        }
        pairs.iter().fold(bits, |bits, (is_set, flag)| if *is_set { bits | flag } else { bits & !flag })
    }
}

/// A directory's own content always goes through the journal: its flag is for what is made in it.
fn journaled(is_directory: bool) -> u32 {
    if is_directory { disk::INHERIT_JDATA } else { disk::JDATA }
}

impl Fs {
    /// Flags of an inode.
    pub async fn inode_flags(&self, inode: InodeRef) -> Result<InodeFlags> {
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.shared(RequestClass::Ordinary).await?;
        let dinode = self.inode(guard.glock(), inode).await?;
        Ok(InodeFlags::decode(dinode.head().flags.get(), dinode.is_directory()))
    }

    /// Sets the flags of a file or directory.
    pub async fn set_inode_flags(&self, inode: InodeRef, flags: InodeFlags) -> Result<()> {
        self.check_writable()?;
        let glock = self.inode_glock(inode.number.0);
        let guard = glock.exclusive(RequestClass::Passes).await?;
        let mut dinode = self.inode(guard.glock(), inode).await?;
        let is_directory = dinode.is_directory();
        if !is_directory && !dinode.is_file() {
            return Err(Error::NotSupported { what: "a flag on an inode that is not a file or directory" });
        }
        if flags.is_top_directory && !is_directory {
            return Err(Error::Invalid);
        }
        let old = dinode.head().flags.get();
        let new = flags.encode(old, is_directory);
        if new == old {
            return Ok(());
        }
        let mut transaction = self.io(self.log.begin(2).await)?;
        dinode.head_mut().flags = new.into();
        dinode.touch(self.wall_time(), false);
        transaction.put(&glock, dinode.address(), dinode.to_bytes());
        transaction.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_users_do_not_see_are_kept() {
        let hidden = disk::EXHASH | disk::EA_INDIRECT | disk::JDATA | disk::SYSTEM;
        let flags = InodeFlags { is_immutable: true, is_journaled: true, ..InodeFlags::default() };
        let bits = flags.encode(hidden | disk::SYNC, true);
        assert_eq!(bits, hidden | disk::IMMUTABLE | disk::INHERIT_JDATA);
        assert_eq!(InodeFlags::decode(bits, true), InodeFlags { is_hashed: true, ..flags });
    }
}
