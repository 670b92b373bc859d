//! fallocate: holes punched, and blocks given ahead of writes.

use gfs_core::{Error, InodeRef, SizeChange};

use super::Process;
use crate::checkers::content::ContentOperation;
use crate::checkers::tree::Attempt;

impl Process {
    pub async fn punch_hole(&self, inode: InodeRef, offset: u64, len: u64) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("punch", inode);
        match self.node.fs.punch_hole(inode, offset, len).await {
            Ok(()) => {
                self.node.history.content(started, inode, ContentOperation::Punch { offset, len });
                Ok(())
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }

    pub async fn allocate(&self, inode: InodeRef, offset: u64, len: u64, size: SizeChange) -> Result<(), Error> {
        let _own = self.own(inode).await;
        let _change = self.change(&[inode]);
        let started = self.start("allocate", inode);
        match self.node.fs.allocate(inode, offset, len, size).await {
            Ok(()) => {
                let to = if size == SizeChange::Grow { offset + len } else { 0 };
                self.node.history.content(started, inode, ContentOperation::Extend { to });
                Ok(())
            }
            Err(error) => self.refused(started, Attempt::Touch { inode }, error),
        }
    }
}
