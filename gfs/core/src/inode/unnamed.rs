//! Files that are made without a name (O_TMPFILE): like one whose last name was removed while it is open, so that a
//! node that dies leaves nothing behind. Such a file may be given a name; one that has lost its names may not.

use gfs_format::InodeNumberPair;

use crate::api::{Attributes, Caller, InodeNumber, InodeRef, NewInode};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::glock::{Contents, GlockKey, RequestClass};

impl Fs {
    /// Makes a regular file that could be in `dir`. It is open once when this returns, for reading: the caller
    /// releases it.
    pub async fn create_unnamed(&self, caller: Caller, dir: InodeRef, mode: u32) -> Result<Attributes> {
        self.check_writable()?;
        let new = NewInode::File { mode };
        let dir_glock = self.inode_glock(dir.number.0);
        let _dir_guard = dir_glock.shared(RequestClass::Passes).await?;
        let parent = self.inode(&dir_glock, dir).await?;
        super::create::check_parent(&parent)?;
        let inherited = self.io(self.inherit(&dir_glock, &parent, &new, caller.umask).await)?;
        let goal = parent.head().goal_meta.get();
        let mut group = self.io(self.choose_group(goal.max(dir.number.0), 1 + inherited.blocks()).await)?;
        let (address, formal) = group.allocate_dinode(&self.log, goal).ok_or(Error::NoSpace)?;
        let allotment = inherited.allot(self, &mut group, address)?;
        group.mark_unlinked(address);
        // As when an inode is created: whoever had these for the block's former life gives them up.
        let glock = self.inode_glock(address);
        let _guard = glock.exclusive(RequestClass::Ordinary).await?;
        glock.forget_former_life();
        let iopen = self.glocks.get(GlockKey::iopen(address)).shared(RequestClass::Ordinary).await?;
        let number = InodeNumberPair { formal: formal.into(), address: address.into() };
        let mut dinode = self.new_dinode(caller, &parent, number, &new)?;
        dinode.head_mut().link_count = 0.into();
        let mut transaction = self.io(self.log.begin(group.log_blocks() + inherited.blocks() + 8).await)?;
        inherited.write(&mut transaction, &glock, &mut dinode, allotment);
        transaction.put(&glock, address, dinode.to_bytes());
        group.finish(&mut transaction);
        transaction.end();
        glock.set_contents(Contents::File);
        glock.add_open(iopen);
        self.unnamed().insert(InodeRef { number: InodeNumber(address), generation: formal });
        Ok(dinode.attributes(self.block_size()))
    }
}
